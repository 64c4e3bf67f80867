//! Training: from an untrained or a base checkpoint to a trained one.
//!
//! A training is a function of its data, options and seed: the same give the
//! same bits on the same machine, also where it was stopped and resumed.

mod average;
mod backend;
mod balance;
mod batch;
mod curve;
mod diverged;
mod dropout;
mod layer_rates;
mod learn;
mod loss;
mod optimiser;
mod options;
mod progress;
mod run;
mod schedule;
mod spread;
mod start;
mod teacher;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::layer::Shape;

use crate::augment::Augmentation;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{Dataset, Picture, PictureShape};
use crate::distributed::Devices;
use crate::network::{FloatNetwork, NetworkError, pictures_to_tensor};

pub use average::Average;
pub use backend::Backend;
pub use balance::{ClassWeights, Sampling};
pub use curve::{Curve, Epoch};
pub use diverged::Cause;
pub use loss::LossKind;
pub use optimiser::Optimizer;
pub(crate) use options::{COUNT, MOST, first_wrong};
pub use options::{OutOfRange, TrainOptions};
pub use run::Outcome;
pub(crate) use run::{Constraint, Job, run};
pub use schedule::Schedule;
pub use spread::SplitCost;
pub use start::start;
pub(crate) use teacher::Lesson;
pub use teacher::Teacher;
pub use workers::in_parallel;

/// Pictures in one batch of [`weight_gradients`].
const GRADIENT_BATCH: usize = 32;

/// What a training does beside training.
pub struct Hooks<'a> {
    /// Once this is true, the training saves itself and gives
    /// [`TrainError::Interrupted`].
    pub stop: &'a AtomicBool,
    /// Where an unfinished training is saved, for [`Checkpoint::load`] and
    /// another call of the same function.
    pub save: Option<&'a Path>,
    /// How often, or less often where saving takes long.
    pub save_every: Duration,
    /// Where loss and accuracy of each epoch are written, whenever the training is saved
    /// and at its end.
    pub curve: Option<&'a Path>,
    /// First word of the progress bar.
    pub label: &'a str,
    /// What computes the network. It decides nothing but the rounding, so that a training
    /// may go on with another.
    pub backend: Backend,
    /// Where to train; on this machine's cores where there are none. They decide nothing
    /// but the rounding, so that a training may go on with others.
    pub devices: Option<&'a Devices>,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Default for Hooks<'_> {
    /// Never stops and saves nothing.
    fn default() -> Self {
        Self {
            stop: &NEVER,
            save: None,
            save_every: Duration::from_secs(30),
            curve: None,
            label: "train",
            backend: Backend::default(),
            devices: None,
        }
    }
}

