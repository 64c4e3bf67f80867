//! The whole path: the example is trained, compressed, written, simulated,
//! measured and run on emulated chips, by the commands that a user types.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use espalier_tests::command::{
    call, can_emulate, copy_folder, json, kill_when, project_of_the_example, workspace,
};
use espalier_tests::models::preset;
use serde_json::Value;
use shared::layer::Shape;
use tempfile::TempDir;

/// The example, built once for all tests of this file.
struct Built {
    folder: TempDir,
    report: Value,
}

impl Built {
    fn example() -> &'static Self {
        static BUILT: OnceLock<Built> = OnceLock::new();
        BUILT.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            copy_folder(&workspace().join("examples/fashion"), folder.path());
            let _ = std::fs::remove_dir_all(folder.path().join("out"));
            let report = json(folder.path(), ["build"]);
            Self { folder, report }
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
}

#[test]
fn build_reports_every_step() {
    let report = &Built::example().report;
    let accuracies = [
        "/train/float_accuracy",
        "/compress/accuracy",
        "/simulate/accuracy",
    ];
    for pointer in accuracies {
        let accuracy = number(report, pointer);
        assert!((0.65..0.95).contains(&accuracy), "{pointer} = {accuracy}");
    }
    assert_eq!(number(report, "/simulate/total"), 1000.0);
    assert_eq!(
        report["simulate"]["per_class"].as_array().map(Vec::len),
        Some(10)
    );
    let (float, pruned) = (
        number(report, "/compress/params"),
        number(report, "/compress/nonzeros"),
    );
    assert!(
        pruned < 0.25 * float,
        "{pruned} of {float} parameters are not zero"
    );
}

/// What an HTML document of this project may be made of.
#[derive(Default)]
struct Html {
    ids: Vec<String>,
    /// Where links and pictures come from.
    references: Vec<String>,
    tags: Vec<String>,
    text: String,
}

impl Html {
    /// Reads it, and fails where a tag is not closed or does not parse.
    fn parse(html: &str) -> Self {
        use html5gum::{Token, Tokenizer};
        const VOID: [&str; 4] = ["meta", "img", "br", "hr"];
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (mut page, mut open) = (Self::default(), Vec::new());
        for token in Tokenizer::new(html) {
            match token.unwrap() {
                Token::StartTag(tag) => {
                    let name = text(&tag.name);
                    for (key, value) in &tag.attributes {
                        match text(key).as_str() {
                            "id" => page.ids.push(text(value)),
                            "src" | "href" | "xlink:href" | "srcset" | "action" => {
                                page.references.push(text(value));
                            }
                            _ => {}
                        }
                    }
                    if !tag.self_closing && !VOID.contains(&name.as_str()) {
                        open.push(name.clone());
                    }
                    page.tags.push(name);
                }
                Token::EndTag(tag) => assert_eq!(open.pop(), Some(text(&tag.name))),
                Token::String(words) => page.text += &text(&words),
                Token::Error(error) => panic!("{error:?}"),
                _ => {}
            }
        }
        assert!(open.is_empty(), "{open:?} are never closed");
        page
    }
}

