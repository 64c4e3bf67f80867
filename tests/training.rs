//! What a training says, keeps and refuses, as a user sees it.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use espalier::checkpoint::Checkpoint;
use espalier_tests::command::{Called, call, copy_folder, espalier, json, workspace};
use tempfile::TempDir;

const PROJECT: &str = "[data]\nsource = '.'\n[network]\npreset = 'lenet5'\n[train]\nepochs = 2\n";

/// A project with three classes of the example.
fn project(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        for class in ["bag", "coat", "sandal"] {
            let from = workspace().join("examples/fashion").join(part).join(class);
            copy_folder(&from, &folder.path().join(part).join(class));
        }
    }
    fs::write(folder.path().join("espalier.toml"), toml).unwrap();
    folder
}

/// The first files of a class, by name.
fn first_files(folder: &Path, class: &str, count: usize) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder.join(class)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.truncate(count);
    files
}

#[test]
fn pictures_in_both_parts_are_reported() {
    let folder = project(PROJECT);
    let path = folder.path();
    let clean = json(path, ["data", "."]);
    assert_eq!(clean["in_both"].as_array().map(Vec::len), Some(0));
    assert_eq!(clean["train"]["repeated"], 0);
    let trained = call(path, ["train"]);
    assert!(trained.success && !trained.stderr.contains("training pictures too"));

    for (at, file) in first_files(&path.join("train"), "bag", 2)
        .iter()
        .enumerate()
    {
        fs::copy(file, path.join(format!("test/bag/copy{at}.png"))).unwrap();
    }
    let coat = &first_files(&path.join("train"), "coat", 1)[0];
    fs::copy(coat, path.join("train/bag/zzz.png")).unwrap();
    let report = json(path, ["data", "."]);
    let in_both = report["in_both"].as_array().unwrap();
    assert_eq!(in_both.len(), 2);
    assert!(in_both[0]["test"].as_str().unwrap().ends_with("copy0.png"));
    assert_eq!(in_both[0]["same_class"], true);
    assert_eq!(report["train"]["repeated"], 1);
    assert_eq!(report["train"]["contradictions"], 1);
    let words = call(path, ["data", "."]).stdout;
    assert!(
        words.contains("2 of the test pictures are training pictures too"),
        "{words}"
    );
    for command in ["train", "build"] {
        let Called { stderr, .. } = call(path, [command]);
        let warning = "2 of the 302 test pictures are training pictures too";
        assert!(stderr.contains(warning), "{command}: {stderr}");
    }
}

#[test]
fn pictures_that_are_held_back_may_be_in_both_parts() {
    let folder = project(PROJECT);
    let path = folder.path();
    fs::remove_dir_all(path.join("test")).unwrap();
    // Without a test part a fifth is held back; of pictures that are all there five times,
    // some are on either side.
    for class in ["bag", "coat", "sandal"] {
        let one = first_files(&path.join("train"), class, 1).remove(0);
        for copy in 0..40 {
            fs::copy(&one, path.join(format!("train/{class}/copy{copy}.png"))).unwrap();
        }
    }
    let report = json(path, ["data", "."]);
    assert!(!report["in_both"].as_array().unwrap().is_empty());
    assert_eq!(report["test"]["pictures"], 36);
    let Called { stderr, .. } = call(path, ["train", "--epochs", "1"]);
    assert!(
        stderr.contains("of the 36 test pictures are training pictures too"),
        "{stderr}"
    );
}

/// An IDX folder with pictures of these labels.
fn idx(train: &[u8], test: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, labels) in [("train", train), ("t10k", test)] {
        let count = labels.len() as u8;
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28];
        // No two alike.
        let of = |at: u8| (0..784u32).map(move |i| (i * 7 + u32::from(at) * 31 + i % 5) as u8);
        let offset = name.len() as u8 * 40;
        images.extend((0..count).flat_map(|at| of(at.wrapping_add(offset))));
        fs::write(
            folder.path().join(format!("{name}-images-idx3-ubyte")),
            images,
        )
        .unwrap();
        let mut bytes = vec![0, 0, 8, 1, 0, 0, 0, count];
        bytes.extend(labels);
        fs::write(
            folder.path().join(format!("{name}-labels-idx1-ubyte")),
            bytes,
        )
        .unwrap();
    }
    fs::write(folder.path().join("espalier.toml"), PROJECT).unwrap();
    folder
}