/// Why a training did not end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The curve cannot be read or written.
    #[error("{}: {source}", file.display())]
    Curve {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Stopped on request.
    #[error("interrupted after step {step} of {steps}; {}", how_to_resume(file))]
    Interrupted {
        /// Where it was saved.
        file: Option<PathBuf>,
        /// Finished steps.
        step: usize,
        /// All steps.
        steps: usize,
    },
    /// Every device is lost.
    #[error(
        "no device is left after step {step} of {steps}: {lost}; {}",
        how_to_resume(file)
    )]
    Deserted {
        /// Which, and why.
        lost: String,
        /// Where the training was saved.
        file: Option<PathBuf>,
        /// Finished steps.
        step: usize,
        /// All steps.
        steps: usize,
    },
    /// A network whose batches cannot be divided.
    #[error(
        "batch normalisation takes its statistics over the whole batch, which {0} devices cannot do in parts: give one          `--device`, or divide the network instead of the batch with `--split LAYER`"
    )]
    NotDivisible(usize),
    /// A layer that no network is divided at.
    #[error(
        "`--split {name}` is no layer that this network can be divided before; there are {layers}"
    )]
    NoSplit {
        /// The layer.
        name: String,
        /// Those that do.
        layers: String,
    },
    /// The loss is infinite or not a number.
    #[error(
        "the loss of step {step} is not a number: the training diverged; probably {cause}. {}",
        what_is_kept(kept)
    )]
    NotFinite {
        /// Which step, from 1.
        step: usize,
        /// Why, probably.
        cause: Cause,
        /// The last state that was saved, all of whose tensors are finite, and its
        /// finished steps.
        kept: Option<(PathBuf, usize)>,
    },
    /// Early stopping has nothing to decide on.
    #[error(
        "`train.patience` needs pictures to decide on: set `data.validation`, such as 0.1, or leave it out"
    )]
    NoValidation,
    /// The base is another network.
    #[error("{}: cannot be the base: layer `{layer}` is {base} there and {new} here; give the base's own network", file.display())]
    Architecture {
        /// The base.
        file: PathBuf,
        /// The first layer that differs.
        layer: String,
        /// What it is here.
        new: String,
        /// What it is in the base.
        base: String,
    },
    /// The unfinished training had other options.
    #[error(
        "the unfinished training was started with other options: {0}; give the same, or start anew without `--resume`"
    )]
    OtherRun(String),
    /// The state of the optimiser does not load or save.
    #[error("the state of the optimiser is damaged: {0}; start anew without `--resume`")]
    Optimiser(String),
    /// Pictures of another shape than the network's input.
    #[error(
        "the pictures are {data} and the network wants {network}; set `data.size` and `data.channels`"
    )]
    Shape {
        /// Of the pictures.
        data: PictureShape,
        /// Of the network's input.
        network: Shape,
    },
    /// The network tells other classes apart.
    #[error(
        "the data has the classes {data} and the checkpoint {checkpoint}; give it the same data, or train with it as `base`"
    )]
    Classes {
        /// Of the data.
        data: String,
        /// Of the checkpoint.
        checkpoint: String,
    },
    /// A frozen layer that is not there.
    #[error("train.freeze names `{name}`, which is no layer with weights; there are {layers}")]
    NoLayer {
        /// The layer.
        name: String,
        /// Those with weights.
        layers: String,
    },
    /// No pictures.
    #[error("there are no pictures to learn from")]
    NoPictures,
    /// A network that Candle does not compute.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Candle(#[from] crate::candle::Unsupported),
}

fn how_to_resume(file: &Option<PathBuf>) -> String {
    match file {
        Some(file) => format!("the state is in {}; go on with `--resume`", file.display()),
        None => "nothing was saved".to_owned(),
    }
}

fn what_is_kept(kept: &Option<(PathBuf, usize)>) -> String {
    match kept {
        Some((file, step)) => format!(
            "The state of step {step} is kept in {}; it can be the `base` of another training",
            file.display()
        ),
        None => "It diverged before anything was saved".to_owned(),
    }
}

/// Trains a checkpoint of [`start`], or goes on with an unfinished one. With a teacher it
/// learns to answer as that does, by `options.distill` and `options.temperature`. Only
/// `options.patience` looks at the validation pictures.
pub fn train(
    start: Checkpoint,
    teacher: Option<&Teacher>,
    data: &Dataset,
    validation: Option<&Dataset>,
    options: &TrainOptions,
    augmentation: &Augmentation,
    hooks: &Hooks,
) -> Result<Outcome, TrainError> {
    check_data(&start, data)?;
    hooks.backend.check(&start.network)?;
    if options.patience.is_some() {
        check_data(&start, validation.ok_or(TrainError::NoValidation)?)?;
    }
    let deciding = validation.filter(|_| options.patience.is_some());
    let lesson = |teacher| Lesson {
        teacher,
        share: options.distill,
        temperature: options.temperature,
    };
    let job = Job {
        key: key(data, deciding, options, augmentation, None, teacher),
        data,
        validation,
        options,
        augmentation,
        constraint: None,
        lesson: teacher.map(lesson),
        hooks,
    };
    run(start, &job)
}

/// The outputs of the head for every picture, before a softmax.
pub fn evaluate(checkpoint: &Checkpoint, data: &Dataset) -> Result<Vec<Vec<f32>>, TrainError> {
    Backend::Flex.evaluate(checkpoint, data)
}

