//! `espalier compress` as a user calls it: budgets, the receipt, and what is refused.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::{Path, PathBuf};

use espalier::checkpoint::Checkpoint;
use espalier_tests::command::{
    call, can_emulate, json, kill_when, project_of_the_example, workspace,
};
use serde_json::Value;
use tempfile::TempDir;

const PROJECT: &str = r#"
[data]
source = "."
validation = 0.25

[network]
layers = [
    { conv2d = { filters = 8, kernel = 3, activation = "relu" } },
    { max_pool2d = { kernel = 2 } },
    { conv2d = { filters = 12, kernel = 3, activation = "relu" }, batch_norm = true },
    { max_pool2d = { kernel = 2 } },
    { flatten = {} },
    { dense = { units = 16, activation = "relu" } },
    { dense = {} },
    { softmax = {} },
]

[train]
epochs = 20

[compress]
epochs = 4
trial_epochs = 1

[export]
prefer = "size"
"#;

/// A trained project of its own.
fn trained() -> (TempDir, PathBuf) {
    trained_as(PROJECT)
}

fn trained_as(project: &str) -> (TempDir, PathBuf) {
    let (folder, path) = project_of_the_example(project);
    let called = call(&path, ["train"]);
    assert!(called.success, "{}", called.stderr);
    (folder, path)
}

/// The project with another network.
fn with_layers(layers: &str) -> String {
    let (before, behind) = PROJECT.split_once("layers = [").unwrap();
    let (_, behind) = behind.split_once("\n]\n").unwrap();
    format!("{before}layers = [{layers}]\n{behind}")
}

fn compress<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["compress", "out/float.safetensors"], flags].concat()
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{pointer} is not there: {report}"))
}

