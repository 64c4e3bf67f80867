//! The `[train]` section.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::average::Average;
use super::balance::{ClassWeights, Sampling};
use super::loss::LossKind;
use super::optimiser::Optimizer;
use super::schedule::Schedule;

/// The `[train]` section. `docs/training.md` says what each key is good for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// Passes over the data, 1 or more.
    pub epochs: usize,
    /// In place of `epochs`: as many as it takes for so many steps, 1 or more.
    pub steps: Option<usize>,
    /// Pictures in one step, 1 or more; `gd` takes all.
    pub batch: usize,
    /// What turns gradients into steps.
    pub optimizer: Optimizer,
    /// Highest learning rate, above 0; [`Optimizer::usual_rate`] where not given.
    pub rate: Option<f64>,
    /// How the rate goes on after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which the rate rises, 0 to below 1.
    pub warmup: f64,
    /// 0 or more; [`Optimizer::usual_decay`] where not given. For `adamw` the share of a
    /// weight that goes in a step of rate 1, else the factor of an L2 penalty.
    pub weight_decay: Option<f64>,
    /// Longest gradient, above 0: one that is longer is scaled down to it (Pascanu et al.
    /// 2013, "On the difficulty of training recurrent neural networks").
    pub clip_norm: Option<f64>,
    /// Label smoothing: share of the target that goes to all classes alike, 0
    /// to below 1 (Szegedy et al. 2016).
    pub smoothing: f32,
    /// Share of the inputs of every dense layer that is zeroed while training, 0 to below
    /// 1 (Srivastava et al. 2014, "Dropout").
    pub dropout: f32,
    /// Which mean of the weights is the result.
    pub average: Option<Average>,
    /// Share of the old mean that [`Average::Ema`] keeps in each step, 0 to below 1.
    pub average_decay: f64,
    /// Share of the epochs behind which [`Average::Swa`] begins, 0 to 1.
    pub average_from: f64,
    /// Ends after so many epochs without a lower loss on the validation pictures, 1 or
    /// more, and gives the weights of the best epoch (Prechelt 1998, "Early Stopping - But
    /// When?").
    pub patience: Option<usize>,
    /// Which pictures an epoch has.
    pub sampling: Sampling,
    /// How much pictures of each class count.
    pub class_weights: ClassWeights,
    /// Beta of [`ClassWeights::Effective`], 0 to below 1.
    pub effective_beta: f64,
    /// What is minimised.
    pub loss: LossKind,
    /// Gamma of [`LossKind::Focal`], 0 to 100.
    pub focal_gamma: f64,
    /// While training, so many times the logarithms of the classes' shares are added to
    /// the logits, 0 or more (Menon et al. 2021, "Long-tail learning via logit
    /// adjustment").
    pub logit_adjustment: f64,
    /// Fixes the first weights, the order of the pictures, their augmentation and the
    /// dropout.
    pub seed: u64,
    /// A checkpoint to start from.
    pub base: Option<PathBuf>,
    /// Networks that are trained, with seeds from `seed` on, 1 or more. From 2 on they
    /// teach one more, which is the result.
    pub ensemble: usize,
    /// Share of that network's loss that is the distance to the mean of the ensemble's
    /// logits, 0 to 1; the rest is the distance to the labels.
    pub distill: f32,
    /// What the logits of both are divided by for that, above 0.
    pub temperature: f32,
    /// Layers whose weights and biases stay as they are at the start.
    pub freeze: Vec<String>,
    /// The rate of all layers but the head, as a share of the rate, 0 to 1.
    pub body_rate: f64,
}

impl Default for TrainOptions {
    /// For some twenty pictures of each class. Cross-validation within the 200
    /// training pictures of `examples/fashion` found nothing clearly better.
    fn default() -> Self {
        Self {
            epochs: 100,
            steps: None,
            batch: 32,
            optimizer: Optimizer::default(),
            rate: None,
            schedule: Schedule::default(),
            warmup: 0.05,
            weight_decay: None,
            clip_norm: None,
            smoothing: 0.1,
            dropout: 0.0,
            average: None,
            average_decay: 0.99,
            average_from: 0.75,
            patience: None,
            sampling: Sampling::default(),
            class_weights: ClassWeights::default(),
            effective_beta: 0.99,
            loss: LossKind::default(),
            focal_gamma: 2.0,
            logit_adjustment: 0.0,
            seed: 1,
            base: None,
            ensemble: 1,
            distill: 0.9,
            temperature: 2.0,
            freeze: Vec::new(),
            body_rate: 1.0,
        }
    }
}

