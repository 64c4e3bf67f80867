//! What a network costs as a model file on a board.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::{Model, ParseError};

use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::device::Board;
use crate::device::emulator::{self, EmulatorError};
use crate::device::firmware::{self, FirmwareError};
use crate::device::footprint::{Footprint, FootprintError};
use crate::quantise::{ExportError, ExportOptions, calibrate, export};
use crate::train::TrainError;

/// How long the emulator may take for the self-test of a model.
const LIMIT: Duration = Duration::from_secs(60);

/// What a network costs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Weights and biases, zeros counted.
    pub params: usize,
    /// Those that are not 0.
    pub nonzeros: usize,
    /// Distinct weights of each layer, added up.
    pub distinct: usize,
    /// Bytes of the model file, with indices and codebooks.
    pub model_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Multiply-accumulates of one inference.
    pub macs: u64,
    /// What only the firmware shows; nothing where it cannot be built or emulated, or
    /// where the model does not fit the board.
    pub on_chip: Option<OnChip>,
}

/// Measured with the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OnChip {
    /// Bytes of flash: model, code and constants.
    pub flash_bytes: u64,
    /// Bytes of RAM: arena, statics and stack.
    pub ram_bytes: u64,
    /// Instructions of one inference in the emulator. Not cycles.
    pub instructions: u64,
}

/// Why a cost is not known.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The network cannot be calibrated.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The network cannot be a model file.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A model file that was just written is none.
    #[error(transparent)]
    Model(#[from] ParseError),
    /// The firmware was not built.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The firmware.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has no size.
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    /// The emulator did not run it.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

/// Measures networks.
pub struct Meter<'a> {
    /// Pictures to calibrate on.
    pub train: &'a Dataset,
    /// How model files are made.
    pub export: &'a ExportOptions,
    /// The emulated board and its firmware, where there is one.
    pub chip: Option<Chip>,
}

/// A board and its firmware.
pub struct Chip {
    board: Board,
    elf: PathBuf,
    footprint: Footprint,
}

impl Chip {
    /// Builds the firmware of an emulated board.
    pub fn new(board: Board) -> Result<Self, CostError> {
        emulator::find()?;
        let elf = firmware::build(&board)?;
        let bytes = std::fs::read(&elf).map_err(|source| CostError::Read {
            file: elf.clone(),
            source,
        })?;
        let footprint = Footprint::of_elf(&bytes)?;
        Ok(Self {
            board,
            elf,
            footprint,
        })
    }

    fn measure(&self, model: &Model) -> Result<OnChip, CostError> {
        let run = emulator::run(&self.board, &self.elf, model.file(), &[], LIMIT)?;
        let stack = u64::from(run.report.stack_bytes);
        Ok(OnChip {
            flash_bytes: self.footprint.flash() + model.file_bytes() as u64,
            ram_bytes: model.arena_bytes() as u64 + self.footprint.statics() + stack,
            instructions: run.work_per_inference(),
        })
    }
}

impl Meter<'_> {
    /// The model file of a network, and what it costs.
    pub fn measure(&self, checkpoint: &Checkpoint) -> Result<(Vec<u8>, Cost), CostError> {
        self.measured(checkpoint, self.chip.as_ref())
    }

    /// The same without the emulator, which takes longer than all the rest.
    pub fn measure_file(&self, checkpoint: &Checkpoint) -> Result<(Vec<u8>, Cost), CostError> {
        self.measured(checkpoint, None)
    }

    fn measured(
        &self,
        checkpoint: &Checkpoint,
        chip: Option<&Chip>,
    ) -> Result<(Vec<u8>, Cost), CostError> {
        let ranges = calibrate(checkpoint, self.train, self.export)?;
        let bytes = export(checkpoint, &ranges, self.export)?.bytes;
        let model = Model::parse(&bytes)?;
        let arena_bytes = model.arena_bytes();
        let fits = |chip: &&Chip| chip.board.admit(bytes.len(), arena_bytes).is_ok();
        let on_chip = chip.filter(fits).map(|chip| chip.measure(&model));
        let cost = Cost {
            params: checkpoint.parameters(),
            nonzeros: checkpoint.nonzeros(),
            distinct: super::share::distinct_weights(checkpoint),
            model_bytes: bytes.len(),
            arena_bytes,
            macs: model.steps().map(|step| model.macs(&step)).sum(),
            on_chip: on_chip.transpose()?,
        };
        Ok((bytes, cost))
    }
}
