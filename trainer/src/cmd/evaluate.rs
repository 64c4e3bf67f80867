//! `espalier evaluate`: the float network of a checkpoint on pictures.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::data::{Options, Part};
use espalier::score::Score;
use serde::Serialize;

use super::Error;
use super::backend::BackendFlag;
use super::simulate::confusion;
use crate::output::Report;

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Checkpoint (.safetensors)
    checkpoint: PathBuf,
    /// Folder of class folders, folder of IDX files, fashion-mnist, shapes, or a project folder
    source: PathBuf,
    /// Use the training part instead of the test part
    #[arg(long)]
    train_part: bool,
    #[command(flatten)]
    backend: BackendFlag,
}

/// Accuracy and confusion.
#[derive(Serialize)]
pub struct Evaluation {
    #[serde(flatten)]
    score: Score,
    seconds: f64,
}

impl Cmd {
    /// Answers every picture.
    pub fn run(self) -> Result<Evaluation, Error> {
        let backend = self.backend.chosen()?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let input = checkpoint.network.input;
        let options = Options {
            size: Some((input.height(), input.width())),
            channels: Some(input.channels()),
            resize: checkpoint.resize,
        };
        let part = match self.train_part {
            true => Part::Train,
            false => Part::Test,
        };
        let dataset = super::project::part(&self.source, part, options)?;
        let start = Instant::now();
        let answers = backend.answers(&checkpoint, &dataset)?;
        Ok(Evaluation {
            score: Score::new(&dataset, &answers),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl Report for Evaluation {}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Score { correct, total, .. } = &self.score;
        writeln!(f, "{}", confusion(&self.score))?;
        writeln!(f, "float accuracy     {}", self.score.percent())?;
        writeln!(f, "balanced accuracy  {}", self.score.balanced_percent())?;
        write!(f, "{correct} of {total} right in {:.2} s", self.seconds)
    }
}