#[test]
fn a_search_keeps_within_every_limit() {
    if !can_emulate("a_search_keeps_within_every_limit") {
        return;
    }
    let (_folder, path) = trained();
    let limits = [
        ("--target-params", "1200", "params"),
        ("--target-model-bytes", "1800", "model_bytes"),
        ("--target-flash", "44000", "on_chip/flash_bytes"),
        ("--target-ram", "7000", "on_chip/ram_bytes"),
        ("--target-instructions", "250000", "on_chip/instructions"),
    ];
    let flags = limits.iter().flat_map(|&(flag, most, _)| [flag, most]);
    let flags: Vec<&str> = flags.chain(["--max-drop", "100"]).collect();
    let report = json(&path, compress(&flags));
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["trained", "searched", "fine-tuned"]);
    for (flag, most, cost) in limits {
        let of_step = |step| number(&report, &format!("/steps/{step}/{cost}"));
        let (before, after, most) = (of_step(0), of_step(2), most.parse::<f64>().unwrap());
        assert!(
            before > most && after <= most,
            "{flag}: {before} to {after}"
        );
    }
    assert!(report["trials"].as_array().unwrap().len() > 3);
    let pareto = fs::read_to_string(path.join("out/pareto.svg")).unwrap();
    assert!(pareto.starts_with("<svg"));
    let receipt = fs::read_to_string(path.join("out/compress.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&receipt).unwrap(), report);
    // What was measured is what export writes.
    let exported = json(&path, ["export", "out/pruned.safetensors"]);
    let measured = number(&report, "/steps/2/model_bytes");
    assert_eq!(number(&exported, "/model_bytes"), measured);
}

#[test]
fn what_a_search_found_comes_again_without_it() {
    let (_folder, path) = trained();
    let targets = ["--target-model-bytes", "1800", "--max-drop", "100"];
    let searched = json(&path, compress(&targets));
    let recipe = comes_again(&path, &searched, &targets);
    assert!(recipe.contains_key("bits") || recipe.contains_key("share"));
}

#[test]
fn with_max_drop_alone_the_smallest_network_is_looked_for_and_tuned() {
    // Nothing to split: all that is chosen is how many channels are left.
    let layers = "
        { conv2d = { filters = 12, kernel = 3, stride = 2, activation = 'relu' } },
        { conv2d = { filters = 16, kernel = 1, activation = 'relu' } },
        { global_avg_pool2d = {} },
        { dense = {} },
        { softmax = {} },
    ";
    let (_folder, path) = trained_as(&with_layers(layers));
    let flags = ["--max-drop", "60"];
    let searched = json(&path, compress(&flags));
    let steps = searched["steps"].as_array().unwrap();
    let names: Vec<&Value> = steps.iter().map(|step| &step["name"]).collect();
    assert_eq!(names, ["trained", "searched", "fine-tuned"]);
    let recipe = comes_again(&path, &searched, &flags);
    let most = recipe["target_params"].as_f64().unwrap();
    assert!(number(&searched, "/params") <= most);
    assert!(number(&searched, "/params_before") > most);
}

/// The same network from the recipe that a search found, which is given back.
fn comes_again(path: &Path, searched: &Value, targets: &[&str]) -> serde_json::Map<String, Value> {
    let network = || fs::read(path.join("out/pruned.safetensors")).unwrap();
    let expected = network();
    let recipe = searched["recipe"].as_object().unwrap();
    let keys: Vec<(String, String)> = recipe
        .iter()
        .map(|(key, value)| {
            // JSON's `{"a":1}` is TOML's `{a = 1}`.
            let value = value.to_string().replace("\":", "\" = ");
            (format!("--{}", key.replace('_', "-")), value)
        })
        .collect();
    let flags = keys.iter().flat_map(|(key, value)| [key.as_str(), value]);
    let flags = flags.chain(["--trial-epochs", "0"]);
    let flags = flags.chain(targets.iter().copied());
    let again = json(path, compress(&flags.collect::<Vec<_>>()));
    assert!(again.get("trials").is_none());
    assert_eq!(again["recipe"], searched["recipe"]);
    assert!(network() == expected);
    recipe.clone()
}

#[test]
fn a_recipe_that_makes_no_network_is_left_out() {
    // With its convolutions split in two it has more layers than a model may have.
    let convolution = "{ conv2d = { filters = 2, kernel = 3, padding = 'same' } },";
    let pools = "{ max_pool2d = { kernel = 1 } },".repeat(58);
    let layers = convolution.repeat(3) + &pools + "{ global_avg_pool2d = {} }, { dense = {} }";
    let toml = with_layers(&layers).replace(
        "validation = 0.25",
        "validation = 0.25\nsize = [5, 5]\nresize = 'stretch'",
    );
    let (_folder, path) = trained_as(&toml.replace("epochs = 20", "epochs = 1"));
    let flags = [
        "--max-drop",
        "100",
        "--target-params",
        "800",
        "--epochs",
        "1",
    ];
    let searched = call(&path, compress(&flags));
    assert!(searched.success, "{}", searched.stderr);
    assert!(searched.stderr.contains("left out"), "{}", searched.stderr);
}

#[test]
fn a_limit_holds_on_grids_too() {
    let (_folder, path) = trained();
    json(&path, compress(&["--clip", "0.25", "--bits", "8"]));
    let clipped = Checkpoint::load(&path.join("out/pruned.safetensors")).unwrap();
    let weights = clipped.tensors.iter();
    let weights = weights.filter(|(name, _)| name.ends_with(".weight"));
    let most = weights.flat_map(|(_, array)| &array.data);
    let most = most.fold(0f32, |most, weight| most.max(weight.abs()));
    assert!((0.2..0.250_001).contains(&most), "{most}");
    let mut snapped = clipped.clone();
    snapped.snap_to_grids();
    assert_eq!(snapped.grids.len(), 4);
    for (name, array) in &snapped.tensors {
        for (on, is) in array.data.iter().zip(&clipped.tensors[name].data) {
            assert!(
                (on - is).abs() <= 1e-6,
                "{name}: {is} is not on its grid, {on} is"
            );
        }
    }
}

#[test]
fn what_was_compressed_can_be_compressed_again() {
    let (_folder, path) = trained();
    json(&path, compress(&["--share", "4"]));
    let shared = path.join("shared.safetensors");
    fs::rename(path.join("out/pruned.safetensors"), &shared).unwrap();
    let scaled = json(&path, ["compress", "shared.safetensors", "--scale", "10"]);
    assert_eq!(scaled["answers_changed"], 0);
    let pruned = ["compress", "shared.safetensors", "--sparsity", "0.5"];
    let pruned = json(&path, pruned);
    let (left, all) = (number(&pruned, "/nonzeros"), number(&pruned, "/params"));
    assert!(left < 0.52 * all, "{left} of {all}");
}

#[test]
fn few_values_are_few_values_in_the_model_file() {
    let (_folder, path) = trained();
    let whole = json(&path, ["export", "out/float.safetensors"]);
    let mut bytes = number(&whole, "/model_bytes");
    // From many values to few: each file is smaller than the one before.
    for flags in [
        ["--share", "64"],
        ["--bits", "4"],
        ["--share", "6"],
        ["--bits", "2"],
    ] {
        let report = json(&path, compress(&flags));
        let layers = 4.0;
        let most = match flags {
            ["--bits", bits] => 2f64.powi(bits.parse().unwrap()) - 1.0,
            [_, share] => share.parse().unwrap(),
        };
        let distinct = number(&report, "/steps/1/distinct");
        assert!(distinct <= layers * most, "{flags:?}: {distinct}");
        let exported = json(&path, ["export", "out/pruned.safetensors"]);
        let smaller = number(&exported, "/model_bytes");
        assert!(
            smaller < bytes,
            "{flags:?}: {smaller} and not below {bytes}"
        );
        bytes = smaller;
        assert!(call(&path, ["simulate", "out/model.esp", "."]).success);
    }
    if can_emulate("few_values_are_few_values_in_the_model_file") {
        let run = ["run", "out/model.esp", "--source", ".", "-n", "20"];
        assert_eq!(json(&path, run)["mismatched_bytes"], 0);
    }
}

#[test]
fn layers_can_be_split_and_differ() {
    let (_folder, path) = trained();
    let flags = [
        "--factorise",
        "{ dense_1 = 2 }",
        "--bits",
        "{ conv2d_1 = 8, '*' = 4 }",
        "--importance",
        "taylor",
        "--target-params",
        "1500",
    ];
    let report = json(&path, compress(&flags));
    let names: Vec<&str> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["trained", "factorised", "channels removed", "fine-tuned"]
    );
    let widths = report.pointer("/steps/3/widths").unwrap().to_string();
    assert!(widths.contains("dense_1_depthwise"), "{widths}");
    assert!(number(&report, "/params") <= 1500.0);
    let exported = json(
        &path,
        ["export", "out/pruned.safetensors", "--method", "percentile"],
    );
    assert!(number(&exported, "/params") <= 1500.0);
}

