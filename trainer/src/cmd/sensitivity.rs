//! `espalier sensitivity`: which layers mind being compressed.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::compress::sensitivity::{Change, Sensitivity, scan};
use espalier::config::{DataOptions, Project};
use serde::Serialize;

use super::Error;
use crate::flags::Flags;
use crate::output::{Report, table, thousands};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Trained checkpoint (.safetensors)
    checkpoint: PathBuf,
    /// Project folder, or its espalier.toml: the pictures to answer
    #[arg(long, default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    data: Flags<DataOptions>,
}

/// What every change costs.
#[derive(Serialize)]
pub struct Scanned {
    /// Accuracy of the whole network, a fraction of 1.
    pub accuracy: f64,
    /// The pictures: validation, or training where there are none.
    pub pictures: &'static str,
    pub layers: Vec<Sensitivity>,
}

impl Cmd {
    /// Changes one layer at a time and answers the validation pictures.
    pub fn run(self) -> Result<Scanned, Error> {
        let project = Project::load(&self.project, &[self.data.table()])?;
        let checkpoint = Checkpoint::load(&self.checkpoint)?;
        let data = project.pictures()?;
        let (pictures, set) = match &data.validation {
            Some(validation) => ("validation", validation),
            None => ("training", &data.train),
        };
        let (accuracy, layers) = scan(&checkpoint, set)?;
        Ok(Scanned {
            accuracy,
            pictures,
            layers,
        })
    }
}

impl Report for Scanned {}

impl fmt::Display for Scanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(["layer", "parameters", "change", "accuracy", "lost"]);
        for Sensitivity {
            layer,
            params,
            accuracy,
            change,
        } in &self.layers
        {
            let change = match change {
                Change::Sparsity(share) => format!("{:.0} % of weights 0", 100.0 * share),
                Change::Bits(bits) => format!("{bits} bits"),
                Change::Channels(share) => format!("{:.0} % of channels 0", 100.0 * share),
            };
            rows.add_row([
                layer.clone(),
                thousands(*params as u64),
                change,
                format!("{:.1} %", 100.0 * accuracy),
                format!("{:.1}", 100.0 * (self.accuracy - accuracy)),
            ]);
        }
        writeln!(f, "{rows}")?;
        write!(
            f,
            "{:.1} % of the {} pictures with nothing changed; nothing was fine-tuned",
            100.0 * self.accuracy,
            self.pictures
        )
    }
}