/// Mean cross entropy of the float network over the data.
pub(crate) fn mean_loss(checkpoint: &Checkpoint, data: &Dataset) -> Result<f64, TrainError> {
    let logits = evaluate(checkpoint, data)?;
    let loss = |(row, picture): (&Vec<f32>, &Picture)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        let own = row.get(picture.label).copied().unwrap_or(f32::NAN);
        sum.ln() - f64::from(own - most)
    };
    let sum: f64 = logits.iter().zip(&data.pictures).map(loss).sum();
    Ok(sum / data.pictures.len().max(1) as f64)
}

/// The class that the float network finds in every picture.
pub fn answers(checkpoint: &Checkpoint, data: &Dataset) -> Result<Vec<usize>, TrainError> {
    Backend::Flex.answers(checkpoint, data)
}

/// Shows `see` the gradients of the mean cross entropy over each batch of the data, in
/// turn: for each layer those of its weights.
pub(crate) fn weight_gradients(
    checkpoint: &Checkpoint,
    data: &Dataset,
    mut see: impl FnMut(Vec<Option<Vec<f32>>>),
) -> Result<(), TrainError> {
    check_data(checkpoint, data)?;
    let device = Device::flex().autodiff();
    let network = FloatNetwork::new(checkpoint, &device);
    let (shape, classes) = (checkpoint.network.input, checkpoint.network.classes());
    for pictures in data.pictures.chunks(GRADIENT_BATCH) {
        let pixels: Vec<u8> = pictures.iter().flat_map(|p| &p.pixels).copied().collect();
        let input = pictures_to_tensor(&pixels, shape, checkpoint.input, &device);
        let one_hot = |label: usize| (0..classes).map(move |class| f32::from(class == label));
        let targets = pictures.iter().flat_map(|p| one_hot(p.label)).collect();
        let targets = TensorData::new::<f32, _>(targets, [pictures.len(), classes]);
        let targets = Tensor::<2>::from_data(targets, &device);
        let entropy = -(log_softmax(network.logits(input), 1) * targets).sum();
        let gradients = (entropy / pictures.len() as f64).backward();
        see(network.weight_gradients(&GradientsParams::from_grads(gradients, &network)));
    }
    Ok(())
}

/// Position of the largest number, the first of equals; 0 for none.
pub fn argmax(row: &[f32]) -> usize {
    let larger = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    (0..row.len()).fold(0, larger)
}

/// Refuses data that a checkpoint is not made for.
pub(crate) fn check_data(checkpoint: &Checkpoint, data: &Dataset) -> Result<(), TrainError> {
    let network = checkpoint.network.input;
    let PictureShape {
        height,
        width,
        channels,
    } = data.shape;
    if (height, width, channels) != (network.height(), network.width(), network.channels()) {
        return Err(TrainError::Shape {
            data: data.shape,
            network,
        });
    }
    if checkpoint.classes != data.classes {
        return Err(TrainError::Classes {
            data: data.classes.join(", "),
            checkpoint: checkpoint.classes.join(", "),
        });
    }
    match data.pictures.is_empty() {
        true => Err(TrainError::NoPictures),
        false => Ok(()),
    }
}

/// Everything that decides the bits of a training, or of a compression of the network that
/// is its teacher, as a JSON object; the validation pictures where they decide something.
pub fn key(
    data: &Dataset,
    validation: Option<&Dataset>,
    options: &TrainOptions,
    augmentation: &Augmentation,
    compress: Option<&crate::compress::CompressOptions>,
    teacher: Option<&Teacher>,
) -> String {
    let sha256 = |data: &Dataset| {
        let mut hash = Sha256::new();
        for picture in &data.pictures {
            hash.update((picture.label as u64).to_le_bytes());
            hash.update(&picture.pixels);
        }
        hex(hash)
    };
    json!({
        "train": options,
        "augment": augmentation,
        "compress": compress,
        "teacher": { "sha256": teacher.map(Teacher::digest) },
        "data": { "sha256": sha256(data), "validation": validation.map(sha256) },
    })
    .to_string()
}