#[test]
fn other_networks_teach_beside_the_uncompressed_one() {
    let (_folder, path) = trained();
    fs::copy(
        path.join("out/float.safetensors"),
        path.join("same.safetensors"),
    )
    .unwrap();
    let taught_by = |teachers: &str| {
        let flags = ["--target-params", "1500", "--teachers", teachers];
        json(&path, compress(&flags));
        fs::read(path.join("out/pruned.safetensors")).unwrap()
    };
    let alone = taught_by("[]");
    assert!(
        alone == taught_by("['same.safetensors']"),
        "the mean of two that say the same is another"
    );
    assert!(call(&path, ["train", "--seed", "2"]).success);
    let other = path.join("other.safetensors");
    fs::rename(path.join("out/float.safetensors"), &other).unwrap();
    fs::copy(
        path.join("same.safetensors"),
        path.join("out/float.safetensors"),
    )
    .unwrap();
    assert!(alone != taught_by("['other.safetensors']"));

    let stranger = workspace().join("examples/base/conv3.safetensors");
    let stranger = format!("['{}']", stranger.display());
    let refused = call(&path, compress(&["--teachers", &stranger]));
    assert!(!refused.success);
    for word in ["conv3.safetensors", "compress.teachers", "classes"] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
}

/// A network of other layers than the project's, with batch normalisation.
const STUDENT: &str = "{ layers = [
    { conv2d = { filters = 8, kernel = 3, stride = 2, padding = 'same', activation = 'relu' }, batch_norm = true },
    { depthwise_conv2d = { kernel = 3, stride = 2, padding = 'same' } },
    { name = 'mix', conv2d = { filters = 12, kernel = 1, activation = 'relu' }, batch_norm = true },
    { depthwise_conv2d = { kernel = 3, padding = 'same' } },
    { name = 'mixed', conv2d = { filters = 12, kernel = 1 }, batch_norm = true },
    { from = ['mixed', 'mix'], add = { activation = 'relu' } },
    { flatten = {} },
    { dense = {} },
    { softmax = {} },
] }";

