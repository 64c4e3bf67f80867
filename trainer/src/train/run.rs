//! The training loop.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, Device};

#[cfg(feature = "candle")]
use super::Backend;
use super::average::{self, Place};
use super::batch::Batches;
use super::curve::Curve;
use super::diverged::Cause;
use super::layer_rates::LayerRates;
use super::learn::{Learned, Numbered, Task};
use super::loss::Loss;
use super::optimiser::gather;
use super::progress::Progress;
use super::schedule::rate;
use super::spread::{NoneLeft, Spread};
use super::teacher::Lesson;
use super::workers::Workers;
use super::{Hooks, TrainError, TrainOptions, mean_loss};
use crate::augment::Augmentation;
#[cfg(feature = "candle")]
use crate::candle::CandleNetwork;
use crate::checkpoint::{BestEpoch, Checkpoint, Tensors, TrainingState};
use crate::data::Dataset;
use crate::network::{FloatNetwork, Masks, Network};

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
    /// What early stopping decides on.
    pub validation: Option<&'a Dataset>,
    pub options: &'a TrainOptions,
    pub augmentation: &'a Augmentation,
    pub constraint: Option<&'a dyn Constraint>,
    pub lesson: Option<Lesson<'a>>,
    pub hooks: &'a Hooks<'a>,
    /// Identifies the job; a training goes on only under the same.
    pub key: String,
}

/// A training that came to its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The trained network.
    pub checkpoint: Checkpoint,
    /// Epochs that were trained: fewer than asked for where it was stopped early.
    pub epochs: usize,
    /// With early stopping, that whose weights these are, from 1.
    pub best_epoch: Option<usize>,
}

/// Trains until the last step, or until early stopping.
pub(crate) fn run(start: Checkpoint, job: &Job) -> Result<Outcome, TrainError> {
    run_on(Workers::for_all_cores(), start, job)
}

/// The same on these workers.
pub(super) fn run_on(
    workers: Workers,
    start: Checkpoint,
    job: &Job,
) -> Result<Outcome, TrainError> {
    let mut run = Run::new(workers, start, job)?;
    let (mut saved, mut pause) = (Instant::now(), job.hooks.save_every);
    while !run.is_over() {
        run.constrain();
        run.train_step()?;
        run.look_back()?;
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
    if !is_finite(&run.network.to_tensors()) {
        // The last step went too far, and no loss was computed since.
        return Err(run.diverged());
    }
    run.save()?;
    Ok(run.outcome())
}

fn is_finite(tensors: &Tensors) -> bool {
    let mut values = tensors.values().flat_map(|tensor| &tensor.data);
    values.all(|value| value.is_finite())
}

struct Run<'a> {
    job: &'a Job<'a>,
    /// Everything but the tensors is up to date.
    checkpoint: Checkpoint,
    network: FloatNetwork,
    optimiser: ModuleOptimizer,
    rates: LayerRates,
    loss: Loss,
    masks: Option<Masks>,
    /// The mean of the tensors, where one is asked for.
    average: Option<Tensors>,
    /// The best epoch, and its loss on the validation pictures.
    best: Option<(BestEpoch, f64)>,
    batches: Batches<'a>,
    workers: Workers,
    /// Other devices than the workers, or beside them.
    spread: Option<Spread<'a>>,
    /// Most pictures that one worker takes at a time.
    shard: usize,
    device: Device,
    progress: Progress,
    curve: Curve,
    /// Finished steps.
    step: usize,
    steps: usize,
    /// Finished steps of the state in the file.
    saved: Option<usize>,
}

