//! Bad input ends in an error that names file and place, an exit code other
//! than 0, and nothing half-written.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::Path;

use espalier_tests::command::{Called, call, copy_folder, workspace};
use tempfile::TempDir;

const PROJECT: &str = "[data]\nsource = '.'\n[network]\npreset = 'article'\n[train]\nepochs = 1\n";

/// A project with two classes of the example.
fn project(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        for class in ["bag", "coat"] {
            let from = workspace().join("examples/fashion").join(part).join(class);
            copy_folder(&from, &folder.path().join(part).join(class));
        }
    }
    fs::write(folder.path().join("espalier.toml"), toml).unwrap();
    folder
}

/// The call fails with every one of `words` on standard error, nothing on
/// standard output, and no output folder.
fn fails(folder: &Path, arguments: &[&str], words: &[&str]) {
    let Called {
        success,
        stdout,
        stderr,
    } = call(folder, arguments);
    assert!(!success, "{arguments:?} succeeded: {stdout}");
    assert_eq!(stdout, "");
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    assert!(!folder.join("out/model.esp").exists());
}

#[test]
fn no_project() {
    let folder = tempfile::tempdir().unwrap();
    fails(
        folder.path(),
        &["build"],
        &["espalier.toml", "espalier new"],
    );
}

#[test]
fn unknown_key() {
    let folder = project(&PROJECT.replace("epochs", "epoch"));
    fails(
        folder.path(),
        &["build"],
        &["espalier.toml", "line 6", "did you mean `epochs`?"],
    );
}

#[test]
fn unknown_preset_layer_and_board() {
    let folder = project(&PROJECT.replace("article", "articel"));
    fails(
        folder.path(),
        &["build"],
        &["articel", "did you mean `article`"],
    );
    let text = "[data]\nsource = '.'\n[[network.layers]]\nconv2 = { filters = 3, kernel = 3 }\n";
    let folder = project(text);
    fails(
        folder.path(),
        &["build"],
        &["line 4", "did you mean `conv2d`?"],
    );
    let folder = project(PROJECT);
    fails(
        folder.path(),
        &["build", "--board", "mps2-an368"],
        &["mps2-an386"],
    );
}

#[test]
fn missing_and_empty_data() {
    let folder = project(&PROJECT.replace("'.'", "'nowhere'"));
    fails(folder.path(), &["build"], &["nowhere"]);
    let folder = project(&PROJECT.replace("'.'", "'empty'"));
    fs::create_dir(folder.path().join("empty")).unwrap();
    fails(folder.path(), &["build"], &["empty"]);
}

#[test]
fn one_class_only() {
    let folder = project(PROJECT);
    for part in ["train", "test"] {
        fs::remove_dir_all(folder.path().join(part).join("bag")).unwrap();
    }
    fails(folder.path(), &["build"], &["class"]);
}

#[test]
fn abstention_without_validation_pictures() {
    let folder = project(PROJECT);
    fs::write(
        folder.path().join("espalier.toml"),
        format!("{PROJECT}[export]\nabstain = 0.9\n"),
    )
    .unwrap();
    let words = ["export.abstain", "data.validation"];
    fails(folder.path(), &["build"], &words);
}