#[test]
fn a_network_of_other_layers_learns_to_answer_like_it() {
    let (_folder, path) = trained();
    let flags = ["--student", STUDENT, "--epochs", "200", "--rate", "0.01"];
    let report = json(&path, compress(&flags));
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["trained", "student, new", "fine-tuned"]);
    let widths = |step: usize| steps[step]["widths"].to_string();
    assert_eq!(widths(1), widths(2));
    assert!(widths(2).contains("mixed") && !widths(2).contains("dense_2"));
    let (accuracy, before) = (
        number(&report, "/accuracy"),
        number(&report, "/accuracy_before"),
    );
    println!("{accuracy} of {before}");
    // Chance finds a tenth.
    assert!(accuracy > 0.8 * before, "{accuracy} of {before}");
    let without_distance = json(&path, compress(&[&flags[..], &["--distill", "0"]].concat()));
    assert!(without_distance["accuracy"] != report["accuracy"]);

    for (flags, words) in [
        (
            ["--student", "{ preset = 'dscn' }", "--epochs", "1"],
            ["dscn", "`dscnn`"],
        ),
        (
            ["--student", "dscnn", "--epochs", "1"],
            ["compress.student", "preset = "],
        ),
        (
            ["--student", STUDENT, "--factorise", "{ conv2d_2 = 1 }"],
            ["conv2d_2", "mixed"],
        ),
    ] {
        let refused = call(&path, compress(&flags));
        assert!(!refused.success);
        for word in words {
            assert!(refused.stderr.contains(word), "{}", refused.stderr);
        }
    }
}

#[test]
fn a_student_learns_before_it_goes_on_grids_and_goes_on_when_killed() {
    let (_folder, path) = trained();
    let flags = ["--student", STUDENT, "--epochs", "300", "--rate", "0.01"];
    let flags = [&flags[..], &["--bits", "4", "--target-params", "1500"]].concat();
    let flags = compress(&flags);
    let report = json(&path, &flags);
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["trained", "student, new", "channels removed", "fine-tuned"]
    );
    assert!(number(&report, "/params") <= 1500.0);
    let (accuracy, before) = (
        number(&report, "/accuracy"),
        number(&report, "/accuracy_before"),
    );
    println!("{accuracy} of {before}");
    assert!(accuracy > 0.7 * before, "{accuracy} of {before}");
    let pruned = path.join("out/pruned.safetensors");
    let checkpoint = Checkpoint::load(&pruned).unwrap();
    assert_eq!(checkpoint.grids.len(), 6);
    let expected = fs::read(&pruned).unwrap();

    let unfinished = path.join("out/pruned.unfinished.safetensors");
    let is_normalised = |file: &Path| {
        let network = Checkpoint::load(file).ok()?.network;
        Some(network.nodes.iter().any(|node| node.batch_norm))
    };
    for normalised in [true, false] {
        fs::remove_file(&pruned).unwrap();
        kill_when(&path, &flags, || {
            is_normalised(&unfinished) == Some(normalised)
        });
        json(&path, [flags.as_slice(), &["--resume"]].concat());
        assert!(fs::read(&pruned).unwrap() == expected, "{normalised}");
    }
}

#[test]
fn a_search_that_was_killed_goes_on_to_the_same_network() {
    let (_folder, path) = trained();
    let flags = compress(&["--target-params", "1000", "--max-drop", "100"]);
    let whole = json(&path, &flags);
    let expected = fs::read(path.join("out/pruned.safetensors")).unwrap();
    fs::remove_file(path.join("out/pruned.safetensors")).unwrap();

    let has_trial = || {
        let state =
            fs::read_to_string(path.join("out/compress.unfinished.json")).unwrap_or_default();
        state.contains("\"recipe\"")
    };
    kill_when(&path, &flags, has_trial);
    assert!(!path.join("out/pruned.safetensors").exists());
    let other = [flags.as_slice(), &["--resume", "--epochs", "5"]].concat();
    let refused = call(&path, &other);
    assert!(
        refused.stderr.contains("other options"),
        "{}",
        refused.stderr
    );
    let resumed = json(&path, [flags.as_slice(), &["--resume"]].concat());
    assert_eq!(resumed["trials"], whole["trials"]);
    assert!(fs::read(path.join("out/pruned.safetensors")).unwrap() == expected);
    assert!(!path.join("out/compress.unfinished.json").exists());
}

