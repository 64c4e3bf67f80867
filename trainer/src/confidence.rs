//! How sure a model is, and whether it should answer at all.
//!
//! Both are found on validation pictures and for the int8 model: a temperature that makes its
//! softmax say how often it is right (Guo et al. 2017, "On Calibration of Modern Neural
//! Networks"), and the least margin of the logits that leaves answers as good as asked for.

use serde::Serialize;
use shared::Model;
use shared::model::Confidence;

use crate::data::Dataset;
use crate::score::{interval, percent, softmax};
use crate::simulate::{Decision, SimulateError, decisions, in_order_of};

/// Bins of the calibration error, as in the article.
const BINS: usize = 15;
/// Temperatures that are looked at.
const TEMPERATURES: [f64; 2] = [0.05, 20.0];
/// Golden sections of that range: enough for 32-bit floats.
const SECTIONS: usize = 50;

/// What was found on validation pictures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Calibrated {
    /// What softmax scores are divided by, and how the answered pictures came out.
    #[serde(flatten)]
    pub answered: Answered,
    /// Least difference of the two largest logits of an answer, in steps of int8.
    pub margin: u8,
    /// The calibration error at temperature 1.
    pub calibration_error_before: f64,
}

/// A model that need not answer, on some pictures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Answered {
    /// Pictures.
    pub pictures: usize,
    /// Those that are answered.
    pub answered: usize,
    /// Those that are answered and right.
    pub correct: usize,
    /// Share of the pictures that is answered, a fraction of 1.
    pub coverage: f64,
    /// Share of right answers among those, a fraction of 1.
    pub accuracy: f64,
    /// 95 % interval of the accuracy, see [`interval`].
    pub interval: [f64; 2],
    /// What logits are divided by before a softmax.
    pub temperature: f32,
    /// Expected calibration error at that temperature, over all pictures: how far scores and
    /// shares of right answers are apart, the mean over 15 bins of the score.
    pub calibration_error: f64,
}

/// Why there is no confidence.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ConfidenceError {
    /// No margin makes answers that good.
    #[error(
        "no margin leaves answers of which {:.1} % are right: {:.1} % at best, on {pictures} validation pictures; lower export.abstain",
        100.0 * wanted, 100.0 * best
    )]
    OutOfReach {
        /// Accuracy that was asked for.
        wanted: f64,
        /// The best one.
        best: f64,
        /// Pictures.
        pictures: usize,
    },
    /// Other classes.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}

/// Finds temperature and margin: the smallest margin at which the share `wanted` (a fraction
/// of 1) of the answers to the validation pictures is right.
pub fn calibrate(
    model: &Model,
    validation: &Dataset,
    wanted: f64,
) -> Result<(Confidence, Calibrated), ConfidenceError> {
    let validation = in_order_of(model, validation)?;
    let decisions = decisions(model, &validation);
    let temperature = temperature(&validation, &decisions);
    let margin = margin(&validation, &decisions, wanted)?;
    let answered = Answered::new(&validation, &decisions, temperature, margin);
    let confidence = Confidence {
        temperature,
        margin,
        pictures: answered.pictures as u32,
        answered: answered.answered as u32,
        correct: answered.correct as u32,
    };
    let calibrated = Calibrated {
        answered,
        margin,
        calibration_error_before: calibration_error(&validation, &decisions, 1.0),
    };
    Ok((confidence, calibrated))
}

/// What a model with confidence does with pictures; nothing for one without.
pub fn measure(model: &Model, data: &Dataset) -> Result<Option<Answered>, SimulateError> {
    let Some(confidence) = model.confidence() else {
        return Ok(None);
    };
    let data = in_order_of(model, data)?;
    let decisions = decisions(model, &data);
    let Confidence {
        temperature,
        margin,
        ..
    } = confidence;
    Ok(Some(Answered::new(&data, &decisions, temperature, margin)))
}

impl Answered {
    fn new(data: &Dataset, decisions: &[Decision], temperature: f32, margin: u8) -> Self {
        let (answered, correct) = count(data, decisions, margin);
        let pictures = decisions.len();
        Self {
            pictures,
            answered,
            correct,
            coverage: answered as f64 / pictures.max(1) as f64,
            accuracy: correct as f64 / answered.max(1) as f64,
            interval: interval(correct, answered),
            temperature,
            calibration_error: calibration_error(data, decisions, temperature),
        }
    }
}

impl Answered {
    /// In words.
    pub fn words(&self) -> String {
        let Self {
            pictures, answered, ..
        } = self;
        format!(
            "{answered} of {pictures} pictures are answered ({:.1} %), {} of them right",
            100.0 * self.coverage,
            percent(self.accuracy, self.interval)
        )
    }
}

/// Answers, and right ones among them, where only margins of this much count.
fn count(data: &Dataset, decisions: &[Decision], margin: u8) -> (usize, usize) {
    let pairs = data.pictures.iter().zip(decisions);
    let sure = pairs.filter(|(_, decision)| decision.margin >= margin);
    sure.fold((0, 0), |(answered, correct), (picture, decision)| {
        let right = usize::from(picture.label == decision.answer);
        (answered + 1, correct + right)
    })
}

