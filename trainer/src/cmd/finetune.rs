//! `espalier finetune`: a training that starts from a trained network.

use clap::Args;

use super::Error;
use super::train::{self, Trained};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    train: train::Cmd,
}

impl Cmd {
    /// Trains on and scores on the test part.
    pub fn run(self) -> Result<Trained, Error> {
        let project = self.train.project()?;
        if project.train.base.is_none() {
            return Err(Error::NoBase);
        }
        self.train.train(&project)
    }
}