#[test]
fn what_cannot_be_met_is_refused_with_the_nearest() {
    let (_folder, path) = trained();
    let fails = |flags: &[&str], words: &[&str]| {
        let called = call(&path, compress(flags));
        assert!(!called.success, "{flags:?}: {}", called.stdout);
        for word in words {
            assert!(called.stderr.contains(word), "{flags:?}: {}", called.stderr);
        }
    };
    let hint = ["compress.target_model_bytes = 100", "or more"];
    fails(&["--target-model-bytes", "100"], &hint);
    // It is reached, but at a price: the network is there, the exit code says no.
    let drop = ["--target-params", "200", "--max-drop", "0"];
    fails(&drop, &["loses", "compress.max_drop is 0"]);
    assert!(path.join("out/pruned.safetensors").is_file());

    fails(&["--bits", "9"], &["compress.bits", "2 to 8"]);
    fails(&["--share", "{ '*' = 1 }"], &["compress.share", "2 to 255"]);
    fails(&["--share", "{ conv2d_9 = 16 }"], &["conv2d_9", "conv2d_1"]);
    fails(&["--regrow", "1"], &["compress.regrow"]);
    let nothing = ["--preference", "{ conv2d_1 = 0 }"];
    fails(&nothing, &["compress.preference", "above 0"]);
    let unknown = ["--preference", "{ conv2d_9 = 2 }"];
    fails(&unknown, &["conv2d_9", "conv2d_1"]);
    fails(&["--importance", "size"], &["importance"]);
    let toml = PROJECT.replace("validation = 0.25", "");
    fs::write(path.join("espalier.toml"), toml).unwrap();
    fails(&["--target-ram", "6000"], &["data.validation"]);
}

#[test]
fn a_scaled_network_keeps_its_answers_and_its_parameters() {
    let (_folder, path) = trained();
    let confusion = |checkpoint: &str| {
        assert!(call(&path, ["export", checkpoint]).success);
        json(&path, ["simulate", "out/model.esp", "."])["confusion"].clone()
    };
    let before = confusion("out/float.safetensors");
    let report = json(&path, compress(&["--scale", "0.1"]));
    assert_eq!(report["answers_changed"], 0);
    assert_eq!(report["params"], report["params_before"]);
    assert_eq!(confusion("out/pruned.safetensors"), before);
}

#[test]
fn pictures_that_were_learnt_from_are_not_taken_for_others_in_silence() {
    let (_folder, path) = trained();
    let says = |arguments: &[&str]| call(&path, arguments).stderr;
    let export = ["export", "out/float.safetensors"];
    let words = "learnt from other pictures";
    assert!(!says(&export).contains(words));
    assert!(call(&path, ["train", "--seed", "3", "--epochs", "1"]).success);
    let warned = says(&export);
    assert!(warned.contains(words), "{warned}");
    assert!(warned.contains("split_seed = 3"), "{warned}");
    assert!(says(&compress(&["--scale", "0.5"])).contains(words));

    let other = path.join("other.safetensors");
    fs::rename(path.join("out/float.safetensors"), &other).unwrap();
    assert!(call(&path, ["train", "--epochs", "1"]).success);
    let teachers = ["--epochs", "1", "--teachers", "['other.safetensors']"];
    let warned = says(&compress(&teachers));
    let names_it = |line: &str| line.contains(words) && line.contains("other.safetensors");
    assert!(warned.lines().any(names_it), "{warned}");
}

#[test]
fn a_scan_names_every_layer() {
    let (_folder, path) = trained();
    let report = json(&path, ["sensitivity", "out/float.safetensors"]);
    assert_eq!(report["pictures"], "validation");
    let layers = report["layers"].as_array().unwrap();
    for layer in ["conv2d_1", "conv2d_2", "dense_1", "dense_2"] {
        assert!(layers.iter().any(|row| row["layer"] == layer), "{layer}");
    }
}

#[test]
fn committed_models_are_what_their_receipts_say() {
    let examples = workspace().join("examples/fashion-mnist");
    let mut models = 0;
    for entry in fs::read_dir(&examples).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("model.esp").is_file() {
            models += 1;
            is_what_its_receipt_says(&folder);
        }
    }
    assert!(models > 0);
}

fn is_what_its_receipt_says(folder: &Path) {
    let receipt = fs::read_to_string(folder.join("receipt.json")).unwrap();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let inspected = json(folder, ["inspect", "model.esp"]);
    let last = receipt["steps"].as_array().and_then(|steps| steps.last());
    assert_eq!(inspected["model_bytes"], last.unwrap()["model_bytes"]);
    // Channels that cannot change the output are in no file.
    for key in ["params", "nonzeros"] {
        let layers = inspected["layers"].as_array().unwrap().iter();
        let count: u64 = layers.map(|layer| layer[key].as_u64().unwrap()).sum();
        assert!(
            Some(count) <= receipt[key].as_u64(),
            "{key}: {}",
            folder.display()
        );
    }
}