fn margin(data: &Dataset, decisions: &[Decision], wanted: f64) -> Result<u8, ConfidenceError> {
    let accuracy = |margin: u8| match count(data, decisions, margin) {
        (0, _) => None,
        (answered, correct) => Some(correct as f64 / answered as f64),
    };
    let enough = |margin: &u8| accuracy(*margin).is_some_and(|share| share >= wanted);
    (0..=u8::MAX)
        .find(enough)
        .ok_or_else(|| ConfidenceError::OutOfReach {
            wanted,
            best: (0..=u8::MAX).filter_map(accuracy).fold(0.0, f64::max),
            pictures: decisions.len(),
        })
}

/// The temperature with the least mean cross entropy. That is convex in 1 / temperature, so
/// that there is one minimum to find by golden sections.
fn temperature(data: &Dataset, decisions: &[Decision]) -> f32 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let entropy = |log: f64| {
        let temperature = log.exp() as f32;
        let pairs = data.pictures.iter().zip(decisions);
        let of = |score: f32| -f64::from(score.max(f32::MIN_POSITIVE)).ln();
        pairs
            .map(|(picture, decision)| of(decision.scores(temperature)[picture.label]))
            .sum::<f64>()
    };
    let [mut low, mut high] = TEMPERATURES.map(f64::ln);
    for _ in 0..SECTIONS {
        let reach = GOLDEN * (high - low);
        match entropy(high - reach) < entropy(low + reach) {
            true => high = low + reach,
            false => low = high - reach,
        }
    }
    (0.5 * (low + high)).exp() as f32
}

impl Decision {
    /// Softmax of the logits over a temperature.
    fn scores(&self, temperature: f32) -> Vec<f32> {
        let logits: Vec<f32> = self
            .logits
            .iter()
            .map(|logit| logit / temperature)
            .collect();
        softmax(&logits)
    }
}

fn calibration_error(data: &Dataset, decisions: &[Decision], temperature: f32) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (picture, decision) in data.pictures.iter().zip(decisions) {
        let score = f64::from(decision.scores(temperature)[decision.answer]);
        let bin = ((score * BINS as f64) as usize).min(BINS - 1);
        let right = f64::from(u8::from(picture.label == decision.answer));
        bins[bin].0 += score;
        bins[bin].1 += right;
    }
    let apart: f64 = bins
        .iter()
        .map(|(scores, right)| (scores - right).abs())
        .sum();
    apart / decisions.len().max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Picture, PictureShape};

    /// Two classes; margins, and whether the answer, class 0, is right.
    fn answers(of: &[(u8, bool)]) -> (Dataset, Vec<Decision>) {
        let picture = |&(_, right): &(u8, bool)| Picture {
            pixels: vec![0],
            label: usize::from(!right),
        };
        let decision = |&(margin, _): &(u8, bool)| Decision {
            answer: 0,
            margin,
            logits: vec![0.1 * f32::from(margin), 0.0],
        };
        let data = Dataset {
            shape: PictureShape {
                height: 1,
                width: 1,
                channels: 1,
            },
            classes: vec!["a".into(), "b".into()],
            pictures: of.iter().map(picture).collect(),
        };
        (data, of.iter().map(decision).collect())
    }

    #[test]
    fn the_margin_is_the_smallest_that_is_good_enough() {
        let of = [(40, true), (30, true), (20, false), (20, true), (10, false)];
        let (data, decisions) = answers(&of);
        let least = |wanted| margin(&data, &decisions, wanted);
        // 3 of 5, 3 of 4, 2 of 2.
        assert_eq!(
            [0.6, 0.7, 0.76, 1.0].map(|w| least(w).unwrap()),
            [0, 11, 21, 21]
        );
        let answered = Answered::new(&data, &decisions, 1.0, 11);
        assert_eq!((answered.answered, answered.correct), (4, 3));
        assert_eq!((answered.coverage, answered.accuracy), (0.8, 0.75));

        let (data, decisions) = answers(&[(9, false), (5, true)]);
        let error = margin(&data, &decisions, 0.9).unwrap_err().to_string();
        assert!(error.contains("50.0 % at best, on 2"), "{error}");
    }

    #[test]
    fn the_temperature_makes_scores_true() {
        // A margin of 2.0 says 88 %, and 3 of 4 are right: 75 % is a margin of ln 3.
        let (data, decisions) = answers(&[(20, true), (20, true), (20, true), (20, false)]);
        let found = temperature(&data, &decisions);
        assert!((found - 2.0 / 3f32.ln()).abs() < 1e-3, "{found}");
        let error = |temperature| calibration_error(&data, &decisions, temperature);
        assert!((error(1.0) - 0.1308).abs() < 1e-3, "{}", error(1.0));
        assert!(error(found) < 1e-3);
        // Where all are right, low enough for scores of 1.
        let (data, decisions) = answers(&[(20, true)]);
        assert!(temperature(&data, &decisions) < 0.2);
    }
}
