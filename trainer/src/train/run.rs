//! The training loop.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::module::{Module, ParamGroup};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Bytes, Device, Tensor};

use super::batch::{Batches, Prepared, Shard};
use super::curve::Curve;
use super::progress::Progress;
use super::schedule::rate;
use super::teacher::{Lesson, Taught};
use super::workers::Workers;
use super::{Hooks, TrainError, TrainOptions};
use crate::augment::Augmentation;
use crate::checkpoint::{Checkpoint, TrainingState};
use crate::data::Dataset;
use crate::network::{FloatNetwork, Masks, Network, numbers};

/// Pictures that one worker takes at a time. Fixed, so that the sums, and with
/// them the bits, do not depend on the number of cores.
const SHARD: usize = 16;

/// A pause between two saves is at least this many times as long as a save.
const SAVE_SHARE: u32 = 20;

/// Changes a network while it is trained: its weights, or what they may be. A weight that
/// is 0 stays 0.
pub(crate) trait Constraint {
    /// Whether anything is due before a step (from 0).
    fn due(&self, step: usize, steps: usize) -> bool;
    /// Does what is due.
    fn apply(&self, step: usize, steps: usize, checkpoint: &mut Checkpoint);
    /// Whether a step brings weights back that are 0.
    fn grows(&self, step: usize, steps: usize) -> bool;
    /// Brings them back, by the step's gradients: for each layer those of its weights.
    fn grow(
        &self,
        step: usize,
        steps: usize,
        gradients: &[Option<Vec<f32>>],
        checkpoint: &mut Checkpoint,
    );
}

/// What is trained how.
pub(crate) struct Job<'a> {
    pub data: &'a Dataset,
    pub options: &'a TrainOptions,
    pub augmentation: &'a Augmentation,
    pub constraint: Option<&'a dyn Constraint>,
    pub lesson: Option<Lesson<'a>>,
    pub hooks: &'a Hooks<'a>,
    /// Identifies the job; a training goes on only under the same.
    pub key: String,
}

/// Trains until the last step.
pub(crate) fn run(start: Checkpoint, job: &Job) -> Result<Checkpoint, TrainError> {
    let mut run = Run::new(start, job)?;
    let (mut saved, mut pause) = (Instant::now(), job.hooks.save_every);
    while run.step < run.steps {
        run.constrain();
        run.train_step()?;
        if job.hooks.stop.load(Ordering::Relaxed) {
            return Err(run.interrupted()?);
        }
        if saved.elapsed() >= pause {
            let begin = Instant::now();
            run.save()?;
            saved = Instant::now();
            pause = job.hooks.save_every.max(SAVE_SHARE * begin.elapsed());
        }
    }
    run.constrain();
    run.save_curve()?;
    run.checkpoint.tensors = run.network.to_tensors();
    Ok(run.checkpoint)
}

struct Run<'a> {
    job: &'a Job<'a>,
    /// Everything but the tensors is up to date.
    checkpoint: Checkpoint,
    network: FloatNetwork,
    optimiser: ModuleOptimizer,
    masks: Option<Masks>,
    batches: Batches<'a>,
    workers: Workers,
    /// Most pictures that one worker takes at a time.
    shard: usize,
    device: Device,
    progress: Progress,
    curve: Curve,
    /// Finished steps.
    step: usize,
    steps: usize,
}

impl<'a> Run<'a> {
    fn new(mut checkpoint: Checkpoint, job: &'a Job<'a>) -> Result<Self, TrainError> {
        let device = Device::flex().autodiff();
        let network = FloatNetwork::new(&checkpoint, &device);
        let input = (checkpoint.network.input, checkpoint.input);
        let batches = Batches::new(job.data, job.augmentation, input, job.options);
        let steps = job.options.epochs * batches.per_epoch;
        let (step, optimiser) = match checkpoint.training.take() {
            None => (0, optimiser(job.options)),
            Some(state) => resume(state, job)?,
        };
        Ok(Self {
            curve: curve(job, step / batches.per_epoch)?,
            progress: Progress::new(job.hooks.label, step, steps, batches.per_epoch),
            masks: job.constraint.map(|_| network.masks()),
            workers: Workers::new(),
            shard: shard(&checkpoint.network),
            job,
            checkpoint,
            network,
            optimiser,
            batches,
            device,
            step,
            steps,
        })
    }