#[test]
fn the_report_stands_alone_and_has_every_section() {
    let built = Built::example();
    let file = built.path().join(built.report["report"].as_str().unwrap());
    let html = std::fs::read_to_string(file).unwrap();
    let page = Html::parse(&html);
    for section in [
        "data",
        "training",
        "compression",
        "answers",
        "footprint",
        "mistakes",
    ] {
        assert!(page.ids.iter().any(|id| id == section), "no {section}");
    }
    // Nothing comes from elsewhere, and nothing runs.
    for reference in &page.references {
        let inside = match reference.strip_prefix('#') {
            Some(id) => page.ids.iter().any(|known| known == id),
            None => reference.starts_with("data:image/png;base64,"),
        };
        assert!(inside, "{reference:.60}");
    }
    for outside in [
        "http",
        "url(",
        "@import",
        "javascript:",
        "<link",
        "<iframe",
        "<object",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    let count = |tag: &str| page.tags.iter().filter(|name| *name == tag).count();
    assert_eq!((count("script"), count("style")), (0, 1));
    // Loss and accuracy of the training and the fine-tuning; the sheet, and eight mistakes.
    assert_eq!((count("svg"), count("img")), (4, 1 + 8));
    let accuracy = 100.0 * number(&built.report, "/simulate/accuracy");
    for words in [&format!("{accuracy:.1} %"), "ankle-boot", "fine-tuned"] {
        assert!(page.text.contains(words), "no {words}");
    }
    for epochs in ["out/float.curve.csv", "out/pruned.curve.csv"] {
        let curve = std::fs::read_to_string(built.path().join(epochs)).unwrap();
        assert!(curve.lines().count() > 2, "{curve}");
    }
}

#[test]
fn build_measures_the_chip() {
    if !can_emulate("build_measures_the_chip") {
        return;
    }
    let report = &Built::example().report;
    let size = |name: &str| number(report, &format!("/footprint/{name}"));
    assert_eq!(size("params"), number(report, "/export/params"));
    assert!((2_000_000.0..=2_528_000.0).contains(&size("macs")));
    assert!(size("flash_bytes") > size("model_bytes"));
    assert!(size("ram_bytes") > size("arena_bytes") + size("stack_bytes"));
    assert!(size("nonzeros") < 0.25 * size("params"));
    // No instruction of a Cortex-M4 multiplies more than two pairs, and those
    // products that the second pool drops are left out.
    assert!(number(report, "/run/instructions") > 0.4 * size("macs"));
    assert_eq!(number(report, "/run/mismatched_bytes"), 0.0);
    layers_add_up(&report["footprint"]);
    layers_add_up(&report["run"]);
}

/// The instructions of all layers are those of the inference, but for the rounding
/// of a mean of each.
fn layers_add_up(report: &Value) {
    let layers = report["layers"].as_array().unwrap();
    let sum: f64 = layers.iter().map(|l| number(l, "/instructions")).sum();
    let all = number(report, "/instructions");
    assert!((0.0..=9.0).contains(&(all - sum)), "{sum} of {all}");
    // Both convolutions with their pools, flatten, two dense layers and softmax.
    assert_eq!(layers.len(), 6);
    for layer in layers {
        let macs = number(layer, "/macs");
        assert!(macs == 0.0 || number(layer, "/instructions") > 0.2 * macs);
    }
}

#[test]
fn export_knows_what_layers_cost() {
    if !can_emulate("export_knows_what_layers_cost") {
        return;
    }
    let report = &Built::example().report;
    // Flatten and softmax have no weights.
    let measured = report["footprint"]["layers"].as_array().unwrap().iter();
    let measured = measured.filter(|layer| number(layer, "/macs") > 0.0);
    let estimated = report["export"]["layouts"].as_array().unwrap();
    for (layer, choice) in measured.zip(estimated) {
        let storage = choice["storage"].as_str().unwrap();
        let estimate = number(choice, &format!("/{storage}/instructions"));
        let ratio = estimate / number(layer, "/instructions");
        assert!((0.9..1.1).contains(&ratio), "{choice} {layer}");
    }
}

#[test]
fn export_leaves_zeros_out_where_that_pays() {
    let report = &Built::example().report;
    let layouts = report["export"]["layouts"].as_array().unwrap();
    let names: Vec<&str> = layouts.iter().filter_map(|l| l["layer"].as_str()).collect();
    assert_eq!(names, ["conv2d_1", "conv2d_2", "dense_1", "dense_2"]);
    for layout in layouts {
        let cost = |stored: &str| number(layout, &format!("/{stored}/instructions"));
        let is_sparse = layout["storage"] == "sparse";
        assert_eq!(is_sparse, cost("sparse") < cost("dense"));
        assert!(cost("coded") > cost("dense"));
    }
    // Of this layer hardly a weight is left.
    assert_eq!(layouts[2]["storage"], "sparse");
    assert!(number(&layouts[2], "/sparse/bytes") < 0.2 * number(&layouts[2], "/dense/bytes"));
    assert!(number(report, "/export/model_bytes") < 0.4 * number(report, "/export/params"));
}

#[test]
fn steps_on_their_own_give_what_build_gives() {
    let built = Built::example();
    let path = built.path();
    let exported = json(path, ["export", "out/pruned.safetensors", "--golden", "4"]);
    assert_eq!(
        exported["model_bytes"],
        built.report["export"]["model_bytes"]
    );
    let simulated = json(path, ["simulate", "out/model.esp", "."]);
    assert_eq!(simulated["correct"], built.report["simulate"]["correct"]);
    let inspected = json(path, ["inspect", "out/model.esp"]);
    assert_eq!(inspected["model_bytes"], exported["model_bytes"]);
    assert_eq!(inspected["layers"].as_array().map(Vec::len), Some(8));
}

#[test]
fn int8_answers_as_float_does() {
    use espalier::checkpoint::Checkpoint;
    use espalier::data::{self, Options, Part, Source};
    use espalier::train::{argmax, evaluate};

    let built = Built::example();
    let source = Source::parse(".", built.path()).unwrap();
    let test = data::load(&source, Part::Test, &Options::default()).unwrap();
    let checkpoint = Checkpoint::load(&built.path().join("out/pruned.safetensors")).unwrap();
    let float = evaluate(&checkpoint, &test).unwrap();
    let bytes = std::fs::read(built.path().join("out/model.esp")).unwrap();
    let model = shared::Model::parse(&bytes).unwrap();
    let int8 = espalier::simulate::answers(&model, &test);
    let same = float
        .iter()
        .zip(&int8)
        .filter(|(row, answer)| argmax(row) == **answer)
        .count();
    println!(
        "float and int8 agree on {same} of {} pictures",
        test.pictures.len()
    );
    assert!(
        same >= 980,
        "float and int8 agree on {same} of 1,000 pictures only"
    );
}

/// The example's model with a margin that a part of its answers does not have.
fn unsure_model(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path.join("out/model.esp")).unwrap();
    let confidence = shared::model::Confidence {
        temperature: 1.5,
        margin: 20,
        pictures: 40,
        answered: 30,
        correct: 20,
    };
    espalier::quantise::with_confidence(&bytes, &confidence).unwrap()
}