#[test]
fn a_class_in_one_part_only_is_named() {
    // Nothing is learnt of 1, which is measured.
    let folder = idx(&[0, 0, 2, 2], &[0, 1, 2]);
    let Called {
        success, stderr, ..
    } = call(folder.path(), ["train"]);
    assert!(!success);
    assert!(
        stderr.contains("the test part has pictures of 1 and the training part has none"),
        "{stderr}"
    );
    // Nothing is known of 1, which is learnt.
    let folder = idx(&[0, 0, 1, 1, 2, 2], &[0, 2]);
    let Called {
        success, stderr, ..
    } = call(folder.path(), ["train"]);
    assert!(success, "{stderr}");
    assert!(stderr.contains("class `1` has no test picture"), "{stderr}");
    let words = call(folder.path(), ["data", "."]).stdout;
    assert!(words.contains("test: no picture of 1"), "{words}");
}

#[test]
fn more_pictures_than_a_class_has_are_refused() {
    let folder = project(PROJECT);
    let Called {
        success, stderr, ..
    } = call(folder.path(), ["train", "--per-class", "21"]);
    assert!(!success);
    assert!(
        stderr.contains("class `bag` has 20 pictures and 21 are needed"),
        "{stderr}"
    );
}

#[test]
fn patience_needs_pictures_to_decide_on() {
    let folder = project(PROJECT);
    let Called {
        success, stderr, ..
    } = call(folder.path(), ["train", "--patience", "3"]);
    assert!(!success);
    assert!(stderr.contains("data.validation"), "{stderr}");
    let stopped = json(
        folder.path(),
        [
            "train",
            "--patience",
            "1",
            "--validation",
            "0.2",
            "--epochs",
            "60",
            "--rate",
            "0.02",
        ],
    );
    let (epochs, best) = (&stopped["epochs"], &stopped["best_epoch"]);
    let (epochs, best) = (epochs.as_u64().unwrap(), best.as_u64().unwrap());
    assert!(epochs < 60 && epochs == best + 1, "{epochs} {best}");
}

#[test]
fn a_training_that_diverges_says_why() {
    let folder = project(PROJECT);
    let arguments = ["train", "--rate", "1e20", "--warmup", "0.0"];
    let Called {
        success, stderr, ..
    } = call(folder.path(), arguments);
    assert!(!success);
    for word in ["diverged", "train.rate", "0.001 is usual"] {
        assert!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    assert!(!folder.path().join("out/float.safetensors").exists());
}

#[test]
fn a_fine_tuning_needs_a_base_and_leaves_frozen_layers_alone() {
    let folder = project(PROJECT);
    let path = folder.path();
    let without = call(path, ["finetune"]);
    assert!(!without.success);
    assert!(without.stderr.contains("--base CKPT"), "{}", without.stderr);
    assert!(call(path, ["train"]).success);
    let base = path.join("base.safetensors");
    fs::rename(path.join("out/float.safetensors"), &base).unwrap();
    let from_base = ["finetune", "--base", "base.safetensors"];
    let unknown = [&from_base[..], &["--freeze", "['conv2d_9']"]].concat();
    let unknown = call(path, unknown);
    assert!(!unknown.success);
    for word in ["train.freeze", "conv2d_9", "dense_1"] {
        assert!(unknown.stderr.contains(word), "{}", unknown.stderr);
    }
    let head_alone = [&from_base[..], &["--body-rate", "0"]].concat();
    assert!(call(path, head_alone).success);
    let [before, after] =
        [base, path.join("out/float.safetensors")].map(|file| Checkpoint::load(&file).unwrap());
    let head = before.network.head().unwrap().name.clone() + ".";
    for (name, tensor) in &before.tensors {
        let same = after.tensors[name] == *tensor;
        assert_eq!(same, !name.starts_with(&head), "{name}");
    }
}

/// Calls `espalier train` where no file may be larger than 8 KiB, as on a disk that is full
/// behind that.
fn train_on_a_full_disk(folder: &Path) -> Called {
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" train";
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .arg(espalier())
        .current_dir(folder);
    command.output().unwrap().into()
}

#[test]
fn a_full_disk_leaves_the_old_file_whole() {
    let folder = project(PROJECT);
    assert!(call(folder.path(), ["train"]).success);
    let file = folder.path().join("out/float.safetensors");
    let files = || fs::read_dir(folder.path().join("out")).unwrap().count();
    let (before, files_before) = (fs::read(&file).unwrap(), files());
    assert!(before.len() > 8192);
    let Called {
        success, stderr, ..
    } = train_on_a_full_disk(folder.path());
    assert!(!success);
    assert!(
        stderr.contains("safetensors: cannot be written"),
        "{stderr}"
    );
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(files(), files_before);
}

#[test]
fn recalls_are_shown_beside_accuracies() {
    let folder = project(PROJECT);
    let words = call(folder.path(), ["train"]).stdout;
    for word in ["balanced accuracy", "recall", "sandal"] {
        assert!(words.contains(word), "{words}");
    }
    let report = json(folder.path(), ["train"]);
    let balanced = report["balanced_accuracy"].as_f64().unwrap();
    let recalls = report["per_class"].as_array().unwrap().iter();
    let sum: f64 = recalls.map(|class| class["recall"].as_f64().unwrap()).sum();
    assert!((balanced - sum / 3.0).abs() < 1e-9);
}

#[test]
fn the_preview_shows_what_flags_say() {
    let folder = project(PROJECT);
    let sheet = |name: &str, more: &[&str]| {
        let arguments = ["data", "train", "--preview", name]
            .into_iter()
            .chain(more.iter().copied());
        let report = json(folder.path(), arguments);
        (report, fs::read(folder.path().join(name)).unwrap())
    };
    let (_, plain) = sheet("plain.png", &[]);
    let (_, turned) = sheet("turned.png", &["--rotate", "90"]);
    assert_ne!(plain, turned);
    let (report, all) = sheet("all.png", &["--operations"]);
    assert_eq!(report["operations"].as_array().map(Vec::len), Some(16));
    assert_ne!(all, plain);
    for wrong in [["--rotate", "200"], ["--rotate", "much"]] {
        let Called {
            success, stderr, ..
        } = call(folder.path(), ["data", "train"].iter().chain(&wrong));
        assert!(!success && stderr.contains("rotate"), "{stderr}");
    }
}

#[test]
fn shapes_are_drawn_without_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(folder.path(), ["data", "shapes", "--preview", "sheet.png"]);
    assert_eq!(report["shape"], serde_json::json!([28, 28, 1]));
    assert_eq!(report["train"]["pictures"], 40_000);
    assert_eq!(report["test"]["pictures"], 4_000);
    for problem in ["repeated", "contradictions"] {
        assert_eq!(report["train"][problem], 0);
    }
    assert_eq!(report["in_both"], serde_json::json!([]));
    let sheet = fs::read(folder.path().join("sheet.png")).unwrap();
    assert!(sheet.starts_with(b"\x89PNG"));
}