    fn train_step(&mut self) -> Result<(), TrainError> {
        let shards = self.batches.shards(self.step, self.shard);
        let pictures: usize = shards.iter().map(|shard| shard.labels.len()).sum();
        let (network, device) = (&self.network, &self.device);
        let lesson = self.job.lesson.as_ref();
        let results = self.workers.map(shards, |shard| {
            let Prepared {
                input,
                targets,
                keys,
            } = self.batches.prepare(&shard, device);
            let taught = lesson.map(|lesson| lesson.answers(&input, &keys));
            // A copy of its own for each, or they would wait for each other.
            let network = match shard.whole {
                true => network.clone(),
                false => network.valid().train(),
            };
            learn(&network, input, &Goal { targets, taught }, &shard, pictures)
        });
        let loss = results.iter().map(|result| result.loss).sum::<f32>();
        let right = results.iter().map(|result| result.right).sum();
        if !loss.is_finite() {
            return Err(TrainError::NotFinite {
                step: self.step + 1,
            });
        }
        self.grow(&results);
        self.update(results);
        self.step += 1;
        self.progress.step(loss, right, pictures);
        self.curve.step(loss, right, pictures);
        if self.step.is_multiple_of(self.batches.per_epoch) {
            self.curve.end_epoch();
        }
        Ok(())
    }

    fn update(&mut self, results: Vec<Learned>) {
        let device = Device::flex();
        let gradients = MultiGradientsParams {
            grads: results
                .into_iter()
                .map(|result| (result.gradients, device.clone()))
                .collect(),
        };
        let rate = rate(self.step, self.steps, self.job.options.rate);
        let mut network = self
            .optimiser
            .step_multi(rate, self.network.clone(), gradients);
        if let Some(masks) = &self.masks {
            network = network.hold(masks);
        }
        self.network = network;
    }

    fn constrain(&mut self) {
        let Some(constraint) = self.job.constraint else {
            return;
        };
        if constraint.due(self.step, self.steps) {
            self.change(|checkpoint, step, steps| constraint.apply(step, steps, checkpoint));
        }
    }

    fn grow(&mut self, results: &[Learned]) {
        let Some(constraint) = self.job.constraint else {
            return;
        };
        if constraint.grows(self.step, self.steps) {
            let gradients = self.gradients(results);
            self.change(|checkpoint, step, steps| {
                constraint.grow(step, steps, &gradients, checkpoint);
            });
        }
    }