#[test]
fn a_margin_leaves_good_answers() {
    let path = Built::example().path();
    let text = std::fs::read_to_string(path.join("espalier.toml")).unwrap();
    let text = text.replacen("[data]", "[data]\nvalidation = 0.5", 1);
    let text = text + "\n[output]\nfolder = 'sure'\n";
    std::fs::write(path.join("sure.toml"), text).unwrap();
    let export = |abstain: &str| {
        let project = ["export", "out/pruned.safetensors", "--project", "sure.toml"];
        call(
            path,
            [&project[..], &["--abstain", abstain, "--json"]].concat(),
        )
    };
    // It was trained on these very pictures, and has all of them right but a few.
    let exported = export("1.0");
    assert!(exported.success, "{}", exported.stderr);
    let exported: Value = serde_json::from_str(&exported.stdout).unwrap();
    let found = &exported["confidence"];
    assert_eq!(
        (number(found, "/pictures"), number(found, "/accuracy")),
        (100.0, 1.0)
    );
    let before = number(found, "/calibration_error_before");
    assert!(number(found, "/calibration_error") < before);
    let bytes = std::fs::read(path.join("sure/model.esp")).unwrap();
    let confidence = shared::Model::parse(&bytes).unwrap().confidence().unwrap();
    assert_eq!(f64::from(confidence.margin), number(found, "/margin"));
    // On pictures that it has not seen it is less often sure, and more often right then.
    let simulated = json(path, ["simulate", "sure/model.esp", "."]);
    assert!(number(&simulated, "/sure/accuracy") > number(&simulated, "/accuracy"));
    assert!(number(&simulated, "/sure/coverage") < 1.0);
    let always = json(path, ["simulate", "out/model.esp", "."]);
    assert!(always.get("sure").is_none());
}

#[test]
fn chips_are_sure_of_the_same_answers() {
    if !can_emulate("chips_are_sure_of_the_same_answers") {
        return;
    }
    let path = Built::example().path();
    let bytes = unsure_model(path);
    std::fs::write(path.join("unsure.esp"), &bytes).unwrap();
    let model = shared::Model::parse(&bytes).unwrap();
    let source = espalier::data::Source::parse(".", path).unwrap();
    let options = espalier::simulate::options(&model);
    let mut test = espalier::data::load(&source, espalier::data::Part::Test, &options).unwrap();
    test.pictures = test.pictures.into_iter().step_by(20).collect();
    let inputs = espalier::simulate::inputs(&model, &test);
    let decisions = espalier::simulate::decisions(&model, &test);
    let sure: Vec<bool> = decisions.iter().map(|d| d.margin >= 20).collect();
    assert!(sure.contains(&true) && sure.contains(&false));
    for name in ["mps2-an386", "microbit"] {
        let board = espalier::device::Board::named(name).unwrap();
        let elf = espalier::device::firmware::build(&board).unwrap();
        if board.admit(bytes.len(), model.arena_bytes()).is_err() {
            continue;
        }
        let limit = std::time::Duration::from_secs(120);
        let run = espalier::device::emulator::run(&board, &elf, &bytes, &inputs, limit).unwrap();
        assert_eq!(run.sure, sure, "{name}");
        // Its log has the class of the same answers, and "not sure" for the others.
        let said: Vec<&str> = decisions
            .iter()
            .zip(&sure)
            .map(|(decision, sure)| match sure {
                true => test.classes[decision.answer].as_str(),
                false => "not sure",
            })
            .collect();
        let log: Vec<&String> = run
            .log
            .iter()
            .filter(|l| said.iter().any(|s| l.ends_with(s)))
            .collect();
        assert_eq!(log.len(), said.len(), "{:?}", run.log);
        assert!(
            log.iter()
                .zip(&said)
                .all(|(line, said)| line.ends_with(said))
        );
    }
}