/// Tells the tensors and input scales of checkpoints apart: their SHA-256.
pub fn digest(checkpoint: &Checkpoint) -> String {
    let mut hash = Sha256::new();
    hash.update([checkpoint.input.mean]);
    hash.update(checkpoint.input.scale.to_le_bytes());
    for (name, array) in &checkpoint.tensors {
        hash.update(name);
        let bytes = array.data.iter().flat_map(|value| value.to_le_bytes());
        hash.update(bytes.collect::<Vec<u8>>());
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first option in which two keys differ, in words.
pub fn difference(old: &str, new: &str) -> String {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    let (old, new) = (parse(old), parse(new));
    for section in [
        "train", "augment", "compress", "export", "board", "teacher", "data",
    ] {
        let (old, new) = (&old[section], &new[section]);
        let keys = new
            .as_object()
            .into_iter()
            .flat_map(|section| section.keys());
        if let Some(key) = keys.into_iter().find(|key| old[*key] != new[*key]) {
            return format!("`{section}.{key}` was {} and is {}", old[key], new[key]);
        }
    }
    "it was another command".to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::augment::{Flip, Shift};
    use crate::network::{Network, NetworkSpec};
    use shared::model::Resize;

    /// Pictures of 6x6x1 with one bright row, column or diagonal.
    pub(crate) fn data() -> Dataset {
        let bright = |class: usize, at: usize, x: usize, y: usize| match class {
            0 => y == at % 6,
            1 => x == at % 6,
            _ => (x + y) % 6 == at % 6,
        };
        let picture = |at: usize| {
            let class = at % 3;
            let pixel = |i: usize| match bright(class, at / 3, i % 6, i / 6) {
                true => 200 + (at % 50) as u8,
                false => (i * 7 % 40) as u8,
            };
            Picture {
                pixels: (0..36).map(pixel).collect(),
                label: class,
            }
        };
        Dataset {
            shape: PictureShape {
                height: 6,
                width: 6,
                channels: 1,
            },
            classes: ["row", "column", "diagonal"].map(str::to_owned).to_vec(),
            pictures: (0..60).map(picture).collect(),
        }
    }

    pub(crate) fn augmentation() -> Augmentation {
        Augmentation {
            flip: Flip(false),
            shift: Shift(0.2),
            ..Default::default()
        }
    }

    pub(crate) fn options() -> TrainOptions {
        TrainOptions {
            epochs: 3,
            batch: 40,
            rate: Some(0.01),
            ..Default::default()
        }
    }

    fn network(batch_norm: bool, hidden: usize, classes: usize) -> Network {
        let text = format!(
            "layers = [
                {{ conv2d = {{ filters = 6, kernel = 3, activation = 'relu' }}, batch_norm = {batch_norm} }},
                {{ max_pool2d = {{ kernel = 2 }} }},
                {{ dense = {{ units = {hidden}, activation = 'relu' }} }},
                {{ dense = {{}} }},
            ]"
        );
        let spec: NetworkSpec = toml::from_str(&text).unwrap();
        spec.build(Shape::new(6, 6, 1).unwrap(), classes).unwrap()
    }

    pub(crate) fn untrained(batch_norm: bool) -> Checkpoint {
        start(
            network(batch_norm, 8, 3),
            &data(),
            Resize::Exact,
            &options(),
        )
        .unwrap()
    }

    /// Stops after every step, reads the file back and goes on.
    pub(crate) fn in_single_steps(
        mut checkpoint: Checkpoint,
        run: impl Fn(Checkpoint, &Hooks) -> Result<Checkpoint, TrainError>,
    ) -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("unfinished.safetensors");
        let stop = AtomicBool::new(true);
        let hooks = Hooks {
            stop: &stop,
            save: Some(&file),
            ..Default::default()
        };
        loop {
            match run(checkpoint, &hooks) {
                Ok(finished) => return finished,
                Err(TrainError::Interrupted {
                    file: Some(file), ..
                }) => {
                    checkpoint = Checkpoint::load(&file).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn train_with(
        start: Checkpoint,
        options: &TrainOptions,
    ) -> Result<Checkpoint, TrainError> {
        let hooks = Hooks::default();
        let outcome = train(start, None, &data(), None, options, &augmentation(), &hooks)?;
        Ok(outcome.checkpoint)
    }

    /// Nine pictures to decide on.
    fn validation() -> Dataset {
        let mut data = data();
        data.pictures.truncate(9);
        for picture in &mut data.pictures {
            picture.pixels.iter_mut().for_each(|pixel| *pixel ^= 21);
        }
        data
    }

    /// In one go, in single steps, and on other numbers of threads.
    fn same_bits(options: &TrainOptions, augmentation: &Augmentation, batch_norm: bool) {
        let (data, validation) = (data(), validation());
        fn job<'a>(
            (data, validation): (&'a Dataset, &'a Dataset),
            options: &'a TrainOptions,
            augmentation: &'a Augmentation,
            hooks: &'a Hooks,
        ) -> Job<'a> {
            Job {
                key: key(data, Some(validation), options, augmentation, None, None),
                data,
                validation: Some(validation),
                options,
                augmentation,
                constraint: None,
                lesson: None,
                hooks,
            }
        }
        let parts = (&data, &validation);
        let hooks = Hooks::default();
        let whole = run(
            untrained(batch_norm),
            &job(parts, options, augmentation, &hooks),
        )
        .unwrap()
        .checkpoint;
        assert_ne!(whole.tensors, untrained(batch_norm).tensors);
        for threads in [1, 3] {
            // Batches that are not divided are computed by all of rayon's threads.
            let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let workers = workers::Workers::new(threads);
            let train = || {
                let job = job(parts, options, augmentation, &hooks);
                run::run_on(workers, untrained(batch_norm), &job)
            };
            let same = rayon.build().unwrap().install(train).unwrap();
            assert_eq!(same.checkpoint, whole, "{threads} threads: {options:?}");
        }
        let resumed = in_single_steps(untrained(batch_norm), |checkpoint, hooks| {
            Ok(run(checkpoint, &job(parts, options, augmentation, hooks))?.checkpoint)
        });
        assert_eq!(resumed, whole, "{options:?}");
    }

    #[test]
    fn every_optimiser_gives_the_same_bits_however_it_runs() {
        use Optimizer::*;
        let mut all = Vec::new();
        for optimizer in [Gd, Sgd, Momentum, Nesterov, Adagrad, Rmsprop, Adam, Adamw] {
            let options = TrainOptions {
                optimizer,
                rate: None,
                clip_norm: Some(0.5),
                ..options()
            };
            same_bits(&options, &augmentation(), false);
            all.push(train_with(untrained(false), &options).unwrap().tensors);
        }
        // Each is another one; `gd` differs from `sgd` by its batch.
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn everything_that_is_random_gives_the_same_bits_however_it_runs() {
        let mixed = toml::from_str("random = true\nmixup = 0.5\ncutmix = 1.0\nelastic = 0.1");
        let mixed: Augmentation = mixed.unwrap();
        for text in [
            "average = 'ema'\naverage_decay = 0.8\ndropout = 0.4",
            "average = 'swa'\naverage_from = 0.4\nschedule = 'constant'\nwarmup = 0.0",
            "patience = 1\nsampling = 'balanced'\nclass_weights = 'effective'",
            "patience = 2\naverage = 'ema'\nloss = 'focal'\nlogit_adjustment = 1.0",
        ] {
            let options = format!("epochs = 4\nbatch = 20\nrate = 0.02\n{text}");
            let options: TrainOptions = toml::from_str(&options).unwrap();
            for batch_norm in [false, true] {
                same_bits(&options, &mixed, batch_norm);
            }
        }
    }

    #[test]
    fn patience_ends_a_training_and_keeps_the_best_epoch() {
        let options = TrainOptions {
            epochs: 40,
            rate: Some(0.05),
            schedule: Schedule::Constant,
            patience: Some(3),
            ..options()
        };
        let (data, held) = (data(), validation());
        let go = |options: &TrainOptions| {
            let hooks = Hooks::default();
            let start = untrained(false);
            train(
                start,
                None,
                &data,
                Some(&held),
                options,
                &augmentation(),
                &hooks,
            )
            .unwrap()
        };
        let Outcome {
            checkpoint,
            epochs,
            best_epoch,
        } = go(&options);
        let best = best_epoch.unwrap();
        assert!(epochs < 40 && epochs == best + 3, "{epochs} {best}");
        // The weights are those of an epoch, and the best of all epochs.
        let loss_after = |epochs: usize| {
            // The same steps, as a constant rate does not ask how many there are.
            let options = TrainOptions {
                epochs,
                warmup: 0.0,
                patience: None,
                ..options.clone()
            };
            let trained = go(&options).checkpoint;
            (mean_loss(&trained, &held).unwrap(), trained.tensors)
        };
        let cold = TrainOptions {
            warmup: 0.0,
            ..options.clone()
        };
        let Outcome {
            checkpoint: kept,
            epochs,
            best_epoch,
        } = go(&cold);
        let (least, tensors) = loss_after(best_epoch.unwrap());
        assert_eq!(kept.tensors, tensors);
        assert!((1..=epochs).all(|epoch| loss_after(epoch).0 >= least));
        assert_ne!(checkpoint.tensors, kept.tensors);

        let hooks = Hooks::default();
        let none = train(
            untrained(false),
            None,
            &data,
            None,
            &options,
            &augmentation(),
            &hooks,
        );
        assert!(matches!(none, Err(TrainError::NoValidation)));
    }

    /// How much more the network believes in class 1 than in class 0 of a picture that 40
    /// training pictures say is of class 0 and 10 say is of class 1: the difference of its
    /// logits.
    fn belief(text: &str) -> f64 {
        let mut data = data();
        let same = data.pictures[0].pixels.clone();
        let class = |at: usize| match at {
            0..40 => 0,
            40..50 => 1,
            _ => 2,
        };
        for (at, picture) in data.pictures.iter_mut().enumerate() {
            picture.label = class(at);
            if picture.label < 2 {
                picture.pixels.clone_from(&same);
            }
        }
        let options =
            format!("epochs = 150\nsmoothing = 0.0\nrate = 0.02\nweight_decay = 0.0\n{text}");
        let options: TrainOptions = toml::from_str(&options).unwrap();
        let (none, hooks) = (Augmentation::default(), Hooks::default());
        let trained = train(untrained(false), None, &data, None, &options, &none, &hooks).unwrap();
        let logits = evaluate(&trained.checkpoint, &data).unwrap();
        f64::from(logits[0][1] - logits[0][0])
    }

    #[test]
    fn uneven_classes_are_evened_out_as_each_method_says() {
        let near = |text: &str, wanted: f64| {
            let found = belief(text);
            assert!(
                (found - wanted).abs() < 0.15,
                "{text}: {found} and not {wanted}"
            );
        };
        let natural = f64::ln(10.0 / 40.0);
        near("", natural);
        near("sampling = 'balanced'", 0.0);
        near("class_weights = 'inverse'", 0.0);
        let effective = |n: i32| 1.0 - 0.99f64.powi(n);
        let weight = f64::ln(effective(40) / effective(10));
        near("class_weights = 'effective'", natural + weight);
        near("logit_adjustment = 1.0", 0.0);
        near("logit_adjustment = 0.5", natural / 2.0);
    }

    #[test]
    fn a_long_gradient_is_cut() {
        let sgd = |clip_norm| {
            let options = TrainOptions {
                optimizer: Optimizer::Sgd,
                epochs: 1,
                batch: 60,
                rate: Some(1.0),
                warmup: 0.0,
                weight_decay: Some(0.0),
                clip_norm,
                ..options()
            };
            let trained = train_with(untrained(false), &options).unwrap();
            let before = untrained(false).tensors;
            let moved = trained.tensors.values().zip(before.values());
            let squares = moved.flat_map(|(a, b)| a.data.iter().zip(&b.data));
            let squares = squares.map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let free = sgd(None);
        assert!(free > 0.02, "{free}");
        assert!((sgd(Some(0.01)) - 0.01).abs() < 1e-4);
        assert!((sgd(Some(1e6)) - free).abs() < 1e-6);
    }

    #[test]
    fn a_training_that_diverges_keeps_its_last_good_state() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("unfinished.safetensors");
        let hooks = Hooks {
            save: Some(&file),
            save_every: Duration::ZERO,
            ..Default::default()
        };
        let diverging = TrainOptions {
            epochs: 30,
            optimizer: Optimizer::Sgd,
            rate: Some(1e6),
            warmup: 0.5,
            ..options()
        };
        let start = untrained(false);
        let error = train(
            start,
            None,
            &data(),
            None,
            &diverging,
            &augmentation(),
            &hooks,
        )
        .unwrap_err();
        let TrainError::NotFinite { step, cause, kept } = &error else {
            panic!("{error}");
        };
        assert!(matches!(cause, Cause::Rate { .. }), "{cause}");
        let (kept, finished) = kept.clone().unwrap();
        assert_eq!(kept, file);
        assert!(finished < *step);
        assert!(
            error.to_string().contains("unfinished.safetensors"),
            "{error}"
        );
        let good = Checkpoint::load(&file).unwrap();
        assert_eq!(good.training.map(|state| state.step), Some(finished));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        // A folder of that name cannot be replaced by a file.
        let taken = folder.path().join("taken.safetensors");
        std::fs::create_dir(&taken).unwrap();
        let hooks = Hooks {
            save: Some(&taken),
            save_every: Duration::ZERO,
            ..Default::default()
        };
        let start = untrained(false);
        let error = train(
            start,
            None,
            &data(),
            None,
            &options(),
            &augmentation(),
            &hooks,
        )
        .unwrap_err();
        assert!(error.to_string().contains("taken.safetensors"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_curve_has_every_epoch_in_one_go_or_in_many() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, stopped] = ["whole.csv", "stopped.csv"].map(|name| folder.path().join(name));
        let with_curve = |start, file, hooks: Hooks| {
            let hooks = Hooks {
                curve: Some(file),
                ..hooks
            };
            let outcome = train(
                start,
                None,
                &data(),
                None,
                &options(),
                &augmentation(),
                &hooks,
            )?;
            Ok(outcome.checkpoint)
        };
        with_curve(untrained(false), &whole, Hooks::default()).unwrap();
        in_single_steps(untrained(false), |start, hooks| {
            let hooks = Hooks {
                stop: hooks.stop,
                save: hooks.save,
                ..Hooks::default()
            };
            with_curve(start, &stopped, hooks)
        });
        for file in [&whole, &stopped] {
            let curve = Curve::load(file).unwrap().unwrap();
            assert_eq!(curve.epochs.len(), options().epochs);
            let sane = |epoch: &Epoch| epoch.loss > 0.0 && (0.0..=1.0).contains(&epoch.accuracy);
            assert!(curve.epochs.iter().all(sane), "{curve:?}");
        }
        let epochs = Curve::load(&whole).unwrap().unwrap().epochs;
        assert!(epochs[2].loss < epochs[0].loss, "{epochs:?}");
    }

    #[test]
    fn a_seed_gives_the_same_bits_in_one_go_or_in_many() {
        for batch_norm in [false, true] {
            let trained = train_with(untrained(batch_norm), &options()).unwrap();
            assert_eq!(
                trained,
                train_with(untrained(batch_norm), &options()).unwrap()
            );
            let resumed = in_single_steps(untrained(batch_norm), |checkpoint, hooks| {
                let (options, augmentation) = (options(), augmentation());
                let outcome = train(
                    checkpoint,
                    None,
                    &data(),
                    None,
                    &options,
                    &augmentation,
                    hooks,
                )?;
                Ok(outcome.checkpoint)
            });
            assert_eq!(resumed, trained);
            let other = TrainOptions {
                seed: 2,
                ..options()
            };
            assert_ne!(train_with(untrained(batch_norm), &other).unwrap(), trained);
        }
    }

    #[test]
    fn it_learns() {
        for batch_norm in [false, true] {
            let options = TrainOptions {
                epochs: 60,
                ..options()
            };
            let trained = train_with(untrained(batch_norm), &options).unwrap();
            let logits = evaluate(&trained, &data()).unwrap();
            let pictures = data().pictures;
            let right = logits
                .iter()
                .zip(&pictures)
                .filter(|(row, p)| argmax(row) == p.label);
            assert!(right.count() >= 57);
        }
    }

    #[test]
    fn the_input_is_centred_on_a_pixel_value() {
        let input = untrained(false).input;
        let pixels: Vec<u8> = data()
            .pictures
            .iter()
            .flat_map(|picture| picture.pixels.clone())
            .collect();
        let reals: Vec<f32> = pixels.iter().map(|&pixel| input.real(pixel)).collect();
        let mean = reals.iter().sum::<f32>() / reals.len() as f32;
        let variance = reals.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / reals.len() as f32;
        assert!(mean.abs() <= 0.5 * input.scale && (variance - 1.0).abs() < 1e-3);
        assert_eq!(input.real(input.mean), 0.0);
    }

    #[test]
    fn a_base_gives_its_body() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base.safetensors");
        let base = train_with(untrained(true), &options()).unwrap();
        base.save(&file).unwrap();
        let options = TrainOptions {
            base: Some(file),
            seed: 9,
            ..options()
        };
        let same = start(network(true, 8, 3), &data(), Resize::Exact, &options).unwrap();
        assert_eq!(same, base);

        let mut two = data();
        two.classes.pop();
        two.pictures.retain(|picture| picture.label < 2);
        let new = start(network(true, 8, 2), &two, Resize::Exact, &options).unwrap();
        assert_eq!(
            new.tensors["conv2d_1.norm.mean"],
            base.tensors["conv2d_1.norm.mean"]
        );
        assert_eq!(
            new.tensors["dense_1.weight"],
            base.tensors["dense_1.weight"]
        );
        assert_eq!(new.tensors["dense_2.weight"].shape, [8, 2]);

        let refused = |network| {
            start(network, &data(), Resize::Exact, &options)
                .unwrap_err()
                .to_string()
        };
        let error = refused(network(true, 9, 3));
        assert!(error.contains("base.safetensors: cannot be the base: layer `dense_1` is dense to 1x1x8 there and dense to 1x1x9 here"), "{error}");
        assert!(refused(network(false, 8, 3)).contains("layer `conv2d_1`"));
    }

    #[test]
    fn what_cannot_be_trained_is_named() {
        let diverging = TrainOptions {
            rate: Some(1e30),
            ..options()
        };
        let error = train_with(untrained(false), &diverging).unwrap_err();
        assert!(
            matches!(error, TrainError::NotFinite { step: 2.., .. }),
            "{error}"
        );

        // Nor are weights that are no numbers a result, whose loss nobody asked for.
        let last_step = TrainOptions {
            optimizer: Optimizer::Gd,
            epochs: 1,
            warmup: 0.0,
            rate: Some(1e300),
            ..options()
        };
        let error = train_with(untrained(false), &last_step).unwrap_err();
        assert!(
            matches!(error, TrainError::NotFinite { step: 1, .. }),
            "{error}"
        );

        let mut renamed = untrained(false);
        renamed.classes[0] = "line".into();
        assert!(matches!(
            train_with(renamed, &options()),
            Err(TrainError::Classes { .. })
        ));

        let mut small = data();
        small.shape.height = 5;
        assert!(matches!(
            evaluate(&untrained(false), &small),
            Err(TrainError::Shape { .. })
        ));

        let mut unfinished = untrained(false);
        let run = key(&data(), None, &options(), &augmentation(), None, None);
        unfinished.training = Some(crate::checkpoint::TrainingState {
            step: 1,
            run,
            ..Default::default()
        });
        let other = TrainOptions {
            batch: 41,
            ..options()
        };
        let error = train_with(unfinished.clone(), &other)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`train.batch` was 40 and is 41"), "{error}");
        let error = train_with(unfinished, &options()).unwrap_err();
        assert!(matches!(error, TrainError::Optimiser(_)), "{error}");
    }
}