    /// Of the weights of each layer, over the whole batch.
    fn gradients(&self, results: &[Learned]) -> Vec<Option<Vec<f32>>> {
        let of_shards = results
            .iter()
            .map(|result| self.network.weight_gradients(&result.gradients));
        let sum = |mut sums: Vec<Option<Vec<f32>>>, shard: Vec<Option<Vec<f32>>>| {
            let layers = sums.iter_mut().flatten().zip(shard.into_iter().flatten());
            for (sum, part) in layers {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
            sums
        };
        of_shards.reduce(sum).unwrap_or_default()
    }

    /// Changes the network's tensors, grids and masks.
    fn change(&mut self, change: impl FnOnce(&mut Checkpoint, usize, usize)) {
        self.checkpoint.tensors = self.network.to_tensors();
        change(&mut self.checkpoint, self.step, self.steps);
        // Its parameters keep their numbers, so that the optimiser still fits.
        self.network = FloatNetwork::new(&self.checkpoint, &self.device);
        self.masks = Some(self.network.masks());
    }

    fn interrupted(&mut self) -> Result<TrainError, TrainError> {
        self.save()?;
        Ok(TrainError::Interrupted {
            file: self.job.hooks.save.map(ToOwned::to_owned),
            step: self.step,
            steps: self.steps,
        })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let Some(file) = self.job.hooks.save else {
            return Ok(());
        };
        let optimiser = self
            .optimiser
            .into_bytes()
            .map_err(|error| TrainError::Optimiser(error.to_string()))?;
        self.checkpoint.tensors = self.network.to_tensors();
        self.checkpoint.training = Some(TrainingState {
            step: self.step,
            run: self.job.key.clone(),
            optimiser: optimiser.to_vec(),
        });
        let saved = self.checkpoint.save(file);
        self.checkpoint.training = None;
        saved?;
        self.save_curve()
    }

    fn save_curve(&self) -> Result<(), TrainError> {
        let saved = self.job.hooks.curve.map(|file| {
            let wrong = |source| curve_error(file, source);
            self.curve.save(file).map_err(wrong)
        });
        saved.unwrap_or(Ok(()))
    }
}

/// The curve of the finished epochs.
fn curve(job: &Job, epochs: usize) -> Result<Curve, TrainError> {
    let Some(file) = job.hooks.curve.filter(|_| epochs > 0) else {
        return Ok(Curve::default());
    };
    let curve = Curve::load(file).map_err(|source| curve_error(file, source))?;
    Ok(curve.unwrap_or_default().take(epochs))
}

fn curve_error(file: &Path, source: std::io::Error) -> TrainError {
    TrainError::Curve {
        file: file.to_owned(),
        source,
    }
}

/// The statistics of batch normalisation are those of one shard.
fn shard(network: &Network) -> usize {
    match network.nodes.iter().any(|node| node.batch_norm) {
        true => usize::MAX,
        false => SHARD,
    }
}

/// AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization").
/// Only weights decay: biases and normalisation carry no risk of overfitting.
fn optimiser(options: &TrainOptions) -> ModuleOptimizer {
    let config = AdamWConfig::new().with_epsilon(1e-8);
    let decaying = config
        .clone()
        .with_weight_decay(options.weight_decay as f32);
    config.with_weight_decay(0.0).init().with_group(
        ParamGroup::from_predicate("weight"),
        decaying.build(),
        None,
    )
}

/// The step at which a saved training stands, and its optimiser.
fn resume(state: TrainingState, job: &Job) -> Result<(usize, ModuleOptimizer), TrainError> {
    if state.run != job.key {
        return Err(TrainError::OtherRun(super::difference(
            &state.run, &job.key,
        )));
    }
    let optimiser = optimiser(job.options)
        .from_bytes(Bytes::from_bytes_vec(state.optimiser))
        .map_err(|error| TrainError::Optimiser(error.to_string()))?;
    Ok((state.step, optimiser))
}

/// What one worker found out about its shard.
struct Learned {
    gradients: GradientsParams,
    /// The shard's part of the mean over the batch.
    loss: f32,
    right: usize,
}

/// What a network should say to some pictures.
struct Goal {
    /// By their labels: [pictures, classes].
    targets: Tensor<2>,
    /// By a teacher.
    taught: Option<Taught>,
}

impl Goal {
    /// Cross entropy with soft targets, the sum over all pictures. Of a teacher, its
    /// share of the loss is the cross entropy with its answers at its temperature t,
    /// times t^2, which keeps the gradient as large at any t (Hinton et al. 2015,
    /// "Distilling the Knowledge in a Neural Network").
    fn loss(&self, logits: Tensor<2>) -> Tensor<1> {
        let entropy =
            |logits, answers: &Tensor<2>| -(log_softmax(logits, 1) * answers.clone()).sum();
        let labels = entropy(logits.clone(), &self.targets);
        match &self.taught {
            None => labels,
            Some(taught) => {
                let t = taught.temperature;
                let teacher = entropy(logits / t, &taught.answers) * (t * t);
                labels * (1.0 - taught.share) + teacher * taught.share
            }
        }
    }
}

/// The gradients of the mean loss over the batch, one shard's part of them.
fn learn(
    network: &FloatNetwork,
    input: Tensor<4>,
    goal: &Goal,
    shard: &Shard,
    pictures: usize,
) -> Learned {
    let logits = network.logits(input);
    let right = count_right(&numbers(logits.clone().inner()), &shard.labels);
    let loss = goal.loss(logits) / pictures as f64;
    Learned {
        loss: numbers(loss.clone().inner()).into_iter().sum(),
        gradients: GradientsParams::from_grads(loss.backward(), network),
        right,
    }
}

fn count_right(logits: &[f32], labels: &[usize]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let rows = logits.chunks(classes.max(1)).zip(labels);
    rows.filter(|(row, label)| super::argmax(row) == **label)
        .count()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn rows(values: [[f32; 2]; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(values), &Device::flex())
    }

    #[test]
    fn a_teacher_has_its_share_of_the_loss() {
        // ln 3 apart: at temperature 1 the answers are 3/4 and 1/4.
        let apart = 3f32.ln();
        let logits = rows([[apart, 0.0], [0.0, apart]]);
        let goal = |share, temperature: f64| Goal {
            targets: rows([[1.0, 0.0], [1.0, 0.0]]),
            taught: Some(Taught {
                answers: rows([[0.5, 0.5], [0.25, 0.75]]),
                share,
                temperature,
            }),
        };
        let loss = |share, t| f64::from(numbers(goal(share, t).loss(logits.clone()))[0]);
        let ln = |x: f64| -x.ln();
        let labels = ln(0.75) + ln(0.25);
        let teacher = 0.5 * labels + 0.25 * ln(0.25) + 0.75 * ln(0.75);
        assert!((loss(0.0, 1.0) - labels).abs() < 1e-6);
        assert!((loss(1.0, 1.0) - teacher).abs() < 1e-6);
        assert!((loss(0.25, 1.0) - 0.75 * labels - 0.25 * teacher).abs() < 1e-6);
        // At temperature 2 they are 1 / (1 + 3^-0.5) and the rest.
        let high = 1.0 / (1.0 + 3f64.powf(-0.5));
        let (high, low) = (ln(high), ln(1.0 - high));
        let teacher = 4.0 * (0.5 * (high + low) + 0.25 * low + 0.75 * high);
        assert!((loss(1.0, 2.0) - teacher).abs() < 1e-5);
    }
}