#[test]
fn dropout_leaves_the_network_as_it_is() {
    let folder = project(PROJECT);
    let params = |more: &[&str]| {
        let report = json(folder.path(), ["train"].iter().chain(more));
        (report["params"].clone(), report["checkpoint"].clone())
    };
    let plain = params(&[]);
    let file = folder.path().join("out/float.safetensors");
    let before = espalier::checkpoint::Checkpoint::load(&file).unwrap();
    assert_eq!(params(&["--dropout", "0.5"]), plain);
    let dropped = espalier::checkpoint::Checkpoint::load(&file).unwrap();
    assert_eq!(before.network, dropped.network);
    assert_ne!(before.tensors, dropped.tensors);
}

#[test]
fn an_ensemble_that_was_killed_goes_on_to_the_same_network() {
    let folder = project(PROJECT);
    let path = folder.path();
    let ensemble = ["train", "--ensemble", "2", "--epochs", "30"];
    let trained = || Checkpoint::load(&path.join("out/float.safetensors")).unwrap();
    json(path, ensemble);
    let whole = trained();
    let unfinished = || {
        let names = fs::read_dir(path.join("out")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("unfinished")).count()
    };
    assert_eq!(unfinished(), 0);
    // It is another network than one that nobody taught.
    json(path, ["train", "--epochs", "30"]);
    assert_ne!(trained().tensors, whole.tensors);

    fs::remove_file(path.join("out/float.safetensors")).unwrap();
    let mut training = Command::new(espalier());
    let mut training = training.args(ensemble).current_dir(path).spawn().unwrap();
    // The first network is finished and the second one is saved.
    let second = path.join("out/float.member2.unfinished.safetensors");
    let begin = Instant::now();
    while !second.is_file() {
        assert!(begin.elapsed() < Duration::from_secs(120), "never saved");
        std::thread::sleep(Duration::from_millis(20));
    }
    training.kill().unwrap();
    training.wait().unwrap();
    let first = path.join("out/float.member1.unfinished.safetensors");
    assert!(first.is_file() && !path.join("out/float.safetensors").exists());
    json(path, ensemble.iter().chain(&["--resume"]));
    assert_eq!(trained(), whole);
    assert_eq!(unfinished(), 0);
}

