//! Why a training diverges.

use std::fmt;

use super::TrainOptions;
use crate::data::Dataset;

/// A rate this many times the usual one is a likely cause.
const TOO_HIGH: f64 = 10.0;
/// Share of the steps in which a warm-up would have helped.
const EARLY: f64 = 0.1;

/// What is likely to have made a loss that is not a number.
#[derive(Clone, PartialEq, Debug)]
pub enum Cause {
    /// Nothing can be learnt from such pictures.
    OneValue {
        /// Of all pixels.
        value: u8,
    },
    /// The learning rate.
    Rate {
        /// The highest.
        rate: f64,
        /// What is usual for the optimizer.
        usual: f64,
    },
    /// Full rate from the first step on.
    NoWarmUp,
    /// Steps too long for a while.
    Gradients {
        /// The longest gradient that was allowed.
        longest: Option<f64>,
    },
}

impl Cause {
    /// Of a training that diverged in a step (from 1).
    pub(super) fn find(data: &Dataset, options: &TrainOptions, step: usize, steps: usize) -> Self {
        let (rate, usual) = (options.rate(), options.optimizer.usual_rate());
        let early = step as f64 <= (steps as f64 * EARLY).max(10.0);
        match one_value(data) {
            Some(value) => Self::OneValue { value },
            None if rate > TOO_HIGH * usual => Self::Rate { rate, usual },
            None if options.warmup == 0.0 && early => Self::NoWarmUp,
            None => Self::Gradients {
                longest: options.clip_norm,
            },
        }
    }
}

/// The value of all pixels of all pictures, if they have one.
fn one_value(data: &Dataset) -> Option<u8> {
    let mut pixels = data.pictures.iter().flat_map(|picture| &picture.pixels);
    let first = *pixels.next()?;
    pixels.all(|&pixel| pixel == first).then_some(first)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneValue { value } => write!(
                f,
                "all pixels of all training pictures are {value}, so that there is nothing to learn: look at them \
                 with `espalier data --preview sheet.png`"
            ),
            Self::Rate { rate, usual } => write!(
                f,
                "the rate of {rate} is high for this optimizer: lower `train.rate`, {usual} is usual"
            ),
            Self::NoWarmUp => f.write_str(
                "the first steps are made at full rate: set `train.warmup`, 0.05 is usual, or lower `train.rate`",
            ),
            Self::Gradients { longest: None } => {
                f.write_str("a gradient was too long: set `train.clip_norm = 1`, or lower `train.rate`")
            }
            Self::Gradients {
                longest: Some(longest),
            } => write!(
                f,
                "a gradient was too long: lower `train.clip_norm` below {longest}, or lower `train.rate`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::data;

    #[test]
    fn the_likely_cause_is_named() {
        let cause = |options: &TrainOptions, step| Cause::find(&data(), options, step, 1000);
        let options = TrainOptions::default();
        assert_eq!(cause(&options, 5), Cause::Gradients { longest: None });
        let high = TrainOptions {
            rate: Some(1.0),
            ..options.clone()
        };
        assert_eq!(
            cause(&high, 5),
            Cause::Rate {
                rate: 1.0,
                usual: 1e-3
            }
        );
        let cold = TrainOptions {
            warmup: 0.0,
            clip_norm: Some(5.0),
            ..options.clone()
        };
        assert_eq!(cause(&cold, 100), Cause::NoWarmUp);
        assert_eq!(cause(&cold, 101), Cause::Gradients { longest: Some(5.0) });
        let mut grey = data();
        for picture in &mut grey.pictures {
            picture.pixels.fill(9);
        }
        let grey = Cause::find(&grey, &high, 5, 1000);
        assert_eq!(grey, Cause::OneValue { value: 9 });
        assert!(
            grey.to_string()
                .contains("all pixels of all training pictures are 9")
        );
    }
}
