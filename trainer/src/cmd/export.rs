//! `espalier export`: a checkpoint as a model file.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::config::Project;
use espalier::data::Dataset;
use espalier::device::Board;
use espalier::quantise::{self, DeadChannels, ExportOptions, calibrate};
use serde::Serialize;

use super::Error;
use super::model::{parameters, parse};
use crate::flags::Flags;
use crate::output::{Report, thousands};

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
}

impl Report for Exported {}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model  {} bytes", thousands(self.model_bytes as u64))?;
        writeln!(f, "arena  {} bytes", thousands(self.arena_bytes as u64))?;
        writeln!(f, "dead   {}, left out", self.dead())?;
        write!(f, "file   {}", self.model.display())
    }
}
