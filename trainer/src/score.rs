//! How good a classifier is, with how sure one can be of that.

use std::fmt;

use serde::Serialize;

use crate::data::Dataset;

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Right answers on a set of pictures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Score {
    /// Share of right answers, a fraction of 1.
    pub accuracy: f64,
    /// 95 % interval of the accuracy, see [`interval`].
    pub interval: [f64; 2],
    /// Right answers.
    pub correct: usize,
    /// Pictures.
    pub total: usize,
    /// Mean of the classes' recalls, a fraction of 1.
    pub balanced_accuracy: f64,
    /// Class by class.
    pub per_class: Vec<ClassScore>,
    /// `confusion[truth][answer]` counts pictures.
    pub confusion: Vec<Vec<usize>>,
}

/// Right answers within one class.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ClassScore {
    /// Name of the class.
    pub class: String,
    /// Share of right answers, a fraction of 1; 0 for a class without pictures.
    pub recall: f64,
    /// Right answers.
    pub correct: usize,
    /// Pictures of the class.
    pub total: usize,
}

impl Score {
    /// Compares `answers`, one class number for each picture, with the labels.
    pub fn new(dataset: &Dataset, answers: &[usize]) -> Self {
        let classes = dataset.classes.len();
        let mut confusion = vec![vec![0; classes]; classes];
        for (picture, &answer) in dataset.pictures.iter().zip(answers) {
            if let Some(count) = confusion
                .get_mut(picture.label)
                .and_then(|row| row.get_mut(answer))
            {
                *count += 1;
            }
        }
        let per_class: Vec<ClassScore> = dataset
            .classes
            .iter()
            .zip(&confusion)
            .enumerate()
            .map(|(class, (name, row))| ClassScore {
                class: name.clone(),
                recall: ratio(row[class], row.iter().sum()),
                correct: row[class],
                total: row.iter().sum(),
            })
            .collect();
        let correct = per_class.iter().map(|c| c.correct).sum();
        let total = answers.len();
        let seen = per_class.iter().filter(|c| c.total > 0);
        let recalls: f64 = seen.clone().map(|c| c.recall).sum();
        Self {
            accuracy: ratio(correct, total),
            interval: interval(correct, total),
            correct,
            total,
            balanced_accuracy: recalls / seen.count().max(1) as f64,
            per_class,
            confusion,
        }
    }

    /// Accuracy and interval in percent, such as `81.3 % (78.8 to 83.6)`.
    pub fn percent(&self) -> String {
        percent(self.accuracy, self.interval)
    }

    /// Balanced accuracy in percent, such as `81.3 %`.
    pub fn balanced_percent(&self) -> String {
        format!("{:.1} %", 100.0 * self.balanced_accuracy)
    }
}

/// An accuracy and its interval in percent, such as `81.3 % (78.8 to 83.6)`.
pub fn percent(accuracy: f64, interval: [f64; 2]) -> String {
    let [low, high] = interval.map(|p| 100.0 * p);
    format!("{:.1} % ({low:.1} to {high:.1})", 100.0 * accuracy)
}

/// exp(logit) / sum over all logits of exp: fractions of 1 that add up to 1.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// A mean of several measurements.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half of its 95 % interval; nothing for one measurement.
    pub half_width: Option<f64>,
    /// Measurements.
    pub count: usize,
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.half_width {
            Some(half) => write!(f, "{:.1} ± {half:.1}", self.mean),
            None => write!(f, "{:.1}", self.mean),
        }
    }
}

/// 97.5 % quantiles of Student's t distribution with 1, 2, ... degrees of freedom (W. S.
/// Gosset, "The Probable Error of a Mean", 1908); further ones are at most 2 % above [`Z`].
const T: [f64; 29] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045,
];

/// The mean of measurements that scatter normally, such as accuracies over seeds, and its
/// 95 % interval by Student's t.
pub fn mean(values: &[f64]) -> Mean {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count.max(1) as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let half_width = (count > 1).then(|| {
        let deviation = (squares / (count - 1) as f64).sqrt();
        T.get(count - 2).unwrap_or(&Z) * deviation / (count as f64).sqrt()
    });
    Mean {
        mean,
        half_width,
        count,
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Wilson's 95 % interval of a share (E. B. Wilson, "Probable inference, the
/// law of succession, and statistical inference", 1927); [0, 1] for no trial.
pub fn interval(correct: usize, total: usize) -> [f64; 2] {
    if total == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (total as f64, ratio(correct, total));
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Picture, PictureShape};

    #[test]
    fn a_score_counts_right_answers_by_class() {
        let shape = PictureShape {
            height: 1,
            width: 1,
            channels: 1,
        };
        let picture = |label| Picture {
            pixels: vec![0],
            label,
        };
        let dataset = Dataset {
            shape,
            classes: vec!["a".into(), "b".into()],
            pictures: [0, 0, 0, 1].map(picture).to_vec(),
        };
        let score = Score::new(&dataset, &[0, 0, 1, 1]);
        assert_eq!((score.correct, score.total), (3, 4));
        assert_eq!(score.confusion, [[2, 1], [0, 1]]);
        assert!((score.balanced_accuracy - (2.0 / 3.0 + 1.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_softmax_is_a_share_and_does_not_overflow() {
        let shares = softmax(&[3f32.ln() + 1000.0, 1000.0, -1000.0]);
        let close = |(a, b): (&f32, f32)| (a - b).abs() < 1e-4;
        assert!(
            shares.iter().zip([0.75, 0.25, 0.0]).all(close),
            "{shares:?}"
        );
    }

    #[test]
    fn the_interval_is_wilsons() {
        // 81 of 263: 0.2553 to 0.3662, Newcombe (1998), table I, method 3.
        let [low, high] = interval(81, 263);
        assert!((low - 0.2553).abs() < 5e-5, "{low}");
        assert!((high - 0.3662).abs() < 5e-5, "{high}");
        assert_eq!(interval(0, 0), [0.0, 1.0]);
    }
}