/// A key, its value, and what it may be.
pub type OutOfRange = (&'static str, String, &'static str);

/// Most epochs or steps, so that their products are numbers.
pub(crate) const MOST: usize = 1_000_000_000;
/// The range of epochs and steps, as messages give it.
pub(crate) const COUNT: &str = "1 to 1,000,000,000";

impl TrainOptions {
    /// The keys, with what `--help` says of each.
    pub const KEYS: &'static [(&'static str, &'static str)] = &[
        ("epochs", "Passes over the training pictures"),
        (
            "steps",
            "In place of epochs: as many as it takes for so many steps",
        ),
        ("batch", "Pictures in one step"),
        (
            "optimizer",
            "gd (all pictures in one step), sgd, momentum, nesterov, adagrad, rmsprop, adam or adamw",
        ),
        (
            "rate",
            "Highest learning rate; what is usual for the optimizer where not given",
        ),
        (
            "schedule",
            "The rate behind the warm-up: constant, step (a tenth from half, a hundredth from three quarters) or cosine",
        ),
        (
            "warmup",
            "Share of the steps in which the rate rises, 0 to below 1",
        ),
        (
            "weight_decay",
            "Decay of the weights; what is usual for the optimizer where not given",
        ),
        ("clip_norm", "Longest gradient, such as 1"),
        ("smoothing", "Label smoothing, 0 to below 1"),
        (
            "dropout",
            "Share of the inputs of dense layers that is zeroed while training, 0 to below 1",
        ),
        (
            "average",
            "Give a mean of the weights: ema (over steps) or swa (over the last epochs)",
        ),
        (
            "average_decay",
            "ema: share of the mean that stays, such as 0.99",
        ),
        ("average_from", "swa: share of the epochs before it begins"),
        (
            "patience",
            "Stop after this many epochs without a better validation loss; needs data.validation",
        ),
        (
            "sampling",
            "Pictures of an epoch: natural, or balanced (as many of each class)",
        ),
        (
            "class_weights",
            "How much pictures of a class count: none, inverse (one over their number) or effective",
        ),
        (
            "effective_beta",
            "class_weights = effective: beta, 0 (none) to below 1 (inverse)",
        ),
        ("loss", "cross-entropy or focal"),
        ("focal_gamma", "loss = focal: gamma, such as 2"),
        (
            "logit_adjustment",
            "Times that the log shares of the classes are added to the logits, 0 (off) or 1",
        ),
        (
            "seed",
            "Fixes first weights, order, augmentation and dropout",
        ),
        (
            "base",
            "Checkpoint to start from, relative to the project's folder; its head is replaced where classes differ",
        ),
        (
            "ensemble",
            "Train so many networks, with seeds from `seed` on, and one that learns their mean answer",
        ),
        (
            "distill",
            "ensemble: share of the loss that is the distance to their answers, 0 to 1",
        ),
        (
            "temperature",
            "ensemble: what logits are divided by for that",
        ),
        ("freeze", "Layers that stay as they are: ['conv2d_1']"),
        (
            "body_rate",
            "Rate of all layers but the head, as a share of the rate, 0 to 1",
        ),
    ];

    /// The highest learning rate.
    pub fn rate(&self) -> f64 {
        self.rate.unwrap_or(self.optimizer.usual_rate())
    }

    /// The decay of the weights.
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay.unwrap_or(self.optimizer.usual_decay())
    }

    /// Pictures in one step, of so many.
    pub fn batch(&self, pictures: usize) -> usize {
        match self.optimizer {
            Optimizer::Gd => pictures.max(1),
            _ => self.batch,
        }
    }

    /// Steps of one pass over so many pictures.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        pictures.div_ceil(self.batch(pictures)).max(1)
    }

    /// Passes over so many pictures.
    pub fn epochs(&self, pictures: usize) -> usize {
        let for_steps = |steps: usize| steps.div_ceil(self.steps_per_epoch(pictures));
        self.steps.map_or(self.epochs, for_steps)
    }

    /// The first key that is out of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let whole = |value: usize| (value == 0).then(|| value.to_string());
        let count = |value: usize| (!(1..=MOST).contains(&value)).then(|| value.to_string());
        let wrong = |value: f64, right: bool| (!right).then(|| value.to_string());
        let positive = |value: Option<f64>| {
            value.and_then(|value| wrong(value, value > 0.0 && value.is_finite()))
        };
        let at_least_0 = |value: f64| wrong(value, value >= 0.0 && value.is_finite());
        let below_1 = |value: f64| wrong(value, (0.0..1.0).contains(&value));
        const BELOW_1: &str = "0 or more and below 1";
        const AT_LEAST_0: &str = "0 or more";
        let checks = [
            ("train.epochs", count(self.epochs), COUNT),
            ("train.steps", self.steps.and_then(count), COUNT),
            ("train.batch", whole(self.batch), "1 or more"),
            ("train.ensemble", whole(self.ensemble), "1 or more"),
            (
                "train.distill",
                wrong(self.distill.into(), (0.0..=1.0).contains(&self.distill)),
                "0 to 1",
            ),
            (
                "train.temperature",
                positive(Some(self.temperature.into())),
                "a number above 0, such as 2",
            ),
            (
                "train.rate",
                positive(self.rate),
                "a number above 0, such as 0.001",
            ),
            ("train.warmup", below_1(self.warmup), BELOW_1),
            (
                "train.weight_decay",
                self.weight_decay.and_then(at_least_0),
                AT_LEAST_0,
            ),
            (
                "train.clip_norm",
                positive(self.clip_norm),
                "a number above 0, such as 1",
            ),
            ("train.smoothing", below_1(self.smoothing.into()), BELOW_1),
            ("train.dropout", below_1(self.dropout.into()), BELOW_1),
            ("train.average_decay", below_1(self.average_decay), BELOW_1),
            (
                "train.average_from",
                wrong(self.average_from, (0.0..=1.0).contains(&self.average_from)),
                "0 to 1",
            ),
            ("train.patience", self.patience.and_then(whole), "1 or more"),
            (
                "train.effective_beta",
                below_1(self.effective_beta),
                BELOW_1,
            ),
            (
                "train.focal_gamma",
                wrong(self.focal_gamma, (0.0..=100.0).contains(&self.focal_gamma)),
                "0 to 100",
            ),
            (
                "train.body_rate",
                wrong(self.body_rate, (0.0..=1.0).contains(&self.body_rate)),
                "0 to 1",
            ),
            (
                "train.logit_adjustment",
                at_least_0(self.logit_adjustment),
                AT_LEAST_0,
            ),
        ];
        first_wrong(checks)
    }
}