#[test]
fn dead_channels_change_no_byte() {
    use espalier::checkpoint::Checkpoint;
    use espalier::data::{self, Options, Part, Source};
    use espalier::quantise::{ExportOptions, calibrate, export};
    use espalier::simulate::outputs;

    let built = Built::example();
    let source = Source::parse(".", built.path()).unwrap();
    let load = |part| data::load(&source, part, &Options::default()).unwrap();
    let (train, test) = (load(Part::Train), load(Part::Test));
    let checkpoint = Checkpoint::load(&built.path().join("out/pruned.safetensors")).unwrap();
    let ranges = calibrate(&checkpoint, &train, &ExportOptions::default()).unwrap();
    let [full, small] = [false, true].map(|remove_dead| {
        let options = ExportOptions {
            remove_dead,
            ..ExportOptions::default()
        };
        export(&checkpoint, &ranges, &options).unwrap()
    });
    let [all, left] = [&full, &small].map(|export| shared::Model::parse(&export.bytes).unwrap());
    let macs: u64 = all.steps().map(|step| all.macs(&step)).sum();
    assert_eq!(macs, 2_528_000);
    assert!(outputs(&all, &test) == outputs(&left, &test));
    assert!(full.dead_channels.is_empty() && !small.dead_channels.is_empty());
    assert!(small.bytes.len() < full.bytes.len());
    let written = &built.report["export"];
    assert_eq!(written["model_bytes"], small.bytes.len());
    assert_eq!(
        written["dead_channels"],
        serde_json::to_value(&small.dead_channels).unwrap()
    );
}

/// Runs pictures on an emulated board; every output byte must be the host's. Gives the instructions of one.
fn same_bytes(board: &str, folder: &Path, pictures: usize) -> u64 {
    let count = pictures.to_string();
    let arguments = [
        "run",
        "out/model.esp",
        "--source",
        ".",
        "--board",
        board,
        "-n",
        &count,
    ];
    let report = json(folder, arguments);
    assert_eq!(report["board"], board);
    assert_eq!(report["inferences"], pictures);
    assert_eq!(report["output_bytes"], pictures * 10);
    assert_eq!(report["mismatched_bytes"], 0);
    report["instructions"].as_u64().unwrap()
}

#[test]
fn cortex_m4_gives_the_same_bytes_for_the_whole_test_set() {
    if can_emulate("cortex_m4_gives_the_same_bytes_for_the_whole_test_set") {
        let path = Built::example().path();
        let [few, all] = [10, 1000].map(|pictures| same_bytes("mps2-an386", path, pictures));
        // The 24 bits of the clock wrap three times in between, and no wrap is lost or counted twice.
        assert!(few.abs_diff(all) < few / 1000, "{few} and {all}");
    }
}

#[test]
fn cortex_m3_m7_m33_and_m55_give_the_same_bytes() {
    if can_emulate("cortex_m3_m7_m33_and_m55_give_the_same_bytes") {
        for board in ["mps2-an385", "mps2-an500", "mps2-an505", "mps3-an547"] {
            same_bytes(board, Built::example().path(), 100);
        }
    }
}

/// A network for 16 KiB of RAM: the example's pictures at half their size.
const SMALL: &str = r#"
[data]
source = "."
size = [14, 14]
resize = "stretch"

[[network.layers]]
conv2d = { filters = 8, kernel = 3, activation = "relu" }
[[network.layers]]
max_pool2d = { kernel = 2 }
[[network.layers]]
depthwise_conv2d = { kernel = 3, padding = "same", activation = "relu6" }
batch_norm = true
[[network.layers]]
name = "body"
conv2d = { filters = 12, kernel = 1 }
[[network.layers]]
name = "branch"
conv2d = { filters = 12, kernel = 3, padding = "same", activation = "relu" }
[[network.layers]]
add = { activation = "relu" }
from = ["body", "branch"]
[[network.layers]]
global_avg_pool2d = {}
[[network.layers]]
dense = {}
[[network.layers]]
softmax = {}

[train]
epochs = 5

[compress]
sparsity = 0.5
epochs = 3

[board]
name = "microbit"
"#;

fn small_project() -> (TempDir, PathBuf) {
    project_of_the_example(SMALL)
}