#[test]
fn pictures_that_are_none() {
    let folder = project(PROJECT);
    let picture = folder.path().join("train/bag/zzz.png");
    fs::write(&picture, "not a picture").unwrap();
    fails(folder.path(), &["build"], &["zzz.png"]);
    let whole = fs::read_dir(folder.path().join("train/coat"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let bytes = fs::read(whole.path()).unwrap();
    fs::write(&picture, &bytes[..bytes.len() / 2]).unwrap();
    fails(folder.path(), &["build"], &["zzz.png"]);
}

#[test]
fn mixed_sizes_without_a_rule() {
    let folder = project(PROJECT);
    let shape = espalier::data::PictureShape {
        height: 20,
        width: 28,
        channels: 1,
    };
    let odd = folder.path().join("train/coat/zzz.png");
    espalier::data::save_png(&odd, &vec![9; shape.bytes()], shape).unwrap();
    fails(folder.path(), &["build"], &["zzz.png", "resize"]);
}

#[test]
fn idx_with_wrong_magic_and_length() {
    let folder = project(&PROJECT.replace("'.'", "'idx'"));
    let idx = folder.path().join("idx");
    fs::create_dir(&idx).unwrap();
    fs::write(
        idx.join("train-images-idx3-ubyte"),
        [0, 0, 9, 3, 0, 0, 0, 1],
    )
    .unwrap();
    fs::write(
        idx.join("train-labels-idx1-ubyte"),
        [0, 0, 8, 1, 0, 0, 0, 1, 0],
    )
    .unwrap();
    fails(folder.path(), &["build"], &["train-images-idx3-ubyte"]);
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28];
    images.extend([0; 100]);
    fs::write(idx.join("train-images-idx3-ubyte"), images).unwrap();
    fails(folder.path(), &["build"], &["train-images-idx3-ubyte"]);
}

#[test]
fn checkpoint_of_another_network() {
    let folder = project(PROJECT);
    assert!(call(folder.path(), ["train"]).success);
    fs::rename(
        folder.path().join("out/float.safetensors"),
        folder.path().join("base.safetensors"),
    )
    .unwrap();
    fs::write(
        folder.path().join("espalier.toml"),
        PROJECT.replace("article", "lenet5"),
    )
    .unwrap();
    fails(
        folder.path(),
        &["train", "--base", "base.safetensors"],
        &["base.safetensors", "conv2d_1"],
    );
    fs::write(folder.path().join("base.safetensors"), "no checkpoint").unwrap();
    fails(
        folder.path(),
        &["train", "--base", "base.safetensors"],
        &["base.safetensors"],
    );
    fails(
        folder.path(),
        &["train", "--base", "gone.safetensors"],
        &["gone.safetensors"],
    );
}

#[test]
fn damaged_model_files() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.esp");
    let commands: [&[&str]; 4] = [
        &["inspect", "model.esp"],
        &["footprint", "model.esp"],
        &["run", "model.esp"],
        &["flash", "model.esp"],
    ];
    for (bytes, word) in [
        (&b""[..], "cut off"),
        (&b"espalier\x01\0"[..], "cut off"),
        (
            &b"something else entirely, and longer"[..],
            "not a model file",
        ),
        (
            &b"espalier\x63\0 and what a newer version writes"[..],
            "version 99",
        ),
    ] {
        fs::write(&model, bytes).unwrap();
        for command in commands {
            let called = call(folder.path(), command);
            assert!(!called.success);
            assert!(called.stderr.contains("model.esp"), "{}", called.stderr);
            assert!(called.stderr.contains(word), "{}", called.stderr);
        }
    }
}

#[test]
fn flash_without_a_probe_says_so() {
    // The model is checked first, so one is needed.
    let folder = project(&PROJECT.replace("article", "lenet5"));
    if !espalier_tests::command::can_emulate("flash_without_a_probe_says_so") {
        return;
    }
    let trained = call(folder.path(), ["build", "--board", "mps2-an386"]);
    assert!(
        folder.path().join("out/model.esp").is_file(),
        "{}",
        trained.stderr
    );
    let called = call(folder.path(), ["flash", "out/model.esp"]);
    assert!(!called.success);
    assert!(called.stderr.contains("probe"), "{}", called.stderr);
}

#[test]
fn new_refuses_a_folder_in_use() {
    let folder = project(PROJECT);
    fails(folder.path(), &["new", "."], &["not empty"]);
    assert!(call(folder.path(), ["new", "fresh"]).success);
    assert!(folder.path().join("fresh/espalier.toml").is_file());
    fails(&folder.path().join("fresh"), &["build"], &["data"]);
}