impl<'a> Run<'a> {
    fn new(
        workers: Workers,
        mut checkpoint: Checkpoint,
        job: &'a Job<'a>,
    ) -> Result<Self, TrainError> {
        let device = Device::flex().autodiff();
        let network = FloatNetwork::new(&checkpoint, &device);
        let input = (checkpoint.network.input, checkpoint.input);
        let batches = Batches::new(job.data, job.augmentation, input, job.options);
        let steps = job.options.epochs(job.data.pictures.len()) * batches.per_epoch;
        let optimiser = job.options.optimizer.build(job.options.weight_decay());
        let resumed = checkpoint.training.take();
        let saved = resumed.as_ref().map(|state| state.step);
        let state = resumed.unwrap_or_else(|| TrainingState {
            run: job.key.clone(),
            ..Default::default()
        });
        let mut run = Self {
            curve: curve(job, state.step / batches.per_epoch)?,
            progress: Progress::new(job.hooks.label, state.step, steps, batches.per_epoch),
            masks: job.constraint.map(|_| network.masks()),
            workers,
            spread: job
                .hooks
                .devices
                .map(|devices| Spread::new(devices, &checkpoint.network))
                .transpose()?,
            shard: shard(&checkpoint.network),
            rates: LayerRates::new(&checkpoint.network, job.options),
            loss: Loss::new(job.data, job.options),
            job,
            checkpoint,
            network,
            optimiser: match saved {
                None => optimiser,
                Some(_) => resume(optimiser, &state, job)?,
            },
            average: state.average,
            best: None,
            batches,
            device,
            step: state.step,
            steps,
            saved,
        };
        if let Some(best) = state.best {
            let loss = run.validate(&best.tensors)?;
            run.best = loss.map(|loss| (best, loss));
        }
        Ok(run)
    }

    /// Whether all steps are done, or epochs enough went by without a better one.
    fn is_over(&self) -> bool {
        let best = self.best.as_ref().map(|(best, _)| best.epoch);
        let without = best.map(|best| self.step / self.batches.per_epoch - best);
        self.step >= self.steps
            || self
                .job
                .options
                .patience
                .is_some_and(|patience| without.is_some_and(|without| without >= patience))
    }

    fn outcome(self) -> Outcome {
        let epochs = self.step / self.batches.per_epoch;
        let (best_epoch, tensors) = match self.best {
            Some((best, _)) => (Some(best.epoch), best.tensors),
            None => (
                None,
                self.average.unwrap_or_else(|| self.network.to_tensors()),
            ),
        };
        let mut checkpoint = self.checkpoint;
        checkpoint.tensors = tensors;
        Outcome {
            checkpoint,
            epochs,
            best_epoch,
        }
    }

    /// Takes the step into the mean, and the epoch into account for early stopping.
    fn look_back(&mut self) -> Result<(), TrainError> {
        let options = self.job.options;
        let per_epoch = self.batches.per_epoch;
        let place = Place {
            step: self.step,
            per_epoch,
            epochs: self.steps / per_epoch,
        };
        let network = &self.network;
        average::update(&mut self.average, place, options, || network.to_tensors());
        if options.patience.is_none() || !self.step.is_multiple_of(per_epoch) {
            return Ok(());
        }
        let now = self.average.clone();
        let tensors = now.unwrap_or_else(|| self.network.to_tensors());
        let least = self.best.as_ref().map_or(f64::INFINITY, |(_, loss)| *loss);
        // What is not a number is not better.
        if let Some(loss) = self.validate(&tensors)?.filter(|&loss| loss < least) {
            let epoch = self.step / per_epoch;
            self.best = Some((BestEpoch { epoch, tensors }, loss));
        }
        Ok(())
    }

    /// The loss of these tensors on the validation pictures.
    fn validate(&mut self, tensors: &Tensors) -> Result<Option<f64>, TrainError> {
        self.checkpoint.tensors.clone_from(tensors);
        let loss = |data| mean_loss(&self.checkpoint, data);
        self.job.validation.map(loss).transpose()
    }

