//! How much each layer minds being compressed: one layer at a time is pruned, put on few
//! bits, or robbed of channels, nothing is trained on, and pictures that nothing learns
//! from are answered.

use serde::Serialize;

use super::importance::norms;
use super::prune::zero_share;
use super::share::fit_grids;
use super::{CompressOptions, PerLayer};
use crate::checkpoint::{Checkpoint, channel_of};
use crate::data::Dataset;
use crate::network::{Node, Role};
use crate::score::Score;
use crate::train::{TrainError, answers};

/// Shares of the weights that are zeroed.
const SPARSITIES: [f32; 3] = [0.5, 0.8, 0.95];
/// Bits of the weights.
const BITS: [u8; 3] = [4, 3, 2];
/// Shares of the channels that are zeroed.
const CHANNELS: [f64; 2] = [0.25, 0.5];

/// One layer under one change.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Sensitivity {
    /// Name of the layer.
    pub layer: String,
    /// Weights and biases of the layer.
    pub params: usize,
    /// Accuracy with the layer changed, a fraction of 1.
    pub accuracy: f64,
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
}

/// What is done to a layer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// This share of its weights, the smallest, are 0.
    Sparsity(f32),
    /// Its weights have this many bits.
    Bits(u8),
    /// This share of its output channels, those of the least norm, are 0.
    Channels(f64),
}

/// The accuracy of the whole float network, and with each layer changed in each way.
pub fn scan(
    checkpoint: &Checkpoint,
    data: &Dataset,
) -> Result<(f64, Vec<Sensitivity>), TrainError> {
    let plain = checkpoint.without_batch_norm()?.without_grids();
    let network = &plain.network;
    let whole = accuracy(&plain, data)?;
    let sparsities = SPARSITIES.map(Change::Sparsity);
    let (bits, channels) = (BITS.map(Change::Bits), CHANNELS.map(Change::Channels));
    let head = network.head()?.name.clone();
    let mut all = Vec::new();
    for node in &network.nodes {
        let Some(params) = network.params(node) else {
            continue;
        };
        for change in sparsities.iter().chain(&bits).chain(&channels) {
            // The classes stay.
            if matches!(change, Change::Channels(_)) && node.name == head {
                continue;
            }
            all.push(Sensitivity {
                layer: node.name.clone(),
                params: params.weights() + params.channels,
                accuracy: accuracy(&changed(&plain, node, *change), data)?,
                change: *change,
            });
        }
    }
    Ok((whole, all))
}

fn accuracy(checkpoint: &Checkpoint, data: &Dataset) -> Result<f64, TrainError> {
    Ok(Score::new(data, &answers(checkpoint, data)?).accuracy)
}

fn changed(plain: &Checkpoint, node: &Node, change: Change) -> Checkpoint {
    let mut changed = plain.clone();
    match change {
        Change::Sparsity(share) => {
            if let Some(weight) = changed.tensors.get_mut(&node.tensor_name(Role::Weight)) {
                zero_share(weight.data.iter_mut().collect(), share);
            }
        }
        Change::Bits(bits) => {
            let options = CompressOptions {
                bits: Some(PerLayer::Named([(node.name.clone(), bits)].into())),
                ..Default::default()
            };
            fit_grids(&mut changed, &options);
            changed.snap_to_grids();
        }
        Change::Channels(share) => {
            let worth = norms(plain, node).unwrap_or_default();
            zero_channels(&mut changed, node, &worth, share);
        }
    }
    changed
}

/// Zeroes weights and bias of the share of channels that are worth least.
fn zero_channels(checkpoint: &mut Checkpoint, node: &Node, worth: &[f64], share: f64) {
    let mut order: Vec<usize> = (0..worth.len()).collect();
    order.sort_by(|&a, &b| worth[a].total_cmp(&worth[b]));
    order.truncate((worth.len() as f64 * share) as usize);
    let is_gone = |channel: usize| order.contains(&channel);
    if let Some(weight) = checkpoint.tensors.get_mut(&node.tensor_name(Role::Weight)) {
        let channel_of = channel_of(&node.layer, &weight.shape);
        let weights = weight.data.iter_mut().enumerate();
        let gone = weights.filter(|(index, _)| is_gone(channel_of(*index)));
        gone.for_each(|(_, weight)| *weight = 0.0);
    }
    if let Some(bias) = checkpoint.tensors.get_mut(&node.tensor_name(Role::Bias)) {
        let biases = bias.data.iter_mut().enumerate();
        biases
            .filter(|(channel, _)| is_gone(*channel))
            .for_each(|(_, bias)| *bias = 0.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::augment::Augmentation;
    use crate::train::tests::{data, untrained};
    use crate::train::{Hooks, TrainOptions, train};

    #[test]
    fn more_is_worse_and_the_layer_is_named() {
        for batch_norm in [false, true] {
            let options = TrainOptions {
                epochs: 60,
                batch: 40,
                rate: Some(0.01),
                ..Default::default()
            };
            let none = Augmentation::default();
            let trained = train(
                untrained(batch_norm),
                None,
                &data(),
                None,
                &options,
                &none,
                &Hooks::default(),
            );
            let (whole, all) = scan(&trained.unwrap().checkpoint, &data()).unwrap();
            assert!(whole > 0.9, "{whole}");
            // Two layers with all changes, and the head without the channels.
            assert_eq!(all.len(), 2 * 8 + 6);
            let of = |layer: &str, change| {
                let found = all.iter().find(|s| s.layer == layer && s.change == change);
                found.unwrap().accuracy
            };
            assert!(of("conv2d_1", Change::Sparsity(0.95)) < whole);
            assert!(of("dense_1", Change::Bits(4)) >= of("dense_1", Change::Bits(2)));
        }
    }
}
