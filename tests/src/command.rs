//! The real command line, as a user calls it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use espalier::device::Board;
use espalier::device::toolchain::Toolchain;
use serde_json::Value;
use tempfile::TempDir;

/// Set by `tests/run`: a test that cannot run then fails.
const RUN_ALL: &str = "ESPALIER_TEST_ALL";

/// Folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The `espalier` binary, built once, in the profile of the tests.
pub fn espalier() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // .../PROFILE/deps/TEST
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test
            .ancestors()
            .nth(2)
            .expect("a test lies in its profile's folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "espalier",
            "--bin",
            "espalier",
        ]);
        cargo.current_dir(workspace());
        if cfg!(feature = "candle") {
            cargo.args(["--features", "candle"]);
        }
        // Cargo tells a test which package it belongs to. Build scripts, ring's for one, run
        // again where they are told something else, and all that depends on them is compiled
        // again.
        let of_the_test =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(of_the_test) {
                cargo.env_remove(name);
            }
        }
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo starts").success());
        profile.join("espalier")
    })
}

/// What a call of `espalier` gave.
#[derive(Debug)]
pub struct Called {
    /// Whether it exited with 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Called {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Calls `espalier` in a folder.
pub fn call<I: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Called {
    let mut command = Command::new(espalier());
    command.args(arguments).current_dir(folder);
    command.output().expect("espalier starts").into()
}

/// Calls `espalier` in a folder and kills it (SIGKILL) when it is time, within two minutes.
pub fn kill_when<I: AsRef<OsStr>>(
    folder: &Path,
    arguments: impl IntoIterator<Item = I>,
    is_time: impl Fn() -> bool,
) {
    let mut command = Command::new(espalier());
    command.args(arguments).current_dir(folder);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut called = command.spawn().expect("espalier starts");
    let begin = Instant::now();
    while !is_time() && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    called.kill().expect("a process that can be killed");
    called.wait().expect("a process that ends");
    assert!(is_time(), "nothing to kill it at within two minutes");
}

/// Calls `espalier` with `--json` and reads the one object it prints.
pub fn json<I: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Value {
    let arguments: Vec<_> = arguments
        .into_iter()
        .map(|a| a.as_ref().to_owned())
        .collect();
    let called = call(
        folder,
        arguments
            .iter()
            .map(|a| a.as_os_str())
            .chain([OsStr::new("--json")]),
    );
    assert!(called.success, "{arguments:?}: {}", called.stderr);
    serde_json::from_str(&called.stdout).expect("one JSON object on standard output")
}

/// Says that a test was not run, past the capture of the test runner; under
/// `tests/run` that is a failure.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os(RUN_ALL).is_none(),
        "{test} cannot run: {why}"
    );
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Whether the firmware of a board can be compiled here.
pub fn can_compile(board: &Board, test: &str) -> bool {
    let missing = Toolchain::find(&board.target).err();
    if let Some(why) = &missing {
        skip(test, &why.to_string());
    }
    missing.is_none()
}

/// Whether the chip can be compiled for and emulated here.
pub fn can_emulate(test: &str) -> bool {
    let board = Board::named("mps2-an386").expect("a board of the firmware");
    let qemu = Command::new("qemu-system-arm").arg("--version").output();
    if qemu.is_err() {
        skip(test, "qemu-system-arm is not installed");
    }
    qemu.is_ok() && can_compile(&board, test)
}

/// A project of its own, with the pictures of the example, and its folder.
pub fn project_of_the_example(toml: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    for part in ["train", "test"] {
        let from = workspace().join("examples/fashion").join(part);
        copy_folder(&from, &path.join(part));
    }
    std::fs::write(path.join("espalier.toml"), toml).expect("a new file");
    (folder, path)
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copied file");
        }
    }
}
