//! What was stopped goes on, with what belongs to it and with nothing else.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::{Path, PathBuf};

use espalier_tests::command::{call, json, kill_when, project_of_the_example};
use serde_json::Value;
use tempfile::TempDir;

const PROJECT: &str = r#"
[data]
source = "."

[network]
layers = [
    { conv2d = { filters = 6, kernel = 3, stride = 2, activation = "relu" } },
    { flatten = {} },
    { dense = {} },
    { softmax = {} },
]

[train]
epochs = 10

[compress]
target_params = 2000
clip = 2.0
epochs = 300
"#;

fn project() -> (TempDir, PathBuf) {
    project_of_the_example(PROJECT)
}

fn write(path: &Path, toml: &str) {
    fs::write(path.join("espalier.toml"), toml).unwrap();
}

/// A build that is killed while it trains, or while it fine-tunes.
fn killed_build(path: &Path, step: &str) {
    let unfinished = path.join(format!("out/{step}.unfinished.safetensors"));
    kill_when(path, ["build"], || unfinished.is_file());
}

fn refused(path: &Path, arguments: &[&str], words: &[&str]) {
    let called = call(path, arguments);
    assert!(!called.success, "{arguments:?}: {}", called.stdout);
    for word in words {
        assert!(called.stderr.contains(word), "{}", called.stderr);
    }
}

fn steps(report: &Value) -> Vec<&Value> {
    let steps = report.pointer("/compress/steps").unwrap();
    let steps = steps.as_array().unwrap().iter();
    steps.map(|step| &step["name"]).collect()
}

#[test]
fn a_build_that_was_killed_gives_the_same_model() {
    let (_folder, path) = project();
    let whole = json(&path, ["build"]);
    let model = || fs::read(path.join("out/model.esp")).unwrap();
    let expected = model();
    let names = ["trained", "clipped", "channels removed", "fine-tuned"];
    assert_eq!(steps(&whole), names);
    fs::remove_dir_all(path.join("out")).unwrap();

    killed_build(&path, "pruned");
    let resumed = json(&path, ["build", "--resume"]);
    assert!(model() == expected);
    // With what was before the kill.
    assert_eq!(steps(&resumed), names);

    // Between training and compression: only the trained network is there.
    for entry in fs::read_dir(path.join("out")).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().unwrap() != "float.safetensors" {
            fs::remove_file(file).unwrap();
        }
    }
    json(&path, ["build", "--resume"]);
    assert!(model() == expected);
}

#[test]
fn what_an_older_build_left_is_not_taken() {
    let (_folder, path) = project();
    write(&path, &PROJECT.replace("epochs = 300", "epochs = 100000"));
    killed_build(&path, "pruned");
    let state = path.join("out/compress.unfinished.json");
    assert!(state.is_file());
    let resume = ["build", "--resume"];
    write(&path, &PROJECT.replace("2000", "1500"));
    refused(&path, &resume, &["compress", "other options"]);
    write(&path, &PROJECT.replace("filters = 6", "filters = 7"));
    refused(&path, &resume, &["float.safetensors", "another network"]);

    write(
        &path,
        &PROJECT.replace("epochs = 10\n", "epochs = 100000\n"),
    );
    killed_build(&path, "float");
    assert!(!state.exists());
    write(&path, &PROJECT.replace("filters = 6", "filters = 7"));
    let resume = ["train", "--resume"];
    refused(&path, &resume, &["float.unfinished", "another network"]);
    write(&path, &PROJECT.replace("epochs = 10\n", "epochs = 20\n"));
    refused(&path, &resume, &["train.epochs", "100000"]);
}

#[test]
fn an_unfinished_training_can_be_the_base_of_another() {
    let (_folder, path) = project();
    write(
        &path,
        &PROJECT.replace("epochs = 10\n", "epochs = 100000\n"),
    );
    killed_build(&path, "float");
    let base = "out/float.unfinished.safetensors";
    json(&path, ["finetune", "--base", base, "--epochs", "1"]);
    assert!(path.join("out/float.safetensors").is_file());
}
