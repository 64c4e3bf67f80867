//! Makes a trained network smaller. One file per method; each takes a
//! checkpoint and gives one back.

pub mod prune;
pub mod structured;

use serde::{Deserialize, Serialize};

use crate::train::{OutOfRange, first_wrong};

/// The `[compress]` section.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressOptions {
    /// Most parameters, zeros counted, that [`structured::remove`] leaves; all where
    /// not given.
    pub target_params: Option<usize>,
    /// Share of the weights that [`prune::prune`] makes 0, 0 to below 1; 0 for no
    /// pruning.
    pub sparsity: f32,
    /// Passes over the data while pruning, 1 or more.
    pub epochs: usize,
    /// Highest learning rate while pruning, above 0.
    pub rate: f64,
    /// Share of the loss that is the distance to what the network said before it was
    /// compressed, 0 to 1; the rest is the distance to the labels.
    pub distill: f32,
    /// What both networks' logits are divided by for that, above 0.
    pub temperature: f32,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            target_params: None,
            sparsity: 0.9,
            epochs: 80,
            rate: 1e-3,
            distill: 0.0,
            temperature: 4.0,
        }
    }
}

impl CompressOptions {
    /// The keys, with what `--help` says of each.
    pub const KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "target_params",
            "Remove whole channels and neurons until so many parameters are left, zeros counted",
        ),
        (
            "sparsity",
            "Share of the weights that become 0, 0 to below 1",
        ),
        ("epochs", "Passes over the training pictures while pruning"),
        ("rate", "Highest learning rate while pruning"),
        (
            "distill",
            "Share of the loss that comes from the uncompressed network's answers, 0 to 1",
        ),
        (
            "temperature",
            "Softens those answers; 1 leaves them as they are",
        ),
    ];

    /// The first key that is out of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let wrong = |value: f64, right: bool| (!right).then(|| value.to_string());
        let (sparsity, rate) = (self.sparsity, self.rate);
        let (distill, temperature) = (self.distill, self.temperature);
        first_wrong([
            (
                "compress.sparsity",
                wrong(sparsity.into(), (0.0..1.0).contains(&sparsity)),
                "0 or more and below 1",
            ),
            (
                "compress.epochs",
                wrong(self.epochs as f64, self.epochs > 0),
                "1 or more",
            ),
            (
                "compress.rate",
                wrong(rate, rate > 0.0 && rate.is_finite()),
                "a number above 0, such as 0.001",
            ),
            (
                "compress.distill",
                wrong(distill.into(), (0.0..=1.0).contains(&distill)),
                "0 to 1",
            ),
            (
                "compress.temperature",
                wrong(
                    temperature.into(),
                    temperature > 0.0 && temperature.is_finite(),
                ),
                "a number above 0, such as 4",
            ),
        ])
    }

    /// Whether anything is to be done.
    pub fn is_something(&self) -> bool {
        self.target_params.is_some() || self.sparsity > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_ranges() {
        assert_eq!(CompressOptions::default().validate(), Ok(()));
        let all = CompressOptions {
            sparsity: 1.0,
            ..Default::default()
        };
        let key = all.validate().map_err(|(key, ..)| key);
        assert_eq!(key, Err("compress.sparsity"));
    }
}