/// Handwritten digits, through the folder path.
fn digits() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    espalier_tests::digits::write(&folder.path().join("pictures")).unwrap();
    let example = workspace().join("examples/digits/espalier.toml");
    let toml = fs::read_to_string(example).unwrap();
    let toml = toml.replace(
        "../base",
        workspace().join("examples/base").to_str().unwrap(),
    );
    fs::write(folder.path().join("espalier.toml"), toml).unwrap();
    folder
}

#[test]
fn ten_pictures_of_each_digit_are_enough_for_most() {
    let folder = digits();
    let report = json(folder.path(), ["data", "."]);
    assert_eq!(report["shape"], serde_json::json!([28, 28, 1]));
    let parts = ["train", "test"].map(|part| report[part]["pictures"].as_u64().unwrap());
    assert_eq!(parts[0] + parts[1], 1797);
    let options = ["--per-class", "10", "--steps", "160", "--ensemble", "1"];
    let trained = json(folder.path(), ["train"].iter().chain(&options));
    // 97 to 98 % over the seeds of examples/digits/curve.csv, with 400 steps.
    assert!(
        trained["float_accuracy"].as_f64().unwrap() > 0.88,
        "{trained}"
    );
}

#[test]
fn a_curve_has_every_way_and_goes_on_with_more_seeds() {
    let folder = digits();
    let path = folder.path();
    let project = fs::read_to_string(path.join("espalier.toml")).unwrap();
    let compress_in_steps = |steps| {
        let (training, compress) = project.split_once("[compress]").unwrap();
        let compress = compress.replace("steps = 400", &format!("steps = {steps}"));
        let toml = format!("{training}[compress]{compress}");
        fs::write(path.join("espalier.toml"), toml).unwrap();
    };
    compress_in_steps(3);
    let curve = |more: &[&str]| {
        let common = [
            "curve",
            ".",
            "--shots",
            "4,2",
            "--steps",
            "3",
            "--ensemble",
            "2",
        ];
        json(path, common.iter().chain(more))
    };
    let csv = || fs::read_to_string(path.join("out/curve.csv")).unwrap();
    let all = curve(&["--seeds", "2"]);
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 6);
    let ways = [
        "plain",
        "augmented",
        "base",
        "ensemble",
        "int8",
        "compressed",
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let point = &all["points"][2 * at];
        assert_eq!(point["method"], way);
        assert_eq!((&point["shots"], &point["count"]), (&2.into(), &2.into()));
        assert!(point["half_width"].is_number());
        assert_eq!(csv().matches(&format!("\n{way},")).count(), 4);
    }
    let (whole, small) = (&rows[0]["params"], &rows[20]["params"]);
    assert!(small.as_u64().unwrap() <= whole.as_u64().unwrap() / 7);
    let svg = fs::read_to_string(path.join("out/curve.svg")).unwrap();
    assert!(svg.contains("+ ensemble, distilled"));

    // One seed first, then both: the same figures, and the first ones are not made again.
    let accuracies = |curve: &serde_json::Value| {
        let rows = curve["rows"].as_array().unwrap().iter();
        let keys = ["method", "shots", "seed", "accuracy"];
        rows.map(|row| keys.map(|key| row[key].clone()))
            .collect::<Vec<_>>()
    };
    curve(&["--seeds", "1"]);
    let first: Vec<String> = csv().lines().map(str::to_owned).collect();
    let both = curve(&["--seeds", "2", "--resume"]);
    assert_eq!(accuracies(&both), accuracies(&all));
    let second = csv();
    assert!(first.iter().all(|line| second.contains(line)));

    // What is compressed in another way is made again, and nothing else.
    compress_in_steps(2);
    let again = curve(&["--seeds", "2", "--resume"]);
    for (old, new) in [(&both, &again)].map(|(a, b)| (&a["rows"], &b["rows"])) {
        let pairs = old.as_array().unwrap().iter().zip(new.as_array().unwrap());
        for (old, new) in pairs {
            assert_eq!(old == new, old["method"] != "compressed", "{old} {new}");
        }
    }

    for (wrong, says) in [
        (
            &["--shots", "2", "--resume", "--rate", "0.1"][..],
            "other pictures or options",
        ),
        (&["--shots", "1000"], "1000"),
        (&["--shots", "0"], "at least one picture"),
        (&["--shots", "2", "--seeds", "0"], "one seed"),
    ] {
        let Called {
            success, stderr, ..
        } = call(path, ["curve", "."].iter().chain(wrong));
        assert!(!success && stderr.contains(says), "{stderr}");
    }
}