    fn train_step(&mut self) -> Result<(), TrainError> {
        let shards = self.batches.shards(self.step, self.shard);
        let shards: Vec<Numbered> = shards.into_iter().enumerate().collect();
        let pictures: usize = shards.iter().map(|(_, shard)| shard.len()).sum();
        let results = self.learn(shards, pictures)?;
        let loss = results.iter().map(|result| result.loss).sum::<f32>();
        let right = results.iter().map(|result| result.right).sum();
        if !loss.is_finite() {
            return Err(self.diverged());
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

    /// What all shards together say, of a mean over so many pictures.
    fn learn(
        &mut self,
        shards: Vec<Numbered>,
        pictures: usize,
    ) -> Result<Vec<Learned>, TrainError> {
        #[cfg(feature = "candle")]
        let candle = self.on_candle()?;
        if self.spread.as_ref().is_some_and(Spread::needs_tensors) {
            self.checkpoint.tensors = self.network.to_tensors();
        }
        let task = Task {
            batches: &self.batches,
            loss: &self.loss,
            lesson: self.job.lesson.as_ref(),
            options: self.job.options,
            step: self.step,
            pictures,
        };
        let (workers, network) = (&self.workers, &self.network);
        #[cfg(feature = "candle")]
        if let Some(candle) = &candle {
            return Ok(task.on_candle(candle, workers, network, shards));
        }
        let learned = match &self.spread {
            None => Ok(task.on_cores(workers, network, shards)),
            Some(spread) => spread.learn(&task, workers, network, &self.checkpoint, &shards),
        };
        match learned {
            Ok(learned) => Ok(learned),
            Err(NoneLeft) => Err(self.deserted()?),
        }
    }

    /// The present network on Candle, where that computes it.
    #[cfg(feature = "candle")]
    fn on_candle(&mut self) -> Result<Option<CandleNetwork>, TrainError> {
        if self.job.hooks.backend != Backend::Candle {
            return Ok(None);
        }
        self.checkpoint.tensors = self.network.to_tensors();
        Ok(Some(CandleNetwork::new(&self.checkpoint)?))
    }

    /// No device is left: what was trained is kept.
    fn deserted(&mut self) -> Result<TrainError, TrainError> {
        self.save()?;
        Ok(TrainError::Deserted {
            lost: self
                .spread
                .as_ref()
                .map(Spread::obituary)
                .unwrap_or_default(),
            file: self.saved.and(self.job.hooks.save).map(ToOwned::to_owned),
            step: self.step,
            steps: self.steps,
        })
    }

    fn diverged(&self) -> TrainError {
        let step = (self.step + 1).min(self.steps);
        TrainError::NotFinite {
            step,
            cause: Cause::find(self.job.data, self.job.options, step, self.steps),
            kept: self.job.hooks.save.map(ToOwned::to_owned).zip(self.saved),
        }
    }

    fn update(&mut self, results: Vec<Learned>) {
        let options = self.job.options;
        let mut statistics = Vec::new();
        let gradients = results.into_iter().map(|mut result| {
            statistics.append(&mut result.statistics);
            result.gradients
        });
        let shards = gradients.collect();
        let gradients = gather(shards, &self.network, options);
        let rate = self.rates.of(rate(self.step, self.steps, options));
        let mut network = self
            .optimiser
            .step_multi(rate, self.network.clone(), gradients);
        if let Some(masks) = &self.masks {
            network = network.hold(masks);
        }
        self.network = network;
        if !statistics.is_empty() {
            self.take_statistics(statistics);
        }
    }

    /// Those that another device or backend has taken of the batch.
    fn take_statistics(&mut self, statistics: Vec<(String, Vec<f32>)>) {
        self.checkpoint.tensors = self.network.to_tensors();
        for (name, values) in statistics {
            if let Some(tensor) = self.checkpoint.tensors.get_mut(&name) {
                tensor.data = values;
            }
        }
        self.network = FloatNetwork::new(&self.checkpoint, &self.device);
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
            // Not there where its first state would not have been finite.
            file: self.saved.and(self.job.hooks.save).map(ToOwned::to_owned),
            step: self.step,
            steps: self.steps,
        })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let Some(file) = self.job.hooks.save else {
            return self.save_curve();
        };
        self.checkpoint.tensors = self.network.to_tensors();
        if !is_finite(&self.checkpoint.tensors) {
            // The next loss will be no number, and the last good state is kept.
            return Ok(());
        }
        let optimiser = self
            .optimiser
            .into_bytes()
            .map_err(|error| TrainError::Optimiser(error.to_string()))?;
        self.checkpoint.training = Some(TrainingState {
            step: self.step,
            run: self.job.key.clone(),
            optimiser: optimiser.to_vec(),
            average: self.average.clone(),
            best: self.best.as_ref().map(|(best, _)| best.clone()),
        });
        let saved = self.checkpoint.save(file);
        self.checkpoint.training = None;
        saved?;
        self.saved = Some(self.step);
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
    match network.has_batch_norm() {
        true => usize::MAX,
        false => SHARD,
    }
}

/// The optimiser as it was when the training was saved.
fn resume(
    optimiser: ModuleOptimizer,
    state: &TrainingState,
    job: &Job,
) -> Result<ModuleOptimizer, TrainError> {
    if state.run != job.key {
        return Err(TrainError::OtherRun(super::difference(
            &state.run, &job.key,
        )));
    }
    optimiser
        .from_bytes(Bytes::from_bytes_vec(state.optimiser.clone()))
        .map_err(|error| TrainError::Optimiser(error.to_string()))
}
