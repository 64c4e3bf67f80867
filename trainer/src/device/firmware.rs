//! Builds the firmware for a board.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::board::Board;
use super::toolchain::{Toolchain, ToolchainError};

/// Where the firmware's source lies, if not beside the trainer's.
pub const SOURCE_VARIABLE: &str = "ESPALIER_FIRMWARE";

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// Its source is not where it should be.
    #[error(
        "the firmware's source is not at {}: set {SOURCE_VARIABLE} to the folder `firmware` of a copy of espalier's repository",
        .0.display()
    )]
    NoSource(PathBuf),
    /// Nothing compiles for the chip.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// cargo does not start.
    #[error("{program} does not start: {source}")]
    Cargo {
        /// The cargo that was called.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// cargo failed.
    #[error("the firmware for {board} does not compile; the end of what cargo says:\n{tail}")]
    Compile {
        /// The board.
        board: &'static str,
        /// The last lines of cargo's output.
        tail: String,
    },
    /// A file could not be used.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The folder with the firmware's source.
pub fn source() -> Result<PathBuf, FirmwareError> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware");
    let folder = std::env::var_os(SOURCE_VARIABLE).map_or_else(beside, PathBuf::from);
    if folder.join("Cargo.toml").is_file() && folder.join("boards").is_dir() {
        Ok(folder)
    } else {
        Err(FirmwareError::NoSource(folder))
    }
}

/// Builds the firmware for a board and gives the path of its ELF. What is built already is not built again.
pub fn build(board: &Board) -> Result<PathBuf, FirmwareError> {
    build_program(board, &FIRMWARE)
}

/// As [`build`], the program of `firmware/examples/bare.rs`: the engine and nothing else, to weigh it.
pub fn build_bare(board: &Board) -> Result<PathBuf, FirmwareError> {
    build_program(board, &BARE)
}

/// One program of the firmware's package.
struct Program {
    /// What chooses it on cargo's command line.
    arguments: &'static [&'static str],
    /// Where cargo puts it, in the folder of the target.
    built: &'static str,
    /// What follows the board's name where it is kept.
    suffix: &'static str,
}

const FIRMWARE: Program = Program {
    arguments: &["--bins"],
    built: "firmware/espalier-firmware",
    suffix: "",
};
const BARE: Program = Program {
    arguments: &["--example", "bare"],
    built: "firmware/examples/bare",
    suffix: "-bare",
};

fn build_program(board: &Board, program: &Program) -> Result<PathBuf, FirmwareError> {
    let source = source()?;
    let toolchain = Toolchain::find(&board.target)?;
    let target = target_folder(&source)?;
    fs::create_dir_all(&target).map_err(|source| FirmwareError::File {
        path: target.clone(),
        source,
    })?;
    // All boards share one target folder and so most of what is compiled, but cargo puts every board's ELF at the same
    // place. Nobody else may build until it is copied from there.
    let _lock = lock(&target.join("espalier.lock"))?;
    compile(board, program, &toolchain, &source, &target)?;
    let built = target.join(&board.target).join(program.built);
    let kept = format!("{}{}.elf", board.name, program.suffix);
    keep(&built, &target.join(kept))
}

/// A folder of its own, so that the cargo that runs this program does not stand in the way.
fn target_folder(source: &Path) -> Result<PathBuf, FirmwareError> {
    let outer = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| source.join("../target"), PathBuf::from);
    let folder = outer.join("chip");
    std::path::absolute(&folder).map_err(|source| FirmwareError::File {
        path: folder,
        source,
    })
}

fn lock(path: &Path) -> Result<File, FirmwareError> {
    let locked = File::create(path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| FirmwareError::File {
        path: path.to_owned(),
        source,
    })
}

fn compile(
    board: &Board,
    program: &Program,
    toolchain: &Toolchain,
    source: &Path,
    target: &Path,
) -> Result<(), FirmwareError> {
    tracing::info!("building the firmware for {}", board.name);
    let mut cargo = toolchain.cargo_build(&board.target, &board.cpu);
    cargo
        .args(["--profile", "firmware", "--features", board.name])
        .args(program.arguments)
        .current_dir(source);
    cargo.arg("--target-dir").arg(target);
    let output = cargo.output().map_err(|source| FirmwareError::Cargo {
        program: cargo.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(FirmwareError::Compile {
            board: board.name,
            tail: tail(&said, 40),
        })
    }
}

/// Copies by renaming, so that whoever reads the old file keeps it whole.
fn keep(built: &Path, kept: &Path) -> Result<PathBuf, FirmwareError> {
    let fresh = kept.with_extension("new");
    fs::copy(built, &fresh).map_err(|source| FirmwareError::File {
        path: built.to_owned(),
        source,
    })?;
    fs::rename(&fresh, kept).map_err(|source| FirmwareError::File {
        path: kept.to_owned(),
        source,
    })?;
    Ok(kept.to_owned())
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_source_lies_beside_the_trainer() {
        assert!(
            source()
                .unwrap()
                .join("boards/mps2-an386/board.toml")
                .is_file()
        );
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_kept_file_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (built, kept) = (folder.path().join("built"), folder.path().join("board.elf"));
        for content in ["one", "two"] {
            fs::write(&built, content).unwrap();
            assert_eq!(keep(&built, &kept).unwrap(), kept);
            assert_eq!(fs::read_to_string(&kept).unwrap(), content);
        }
    }

    #[test]
    fn missing_output_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let message = keep(&folder.path().join("nothing"), &folder.path().join("elf"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("nothing"), "{message}");
    }
}
