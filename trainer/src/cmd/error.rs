//! Every way in which a command fails, as one sentence with a hint.

use std::path::PathBuf;

use espalier::checkpoint::CheckpointError;
use espalier::config::ConfigError;
use espalier::data::DataError;
use espalier::network::NetworkError;
use espalier::quantise::ExportError;
use espalier::simulate::SimulateError;
use espalier::train::TrainError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder that cannot be written.
    #[error("{}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a model file, or a damaged one.
    #[error("{}: {reason}; make it again with `espalier build` or `espalier export`", file.display())]
    Model {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: shared::ParseError,
    },
    /// `new` on a folder that is in use.
    #[error("{}: the folder is not empty; name a new one", .0.display())]
    NotEmpty(PathBuf),
    /// `--resume` with nothing to go on from.
    #[error("{}: there is no checkpoint to resume from; run without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// A handler for Ctrl-C could not be set.
    #[error("Ctrl-C cannot be handled: {0}")]
    Signal(#[from] ctrlc::Error),
    /// See the type.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See the type.
    #[error(transparent)]
    Data(#[from] DataError),
    /// See the type.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// See the type.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// See the type.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// See the type.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// See the type.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}
