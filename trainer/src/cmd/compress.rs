//! `espalier compress`: a smaller checkpoint.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::compress::prune::prune;
use espalier::compress::{CompressOptions, structured};
use espalier::config::{Pictures, Project};
use espalier::score::Score;
use espalier::train::Hooks;
use serde::Serialize;

use super::Error;
use super::project::stop_on_ctrl_c;
use super::train::{SAVE_EVERY, score};
use crate::flags::Flags;
use crate::output::{Report, thousands};

/// Name of the result in the output folder.
const PRUNED: &str = "pruned.safetensors";
/// Where an unfinished pruning is saved.
pub const UNFINISHED: &str = "pruned.unfinished.safetensors";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Trained checkpoint (.safetensors)
    checkpoint: PathBuf,
    /// Project folder, or its espalier.toml: the pictures to fine-tune on
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// Go on with a pruning that was stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    compress: Flags<CompressOptions>,
}

/// A pruned network.
#[derive(Serialize)]
pub struct Compressed {
    /// Accuracy of the pruned float network on the test part, a fraction of 1.
    pub accuracy: f64,
    pub params: usize,
    pub nonzeros: usize,
    pub seconds: f64,
    pub checkpoint: PathBuf,
    #[serde(flatten)]
    pub score: Score,
}

impl Cmd {
    /// Prunes and scores on the test part.
    pub fn run(self) -> Result<Compressed, Error> {
        let project = Project::load(&self.project, &[self.compress.table()])?;
        let data = project.pictures()?;
        let trained = Checkpoint::load(&self.checkpoint)?;
        let stop = stop_on_ctrl_c()?;
        Ok(step(&project, &data, trained, self.resume, &stop)?.1)
    }
}

/// The compression step of a build.
pub fn step(
    project: &Project,
    data: &Pictures,
    trained: Checkpoint,
    resume: bool,
    stop: &AtomicBool,
) -> Result<(Checkpoint, Compressed), Error> {
    let begin = Instant::now();
    let unfinished = project.output(UNFINISHED);
    let from = match (resume, project.compress.target_params) {
        (true, _) => Checkpoint::load(&unfinished)?,
        (false, Some(target)) => structured::remove(&trained, target)?,
        (false, None) => trained.clone(),
    };
    let hooks = Hooks {
        stop,
        save: Some(&unfinished),
        save_every: SAVE_EVERY,
        label: "prune",
    };
    let options = project.train_options();
    let pruned = match project.compress.is_something() {
        false => from,
        true => prune(
            from,
            &trained,
            &data.train,
            &project.compress,
            &options,
            &project.augment,
            &hooks,
        )?,
    };
    let checkpoint = project.output(PRUNED);
    pruned.save(&checkpoint)?;
    super::project::remove(&unfinished);
    let score = score(&pruned, &data.test)?;
    let summary = Compressed {
        accuracy: score.accuracy,
        params: pruned.parameters(),
        nonzeros: pruned.nonzeros(),
        seconds: begin.elapsed().as_secs_f64(),
        checkpoint,
        score,
    };
    Ok((pruned, summary))
}

impl Report for Compressed {}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (params, nonzeros) = (self.params as u64, self.nonzeros as u64);
        writeln!(f, "pruned accuracy  {}", self.score.percent())?;
        writeln!(
            f,
            "parameters       {}, {} of them not zero",
            thousands(params),
            thousands(nonzeros)
        )?;
        writeln!(f, "pruned in        {:.1} s", self.seconds)?;
        write!(f, "checkpoint       {}", self.checkpoint.display())
    }
}
