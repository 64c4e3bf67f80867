//! Every way in which a command fails, as one sentence with a hint.

use std::path::PathBuf;

use espalier::checkpoint::CheckpointError;
use espalier::compress::cost::CostError;
use espalier::compress::scale::ScaleError;
use espalier::compress::search::SearchError;
use espalier::compress::structured::StructuredError;
use espalier::confidence::ConfidenceError;
use espalier::config::ConfigError;
use espalier::data::{DataError, PictureShape};
use espalier::device::board::BoardError;
use espalier::device::chips::UnknownChip;
use espalier::device::emulator::EmulatorError;
use espalier::device::firmware::FirmwareError;
use espalier::device::footprint::FootprintError;
use espalier::device::probe::ProbeError;
use espalier::distributed::{DeviceError, TokenError};
use espalier::explain::ExplainError;
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
    /// Pictures that no network takes.
    #[error("pictures of {shape}: {reason}; set data.size")]
    Input {
        /// Their shape.
        shape: PictureShape,
        /// Why.
        reason: shared::layer::ShapeError,
    },
    /// A target that only the firmware shows.
    #[error("a target of flash, RAM or instructions needs the emulated firmware: {0}")]
    NoChip(String),
    /// A value for a layer that is not there.
    #[error("compress.{key} names `{name}`, which is no layer with weights; there are {layers}")]
    NoLayer {
        /// The key.
        key: &'static str,
        /// The layer.
        name: String,
        /// All layers.
        layers: String,
    },
    /// A checkpoint of `compress.teachers` that has nothing to teach here.
    #[error("{}, of compress.teachers: {source}", file.display())]
    Teacher {
        /// The checkpoint.
        file: PathBuf,
        /// Why.
        source: Box<TrainError>,
    },
    /// A fine-tuning from nothing.
    #[error(
        "there is nothing to fine-tune: give the checkpoint to start from as `--base CKPT` or `train.base`, or call `espalier train`"
    )]
    NoBase,
    /// `--backend candle` without Candle.
    #[error(
        "this espalier was built without Candle: build it with `cargo build --release -p espalier --features candle`, \
         or take the default, `--backend flex`"
    )]
    #[cfg_attr(feature = "candle", allow(dead_code))]
    NoCandle,
    /// `--backend candle` on other devices.
    #[error(
        "Candle computes on the cores of this machine only: leave out `--device`, or `--backend candle`"
    )]
    CandleDevices,
    /// `--resume` where nothing was stopped.
    #[error("{}: no compression was stopped here; start without `--resume`", .0.display())]
    NothingToResume(PathBuf),
    /// `--resume` of a training of another network.
    #[error("{}: another network than `[network]` describes now; start anew without `--resume`", .0.display())]
    OtherNetwork(PathBuf),
    /// A curve of nothing.
    #[error(
        "a curve needs at least one picture of each class and one seed: `--shots 10,50 --seeds 5`"
    )]
    NoShots,
    /// A curve was stopped.
    #[error("stopped; what is finished is in {}: go on with `--resume`", .0.display())]
    CurveStopped(PathBuf),
    /// A curve of another project.
    #[error("{}: that curve is of other pictures or options; start anew without `--resume`", .0.display())]
    OtherCurve(PathBuf),
    /// What a network costs is not known.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A search found nothing.
    #[error(transparent)]
    Search(#[from] SearchError),
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
    Structured(#[from] StructuredError),
    /// See the type.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// See the type.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// See the type.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// See the type.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// See the type.
    #[error(transparent)]
    Confidence(#[from] ConfidenceError),
    /// See the type.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// See the type.
    #[error(transparent)]
    Chip(#[from] UnknownChip),
    /// See the type.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// See the type.
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    /// See the type.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// See the type.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// See the type.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// See the type.
    #[error(transparent)]
    Token(#[from] TokenError),
}
