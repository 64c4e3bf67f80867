//! `espalier export`: a checkpoint as a model file.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::config::Project;
use espalier::data::Dataset;
use espalier::device::Board;
use espalier::quantise::{self, Choice, DeadChannels, ExportOptions, calibrate};
use serde::Serialize;

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
    /// For each convolution and dense layer, whether its zeros are in the file, and
    /// what it costs with and without them.
    pub layouts: Vec<Choice>,
    pub model: PathBuf,
}

impl Cmd {
    /// Calibrates, quantises and writes.
    pub fn run(self) -> Result<Exported, Error> {
        let project = Project::load(&self.project, &[self.export.table()])?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let pictures = project.pictures()?;
        Ok(step(&project, &pictures.train, &checkpoint)?.1)
    }
}

/// The export step of a build. A model that does not fit the board is refused
/// here, before anything is written.
pub fn step(
    project: &Project,
    train: &Dataset,
    checkpoint: &Checkpoint,
) -> Result<(Vec<u8>, Exported), Error> {
    let board = Board::named(&project.board.name)?;
    let ranges = calibrate(checkpoint, train, project.export.calibration)?;
    let quantise::Exported {
        bytes,
        dead_channels,
        layouts,
    } = quantise::export(checkpoint, &ranges, &project.export)?;
    let file = project.output(MODEL);
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
        model: file,
    };
    Ok((bytes, summary))
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

    /// The sparse layers in words.
    pub fn sparse(&self) -> String {
        let sparse = self.layouts.iter().filter(|choice| choice.is_sparse);
        let names: Vec<&str> = sparse.map(|choice| choice.layer.as_str()).collect();
        match names.as_slice() {
            [] => "no layer".to_owned(),
            names => names.join(", "),
        }
    }

    /// What each layer costs with and without its zeros.
    fn layouts(&self) -> impl fmt::Display {
        let mut rows = table([
            "layer",
            "zeros",
            "instructions with",
            "without",
            "bytes with",
            "without",
            "stored",
            "without is faster",
        ]);
        for choice in &self.layouts {
            let limit = choice.faster_from_percent;
            rows.add_row([
                choice.layer.clone(),
                format!("{:.1} %", choice.zeros_percent),
                thousands(choice.dense.instructions),
                thousands(choice.sparse.instructions),
                thousands(choice.dense.bytes as u64),
                thousands(choice.sparse.bytes as u64),
                match choice.is_sparse {
                    true => "without zeros".to_owned(),
                    false => "with zeros".to_owned(),
                },
                if limit < 100.0 {
                    format!("from {limit:.0} %")
                } else {
                    "never".to_owned()
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
        writeln!(f, "{}", self.layouts())?;
        writeln!(
            f,
            "Instructions, not cycles: estimated for a Cortex-M4 from measurements in the emulator."
        )?;
        write!(f, "file   {}", self.model.display())
    }
}
