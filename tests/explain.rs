//! Where networks look: the real command on committed networks.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::path::{Path, PathBuf};

use espalier_tests::command::{Called, call, json, workspace};
use serde_json::Value;

const PICTURE: &str = "examples/fashion/test/bag/00053.png";
const FLOAT: &str = "examples/fashion-mnist/article/float.safetensors";
const INT8: &str = "examples/fashion-mnist/8k/model.esp";

fn file(name: &str) -> String {
    workspace().join(name).display().to_string()
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
}

/// Width and height of a PNG file below `folder`.
fn size(folder: &Path, report: &Value, pointer: &str) -> (u32, u32) {
    let file: PathBuf = report.pointer(pointer).unwrap().as_str().unwrap().into();
    let bytes = std::fs::read(folder.join(file)).unwrap();
    assert_eq!(bytes[1..4], *b"PNG");
    let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (side(16), side(20))
}

#[test]
fn a_checkpoint_is_explained_by_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(folder.path(), ["explain", &file(FLOAT), &file(PICTURE)]);
    assert_eq!(
        (&report["answer"], &report["class"]),
        (&"bag".into(), &"bag".into())
    );
    assert!((0.5..=1.0).contains(&number(&report, "/score")));
    let methods: Vec<&str> = (0..3)
        .map(|at| report["methods"][at]["method"].as_str().unwrap())
        .collect();
    assert_eq!(methods, ["grad-cam", "integrated-gradients", "occlusion"]);
    assert_eq!(report["methods"][0]["layer"], "conv2d_2");
    // Completeness, within what 1,000 steps leave.
    assert!(number(&report, "/methods/1/gap") < 0.01, "{report:#}");
    assert!(number(&report, "/methods/2/drop") > 0.0);
    for method in 0..3 {
        let overlay = format!("/methods/{method}/overlay");
        assert_eq!(size(folder.path(), &report, &overlay), (280 + 8 + 280, 280));
    }
}

#[test]
fn a_model_is_explained_by_occlusion() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(folder.path(), ["explain", &file(INT8), &file(PICTURE)]);
    assert_eq!(report["answer"], "bag");
    assert_eq!(report["methods"].as_array().map(Vec::len), Some(1));
    let drops = report["methods"][0]["cells"]["drops"].as_array().unwrap();
    let most = drops.iter().filter_map(Value::as_f64).fold(0.0, f64::max);
    assert_eq!(
        (drops.len(), most),
        (49, number(&report, "/methods/0/drop"))
    );
    // The logits are those before the softmax, which adds up to 1.
    let score = number(&report, "/score");
    let simulated = json(
        folder.path(),
        ["explain", &file(INT8), &file(PICTURE), "--class", "coat"],
    );
    assert!(number(&simulated, "/class_score") < 1.0 - score + 1e-6);
    assert!(number(&simulated, "/logit") < number(&report, "/logit"));
}

#[test]
fn a_network_and_itself_look_at_the_same_regions() {
    let folder = tempfile::tempdir().unwrap();
    let compare = |before: &str, after: &str| {
        let (before, after) = (file(before), file(after));
        let arguments = [
            "explain",
            &before,
            "--compare",
            &after,
            &file("examples/fashion"),
            "-n",
            "20",
        ];
        json(folder.path(), arguments)
    };
    let same = compare(INT8, INT8);
    assert_eq!(
        (number(&same, "/pictures"), number(&same, "/moved")),
        (20.0, 0.0)
    );
    assert!((number(&same, "/rank_correlation") - 1.0).abs() < 1e-9);
    let other = compare(FLOAT, INT8);
    let moved = number(&other, "/moved");
    assert!(moved > 0.0 && moved / 20.0 == number(&other, "/moved_share"));
    // Twelve rows of a picture and two overlays.
    let sheet = (3 * 112 + 2 * 8, 12 * 112 + 11 * 8);
    assert_eq!(size(folder.path(), &other, "/sheet"), sheet);
}

#[test]
fn what_cannot_be_explained_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str], words: &str| {
        let Called {
            success, stderr, ..
        } = call(folder.path(), arguments);
        assert!(
            !success && stderr.contains(words),
            "{arguments:?}: {stderr}"
        );
        assert!(!folder.path().join("explain").exists());
    };
    let (float, int8, picture) = (file(FLOAT), file(INT8), file(PICTURE));
    fails(
        &["explain", &int8, &picture, "--method", "grad-cam"],
        "--method occlusion",
    );
    fails(
        &[
            "explain", &float, &picture, "--method", "grad-cam", "--layer", "dense_1",
        ],
        "one of conv2d_1, max_pool2d_1, conv2d_2, max_pool2d_2",
    );
    fails(
        &["explain", &float, &picture, "--class", "hat"],
        "there are",
    );
    fails(&["explain", &float, &picture, "--cell", "29"], "1 to 28");
    fails(&["explain", &float, &float], "float.safetensors");
    fails(
        &["explain", &picture, &picture],
        "not a whole safetensors file",
    );
    let source = file("examples/fashion");
    let two = ["explain", &float, "--compare", &picture, &source];
    fails(&two, "not a whole safetensors file");
}
