//! `espalier compress`: a smaller checkpoint.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::compress::CompressOptions;
use espalier::compress::clip::clip;
use espalier::compress::factorise::factorise;
use espalier::compress::finetune::finetune;
use espalier::compress::importance::importance;
use espalier::compress::scale::scale;
use espalier::compress::structured::{Preference, Shrinking};
use espalier::config::{Pictures, Project};
use espalier::data::Dataset;
use espalier::score::Score;
use espalier::train::Hooks;
use serde::Serialize;
use shared::layer::Layer;

use super::Error;
use super::project::stop_on_ctrl_c;
use super::train::{SAVE_EVERY, answers};
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
    /// Go on with a compression that was stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    compress: Flags<CompressOptions>,
}

/// A compressed network.
#[derive(Serialize)]
pub struct Compressed {
    /// Accuracy of the compressed float network on the test part, a fraction of 1.
    pub accuracy: f64,
    /// Of the test pictures, how many get another answer than before.
    pub answers_changed: usize,
    /// Before it was compressed, as `params`.
    pub params_before: usize,
    /// Weights and biases, zeros counted.
    pub params: usize,
    pub nonzeros: usize,
    pub seconds: f64,
    pub checkpoint: PathBuf,
    #[serde(flatten)]
    pub score: Score,
}

impl Cmd {
    /// Compresses and scores on the test part.
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
    let from = match resume {
        true => Checkpoint::load(&unfinished)?,
        false => reduced(&trained, &data.train, &project.compress)?,
    };
    let hooks = Hooks {
        stop,
        save: Some(&unfinished),
        save_every: SAVE_EVERY,
        label: "compress",
    };
    let options = project.train_options();
    let pruned = match project.compress.is_fine_tuned() {
        false => from,
        true => finetune(
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
    let pruned = clipped(pruned, &project.compress);
    pruned.save(&checkpoint)?;
    super::project::remove(&unfinished);
    let (before, after) = (
        answers(&trained, &data.test)?,
        answers(&pruned, &data.test)?,
    );
    let score = Score::new(&data.test, &after);
    let summary = Compressed {
        accuracy: score.accuracy,
        answers_changed: before.iter().zip(&after).filter(|(a, b)| a != b).count(),
        params_before: trained.parameters(),
        params: pruned.parameters(),
        nonzeros: pruned.nonzeros(),
        seconds: begin.elapsed().as_secs_f64(),
        checkpoint,
        score,
    };
    Ok((pruned, summary))
}

/// What is left to fine-tune.
fn reduced(
    trained: &Checkpoint,
    data: &Dataset,
    options: &CompressOptions,
) -> Result<Checkpoint, Error> {
    let scaled = match options.scale {
        1.0 => trained.clone(),
        factor => {
            warn_of_softmax(trained, factor);
            scale(trained, factor, options.scale_mode)?
        }
    };
    let clipped = clipped(scaled, options);
    let factorised = match &options.factorise {
        Some(ranks) => factorise(&clipped, ranks)?,
        None => clipped,
    };
    let Some(target) = options.target_params else {
        return Ok(factorised);
    };
    let importance = importance(&factorised, options.importance, data)?;
    let shrinking = Shrinking::new(&factorised, &importance, &Preference::new());
    Ok(shrinking.after(shrinking.steps_to(target)?)?)
}

fn warn_of_softmax(trained: &Checkpoint, factor: f32) {
    let last = trained.network.nodes.last();
    if factor < 1.0 && last.is_some_and(|node| node.layer == Layer::Softmax) {
        tracing::warn!(
            "smaller logits flatten the softmax: in int8 its outputs may all be equal; \
             leave `softmax` out of the network to keep the classes there"
        );
    }
}

fn clipped(checkpoint: Checkpoint, options: &CompressOptions) -> Checkpoint {
    match options.clip {
        Some(limit) => clip(checkpoint, limit),
        None => checkpoint,
    }
}

impl Report for Compressed {}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize| thousands(number as u64);
        let (changed, tested) = (count(self.answers_changed), count(self.score.total));
        let (params, before) = (count(self.params), count(self.params_before));
        writeln!(f, "accuracy         {}", self.score.percent())?;
        writeln!(
            f,
            "answers          {changed} of {tested} are others than before"
        )?;
        writeln!(
            f,
            "parameters       {params} of {before}, {} of them not zero",
            count(self.nonzeros)
        )?;
        writeln!(f, "took             {:.1} s", self.seconds)?;
        write!(f, "checkpoint       {}", self.checkpoint.display())
    }
}