#[test]
fn cortex_m0_gives_the_same_bytes_on_a_network_of_every_layer() {
    let (_folder, path) = small_project();
    let report = json(&path, ["build"]);
    if can_emulate("cortex_m0_gives_the_same_bytes_on_a_network_of_every_layer") {
        assert_eq!(report["run"]["mismatched_bytes"], 0);
        for board in ["microbit", "mps2-an386"] {
            same_bytes(board, &path, 100);
        }
    }
}

#[test]
fn a_model_too_big_for_the_board_is_refused_at_build() {
    let folder = tempfile::tempdir().unwrap();
    let shape = Shape::new(32, 32, 3).unwrap();
    let model = preset("resnet8", shape, 10).to_bytes().unwrap();
    std::fs::write(folder.path().join("model.esp"), model).unwrap();
    let called = call(
        folder.path(),
        ["footprint", "model.esp", "--board", "microbit"],
    );
    assert!(!called.success);
    assert!(
        called.stderr.contains("34451 bytes of RAM"),
        "{}",
        called.stderr
    );
}

#[test]
fn a_build_over_budget_fails_and_says_by_how_much() {
    let (_folder, path) = small_project();
    let called = call(&path, ["build", "--accuracy", "0.99"]);
    assert!(!called.success);
    assert!(
        called.stderr.contains("points under the budget of 99.0 %"),
        "{}",
        called.stderr
    );
    assert!(path.join("out/receipt.json").is_file());
}

#[test]
fn the_same_seed_gives_the_same_model() {
    let bytes = || {
        let (_folder, path) = small_project();
        assert!(call(&path, ["build"]).success);
        std::fs::read(path.join("out/model.esp")).unwrap()
    };
    assert!(bytes() == bytes());
}

#[test]
fn a_killed_training_goes_on_to_the_same_model() {
    let (_folder, path) = small_project();
    let epochs = ["--epochs", "300"]; // longer than it takes until the first save
    let whole = json(&path, ["train"].iter().chain(&epochs));
    let expected = std::fs::read(path.join("out/float.safetensors")).unwrap();
    std::fs::remove_dir_all(path.join("out")).unwrap();

    let unfinished = path.join("out/float.unfinished.safetensors");
    let is_saved = || unfinished.is_file();
    kill_when(&path, ["train"].iter().chain(&epochs), is_saved);
    let resumed = json(&path, ["train", "--resume"].iter().chain(&epochs));
    assert_eq!(resumed["correct"], whole["correct"]);
    assert!(std::fs::read(path.join("out/float.safetensors")).unwrap() == expected);
}

#[test]
fn whole_channels_go_until_the_target_is_met() {
    let (_folder, path) = small_project();
    let trained = json(&path, ["train", "--epochs", "2"]);
    let smaller = [
        "compress",
        "out/float.safetensors",
        "--target-params",
        "500",
        "--sparsity",
        "0",
        "--distill",
        "0.5",
    ];
    let compressed = json(&path, smaller);
    let (before, after) = (&trained["params"], &compressed["params"]);
    assert!(before.as_u64() > Some(1000), "{before}");
    assert!((350..=500).contains(&after.as_u64().unwrap()), "{after}");
    let exported = json(&path, ["export", "out/pruned.safetensors"]);
    assert!(exported["params"].as_u64() <= after.as_u64());
    assert!(call(&path, ["simulate", "out/model.esp", "."]).success);

    // The network has a ReLU6, and paths of different lengths.
    let scale = ["compress", "out/float.safetensors", "--scale", "0.1"];
    let scale: Vec<&str> = [&scale[..], &["--sparsity", "0"]].concat();
    assert!(!call(&path, &scale).success);
    let literal = json(&path, [&scale[..], &["--scale-mode", "literal"]].concat());
    assert_eq!(literal["params"], literal["params_before"]);

    let impossible = ["compress", "out/float.safetensors", "--target-params", "9"];
    let called = call(&path, impossible);
    assert!(!called.success);
    let hint = "set compress.target_params to";
    assert!(called.stderr.contains(hint), "{}", called.stderr);
}

#[test]
fn a_base_checkpoint_gets_a_new_head() {
    let (_folder, path) = small_project();
    assert!(call(&path, ["train", "--epochs", "1"]).success);
    std::fs::rename(
        path.join("out/float.safetensors"),
        path.join("base.safetensors"),
    )
    .unwrap();
    for part in ["train", "test"] {
        std::fs::remove_dir_all(path.join(part).join("bag")).unwrap();
    }
    let report = json(
        &path,
        ["train", "--epochs", "1", "--base", "base.safetensors"],
    );
    assert_eq!(report["per_class"].as_array().map(Vec::len), Some(9));
}
