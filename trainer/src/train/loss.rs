//! What a training minimises.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::TrainOptions;
use super::teacher::Taught;
use crate::data::Dataset;

/// The least (1 - p) of the focal loss, whose gradient is otherwise not a number at 0.
const LEAST: f32 = 1e-6;

/// The loss of a picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross entropy.
    #[default]
    CrossEntropy,
    /// (1 - p)^gamma times the cross entropy, so that pictures count less that are right
    /// already (Lin et al. 2017, "Focal Loss for Dense Object Detection").
    Focal,
}

/// What is minimised, besides a teacher's part.
pub(super) struct Loss {
    gamma: Option<f64>,
    /// Added to the logits of each class.
    offsets: Option<Vec<f32>>,
}

/// What a network should say to some pictures.
pub(super) struct Goal {
    /// By their labels: [pictures, classes].
    pub targets: Tensor<2>,
    /// By a teacher.
    pub taught: Option<Taught>,
}

impl Loss {
    pub(super) fn new(data: &Dataset, options: &TrainOptions) -> Self {
        let all = data.pictures.len().max(1) as f64;
        // A class without pictures counts as having one.
        let share = |count: usize| count.max(1) as f64 / all;
        let offset = |count| (options.logit_adjustment * f64::ln(share(count))) as f32;
        Self {
            gamma: (options.loss == LossKind::Focal).then_some(options.focal_gamma),
            offsets: (options.logit_adjustment > 0.0)
                .then(|| data.counts().into_iter().map(offset).collect()),
        }
    }

    /// The sum over all pictures. Of a teacher, its share of the loss is the cross entropy
    /// with its answers at its temperature t, times t^2, which keeps the gradient as large
    /// at any t (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network").
    pub(super) fn sum(&self, logits: Tensor<2>, goal: &Goal) -> Tensor<1> {
        let labels = self.of_labels(logits.clone(), &goal.targets);
        match &goal.taught {
            None => labels,
            Some(taught) => {
                let t = taught.temperature;
                let teacher = -(log_softmax(logits / t, 1) * taught.answers.clone()).sum();
                labels * (1.0 - taught.share) + teacher * (t * t) * taught.share
            }
        }
    }

    /// With soft targets.
    fn of_labels(&self, logits: Tensor<2>, targets: &Tensor<2>) -> Tensor<1> {
        let logits = match &self.offsets {
            None => logits,
            Some(offsets) => {
                let shape = [1, offsets.len()];
                let offsets = TensorData::new(offsets.clone(), shape);
                let offsets = Tensor::from_data(offsets, &logits.device());
                logits + offsets
            }
        };
        let logs = log_softmax(logits, 1);
        match self.gamma {
            None => -(logs * targets.clone()).sum(),
            Some(gamma) => {
                let missing = (-logs.clone().exp() + 1.0).clamp_min(LEAST);
                -(missing.powf_scalar(gamma) * logs * targets.clone()).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::numbers;
    use crate::train::tests::data;
    use burn::tensor::Device;

    fn rows(values: [[f32; 2]; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(values), &Device::flex())
    }

    const PLAIN: Loss = Loss {
        gamma: None,
        offsets: None,
    };

    fn ln(x: f64) -> f64 {
        -x.ln()
    }

    /// Of logits that say 3/4 and 1/4 for the first picture and the reverse for the
    /// second, both of the first class.
    fn of(loss: &Loss, taught: Option<Taught>) -> f64 {
        let apart = 3f32.ln();
        let logits = rows([[apart, 0.0], [0.0, apart]]);
        let targets = rows([[1.0, 0.0], [1.0, 0.0]]);
        f64::from(numbers(loss.sum(logits, &Goal { targets, taught }))[0])
    }

    #[test]
    fn a_teacher_has_its_share_of_the_loss() {
        let loss = |share, temperature| {
            let taught = Taught {
                answers: rows([[0.5, 0.5], [0.25, 0.75]]),
                share,
                temperature,
            };
            of(&PLAIN, Some(taught))
        };
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

    #[test]
    fn focal_counts_what_is_right_less() {
        let focal = |gamma| Loss {
            gamma: Some(gamma),
            offsets: None,
        };
        let wanted = 0.25f64.powi(2) * ln(0.75) + 0.75f64.powi(2) * ln(0.25);
        assert!((of(&focal(2.0), None) - wanted).abs() < 1e-6);
        assert!((of(&focal(0.0), None) - of(&PLAIN, None)).abs() < 1e-6);
    }

    #[test]
    fn focal_has_a_gradient_where_all_is_right() {
        let logits = Tensor::<2>::from_data([[100.0, 0.0]], &Device::flex().autodiff());
        let logits = logits.require_grad();
        let targets = Tensor::from_data([[1.0, 0.0]], &Device::flex().autodiff());
        let focal = Loss {
            gamma: Some(0.5),
            offsets: None,
        };
        let goal = Goal {
            targets,
            taught: None,
        };
        let gradients = focal.sum(logits.clone(), &goal).backward();
        let gradient = logits.grad(&gradients).map(numbers).unwrap_or_default();
        assert_eq!(gradient.len(), 2);
        assert!(gradient.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn adjusted_logits_know_the_shares_of_the_classes() {
        let mut data = data();
        // 20 of each of three classes; 5 of the last are left.
        let mut left = 5;
        data.pictures.retain(|picture| {
            left -= i32::from(picture.label == 2);
            picture.label < 2 || left >= 0
        });
        let options = TrainOptions {
            logit_adjustment: 2.0,
            ..Default::default()
        };
        let offsets = Loss::new(&data, &options).offsets.unwrap_or_default();
        let wanted = [20.0f32, 20.0, 5.0].map(|count| 2.0 * (count / 45.0).ln());
        assert!(
            offsets
                .iter()
                .zip(wanted)
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
        let even = Loss {
            gamma: None,
            offsets: Some(vec![-1.0, -1.0]),
        };
        assert!((of(&even, None) - of(&PLAIN, None)).abs() < 1e-6);
        let adjusted = Loss {
            gamma: None,
            offsets: Some(vec![0.0, -3f32.ln()]),
        };
        // Now 9/10 and 1/10, then one half.
        assert!((of(&adjusted, None) - ln(0.9) - ln(0.5)).abs() < 1e-5);
    }
}
