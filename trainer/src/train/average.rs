//! Means of the weights over a training, which are often better than the last ones.

use serde::{Deserialize, Serialize};

use super::TrainOptions;
use crate::checkpoint::Tensors;

/// Which mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Exponential moving average over the steps (Polyak and Juditsky 1992; with the
    /// decay of Tarvainen and Valpola 2017, "Mean teachers are better role models"). Early
    /// on it keeps less, so that it does not remember the first weights.
    Ema,
    /// Stochastic weight averaging: the plain mean of the last epochs' weights (Izmailov
    /// et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization").
    /// The statistics of batch normalisation are averaged too, where the authors compute
    /// them anew.
    Swa,
}

/// Where a training stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Finished steps, 1 or more.
    pub step: usize,
    pub per_epoch: usize,
    pub epochs: usize,
}

/// Takes the weights of a step into their mean.
pub(super) fn update(
    mean: &mut Option<Tensors>,
    place: Place,
    options: &TrainOptions,
    weights: impl FnOnce() -> Tensors,
) {
    let Some(share) = share(place, options) else {
        return;
    };
    let weights = weights();
    let Some(mean) = mean else {
        *mean = Some(weights);
        return;
    };
    for (mean, new) in mean.values_mut().zip(weights.values()) {
        for (mean, new) in mean.data.iter_mut().zip(&new.data) {
            *mean += (new - *mean) * share;
        }
    }
}

/// The share of the weights of this step in the mean; `None` where they are not in it.
fn share(place: Place, options: &TrainOptions) -> Option<f32> {
    match options.average? {
        Average::Ema => {
            let step = place.step as f64;
            let early = (1.0 + step) / (10.0 + step);
            Some((1.0 - options.average_decay.min(early)) as f32)
        }
        Average::Swa => {
            let epoch = place.step / place.per_epoch;
            let first = (place.epochs as f64 * options.average_from).ceil() as usize;
            let count = (epoch + 1).checked_sub(first.max(1))?;
            let in_mean = place.step.is_multiple_of(place.per_epoch) && count > 0;
            in_mean.then(|| 1.0 / count as f32)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::Array;

    /// The mean of weights that are the number of the step.
    fn mean(average: Average, decay: f64, from: f64) -> f32 {
        let options = TrainOptions {
            average: Some(average),
            average_decay: decay,
            average_from: from,
            ..Default::default()
        };
        let mut mean = None;
        for step in 1..=20 {
            let place = Place {
                step,
                per_epoch: 2,
                epochs: 10,
            };
            let weights = || {
                let data = vec![step as f32];
                Tensors::from([(
                    "w".to_owned(),
                    Array {
                        shape: vec![1],
                        data,
                    },
                )])
            };
            update(&mut mean, place, &options, weights);
        }
        mean.unwrap()["w"].data[0]
    }

    #[test]
    fn swa_is_the_mean_of_the_last_epochs() {
        // Behind epochs 7.5 to 10: steps 16, 18 and 20.
        assert!((mean(Average::Swa, 0.0, 0.75) - 18.0).abs() < 1e-5);
        assert!((mean(Average::Swa, 0.0, 0.0) - 11.0).abs() < 1e-5);
        assert_eq!(mean(Average::Swa, 0.0, 1.0), 20.0);
    }

    #[test]
    fn ema_forgets() {
        assert_eq!(mean(Average::Ema, 0.0, 0.0), 20.0);
        // Half of each: 20 - (1/2 + 1/4 + ...), once early steps do not matter.
        assert!((mean(Average::Ema, 0.5, 0.0) - 19.0).abs() < 0.01);
        // No decay is as slow as the early one of step 20.
        assert!(mean(Average::Ema, 0.999, 0.0) > 14.0);
    }
}
