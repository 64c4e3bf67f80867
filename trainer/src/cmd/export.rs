//! `espalier export`: a checkpoint as a model file.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::confidence::{self, Calibrated};
use espalier::config::{Pictures, Project};
use espalier::data::Dataset;
use espalier::device::Board;
use espalier::quantise::layout::Cost;
use espalier::quantise::{
    self, Choice, DeadChannels, ExportError, ExportOptions, calibrate, with_confidence,
};
use serde::Serialize;
use shared::kernels::Storage;

use super::Error;
use super::model::{parameters, parse};
use crate::flags::Flags;
use crate::output::{Report, table, thousands};

/// Name of the result in the output folder.
const MODEL: &str = "model.esp";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Checkpoint (.safetensors)
    checkpoint: PathBuf,
    /// Project folder, or its espalier.toml: the pictures to calibrate on
    #[arg(long, default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    export: Flags<ExportOptions>,
}

/// A written model file.
#[derive(Serialize)]
pub struct Exported {
    pub model_bytes: usize,
    pub arena_bytes: usize,
    pub params: usize,
    pub nonzeros: usize,
    /// The layers that lost channels which cannot change an output byte.
    pub dead_channels: Vec<DeadChannels>,
    /// How each layer with weights is stored, and what it would cost otherwise.
    pub layouts: Vec<Choice>,
    /// When the model answers, where it need not always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Calibrated>,
    pub model: PathBuf,
}

impl Cmd {
    /// Calibrates, quantises and writes.
    pub fn run(self) -> Result<Exported, Error> {
        let project = Project::load(&self.project, &[self.export.table()])?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let pictures = project.pictures()?;
        super::project::warn_of_split(&self.checkpoint, &checkpoint, &pictures);
        Ok(step(&project, &pictures, &checkpoint)?.1)
    }
}

/// The export step of a build. A model that does not fit the board is refused
/// here, before anything is written.
pub fn step(
    project: &Project,
    pictures: &Pictures,
    checkpoint: &Checkpoint,
) -> Result<(Vec<u8>, Exported), Error> {
    let board = Board::named(&project.board.name)?;
    let ranges = calibrate(checkpoint, &pictures.train, &project.export)?;
    let quantise::Exported {
        bytes,
        dead_channels,
        layouts,
    } = quantise::export(checkpoint, &ranges, &project.export)?;
    let file = project.output(MODEL);
    let (bytes, confidence) = match (project.export.abstain, &pictures.validation) {
        (Some(wanted), Some(validation)) => {
            let (bytes, calibrated) = with_abstention(&bytes, &file, validation, wanted)?;
            (bytes, Some(calibrated))
        }
        // A project that wants to abstain has validation pictures.
        _ => (bytes, None),
    };
    let model = parse(&bytes, &file)?;
    let arena_bytes = model.arena_bytes();
    let (params, nonzeros) = parameters(&model);
    board.admit(bytes.len(), arena_bytes)?;
    espalier::file::save(&file, &bytes).map_err(|source| Error::Write {
        file: file.clone(),
        source,
    })?;
    let summary = Exported {
        model_bytes: bytes.len(),
        arena_bytes,
        params,
        nonzeros,
        dead_channels,
        layouts,
        confidence,
        model: file,
    };
    Ok((bytes, summary))
}

/// The model with a temperature, and the margin that leaves answers this good.
fn with_abstention(
    bytes: &[u8],
    file: &Path,
    validation: &Dataset,
    wanted: f64,
) -> Result<(Vec<u8>, Calibrated), Error> {
    let model = parse(bytes, file)?;
    let (confidence, calibrated) = confidence::calibrate(&model, validation, wanted)?;
    let bytes = with_confidence(bytes, &confidence).map_err(ExportError::from)?;
    Ok((bytes, calibrated))
}

impl Exported {
    /// The dead channels in words.
    pub fn dead(&self) -> String {
        let part = |dead: &DeadChannels| {
            let DeadChannels { layer, removed, of } = dead;
            format!("{removed} of {of} channels of {layer}")
        };
        match self.dead_channels.as_slice() {
            [] => "no channel".to_owned(),
            dead => dead.iter().map(part).collect::<Vec<_>>().join(", "),
        }
    }

    /// The layers that are stored like this in words.
    pub fn stored(&self, storage: Storage) -> String {
        let stored = self
            .layouts
            .iter()
            .filter(|choice| choice.storage == storage);
        let names: Vec<&str> = stored.map(|choice| choice.layer.as_str()).collect();
        match names.as_slice() {
            [] => "no layer".to_owned(),
            names => names.join(", "),
        }
    }

    /// What each layer costs dense, sparse and coded.
    fn layouts(&self) -> impl fmt::Display {
        let mut rows = table([
            "layer",
            "zeros",
            "instructions dense",
            "sparse",
            "coded",
            "bytes dense",
            "sparse",
            "coded",
            "stored",
            "sparse is faster",
        ]);
        for choice in &self.layouts {
            let costs = [Some(choice.dense), choice.sparse, choice.coded];
            let cells = |of: fn(Cost) -> u64| {
                costs.map(|cost| cost.map_or(String::new(), |cost| thousands(of(cost))))
            };
            let [dense, sparse, coded] = cells(|cost| cost.instructions);
            let [dense_bytes, sparse_bytes, coded_bytes] = cells(|cost| cost.bytes as u64);
            rows.add_row([
                choice.layer.clone(),
                format!("{:.1} %", choice.zeros_percent),
                dense,
                sparse,
                coded,
                dense_bytes,
                sparse_bytes,
                coded_bytes,
                choice.storage.name().to_owned(),
                match choice.faster_from_percent {
                    Some(limit) if limit < 100.0 => format!("from {limit:.0} %"),
                    _ => "never".to_owned(),
                },
            ]);
        }
        rows
    }
}

impl Report for Exported {}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model  {} bytes", thousands(self.model_bytes as u64))?;
        writeln!(f, "arena  {} bytes", thousands(self.arena_bytes as u64))?;
        writeln!(f, "dead   {}, left out", self.dead())?;
        if let Some(calibrated) = &self.confidence {
            writeln!(f, "sure   validation: {}", calibrated.answered.words())?;
            writeln!(
                f,
                "       where logits are {} steps apart; calibration error {:.3}, {:.3} at temperature {:.2}",
                calibrated.margin,
                calibrated.calibration_error_before,
                calibrated.answered.calibration_error,
                calibrated.answered.temperature
            )?;
        }
        writeln!(f, "{}", self.layouts())?;
        writeln!(
            f,
            "Instructions, not cycles: estimated for a Cortex-M4 from measurements in the emulator."
        )?;
        write!(f, "file   {}", self.model.display())
    }
}