/// The first of these checks that holds a wrong value.
pub(crate) fn first_wrong<const N: usize>(
    checks: [(&'static str, Option<String>, &'static str); N],
) -> Result<(), OutOfRange> {
    let mut wrong = checks
        .into_iter()
        .filter_map(|(key, value, range)| Some((key, value?, range)));
    wrong.next().map_or(Ok(()), Err)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn steps_take_whole_epochs() {
        let epochs = |text: &str, pictures| {
            let options: TrainOptions = toml::from_str(text).unwrap();
            options.epochs(pictures)
        };
        assert_eq!(epochs("epochs = 7", 100), 7);
        // Four steps an epoch.
        assert_eq!(epochs("steps = 9\nbatch = 32", 100), 3);
        assert_eq!(epochs("steps = 9\noptimizer = 'gd'", 100), 9);
        assert_eq!(epochs("steps = 1", 100_000), 1);
    }

    #[test]
    fn options_have_ranges() {
        assert_eq!(TrainOptions::default().validate(), Ok(()));
        for (key, wrong) in [
            ("epochs", "0"),
            ("steps", "0"),
            ("ensemble", "0"),
            ("distill", "1.1"),
            ("temperature", "0.0"),
            ("rate", "nan"),
            ("rate", "0.0"),
            ("warmup", "1.0"),
            ("weight_decay", "-1.0"),
            ("clip_norm", "0.0"),
            ("smoothing", "1.0"),
            ("dropout", "1.0"),
            ("average_decay", "1.0"),
            ("average_from", "1.1"),
            ("patience", "0"),
            ("effective_beta", "1.0"),
            ("epochs", "1000000001"),
            ("focal_gamma", "-0.1"),
            ("focal_gamma", "1e19"),
            ("logit_adjustment", "inf"),
            ("body_rate", "1.5"),
        ] {
            let options: TrainOptions = toml::from_str(&format!("{key} = {wrong}")).unwrap();
            assert_eq!(options.validate().unwrap_err().0, format!("train.{key}"));
        }
        let keys = serde_json::to_value(TrainOptions::default()).unwrap();
        let named: Vec<&str> = TrainOptions::KEYS.iter().map(|&(key, _)| key).collect();
        let keys = keys.as_object().unwrap();
        assert_eq!(named.len(), keys.len());
        assert!(named.iter().all(|name| keys.contains_key(*name)));
    }
}
