//! How much each channel of a layer is worth.

use serde::{Deserialize, Serialize};
use shared::layer::Layer;

use crate::checkpoint::{Checkpoint, Folded, channel_of};
use crate::data::Dataset;
use crate::network::{Node, Role};
use crate::train::{TrainError, weight_gradients};

/// Pictures whose loss Taylor's measure looks at.
const PICTURES: usize = 2000;

/// What makes a channel important.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The Euclidean norm of its weights (Li et al. 2017, "Pruning Filters for Efficient
    /// ConvNets", take the sum of their sizes).
    #[default]
    Magnitude,
    /// How much the loss would change without it, to first order: the square of the sum
    /// of weight times gradient, over training pictures (Molchanov et al. 2019,
    /// "Importance Estimation for Neural Network Pruning").
    Taylor,
    /// The size of its factor in batch normalisation (Liu et al. 2017, "Learning
    /// Efficient Convolutional Networks through Network Slimming"); in a layer without,
    /// the norm of its weights.
    BatchNorm,
}

/// For each layer, the importance of each of its output channels; `None` for a layer
/// without weights.
pub type Importance = Vec<Option<Vec<f64>>>;

/// Measures every channel. Only [`Measure::Taylor`] looks at pictures.
pub fn importance(
    checkpoint: &Checkpoint,
    measure: Measure,
    data: &Dataset,
) -> Result<Importance, TrainError> {
    let nodes = &checkpoint.network.nodes;
    let norms = nodes.iter().map(|node| norms(checkpoint, node));
    Ok(match measure {
        Measure::Magnitude => norms.collect(),
        Measure::BatchNorm => nodes
            .iter()
            .zip(norms)
            .map(|(node, norms)| factors(checkpoint, node).or(norms))
            .collect(),
        Measure::Taylor => taylor(checkpoint, data)?,
    })
}

/// Euclidean norm of the weights of each output channel, batch normalisation folded.
pub(super) fn norms(checkpoint: &Checkpoint, node: &Node) -> Option<Vec<f64>> {
    let folded: Folded = checkpoint.folded(node)?;
    let channel_of = folded.channel_of(&node.layer);
    let mut squares = vec![0.0; folded.bias.len()];
    for (index, &weight) in folded.weights.iter().enumerate() {
        squares[channel_of(index)] += f64::from(weight).powi(2);
    }
    Some(squares.into_iter().map(f64::sqrt).collect())
}

fn factors(checkpoint: &Checkpoint, node: &Node) -> Option<Vec<f64>> {
    let gamma = checkpoint.tensor(node, Role::Gamma)?;
    Some(
        gamma
            .data
            .iter()
            .map(|&factor| f64::from(factor).abs())
            .collect(),
    )
}

fn taylor(checkpoint: &Checkpoint, data: &Dataset) -> Result<Importance, TrainError> {
    let every = data.pictures.len().div_ceil(PICTURES).max(1);
    let sample: Vec<usize> = (0..data.pictures.len()).step_by(every).collect();
    let nodes = &checkpoint.network.nodes;
    let mut squares: Importance = nodes
        .iter()
        .map(|node| {
            checkpoint.tensor(node, Role::Weight)?;
            Some(vec![0.0; node.output.channels()])
        })
        .collect();
    weight_gradients(checkpoint, &data.subset(&sample), |gradients| {
        for ((node, gradient), squares) in nodes.iter().zip(gradients).zip(&mut squares) {
            let weight = checkpoint.tensor(node, Role::Weight);
            let (Some(weight), Some(gradient), Some(squares)) = (weight, gradient, squares) else {
                continue;
            };
            for (square, sum) in squares.iter_mut().zip(products(
                &node.layer,
                &weight.shape,
                &weight.data,
                &gradient,
            )) {
                *square += sum * sum;
            }
        }
    })?;
    Ok(squares)
}

/// The sum of weight times gradient for each output channel.
fn products(layer: &Layer, shape: &[usize], weights: &[f32], gradient: &[f32]) -> Vec<f64> {
    let channel_of = channel_of(layer, shape);
    let channels = match layer {
        Layer::Dense(_) => shape.get(1),
        _ => shape.first(),
    };
    let mut sums = vec![0.0; channels.copied().unwrap_or(0)];
    for (index, (weight, gradient)) in weights.iter().zip(gradient).enumerate() {
        sums[channel_of(index)] += f64::from(weight * gradient);
    }
    sums
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::train::tests::{data, untrained};

    #[test]
    fn every_measure_sees_a_channel_of_zeroes() {
        for batch_norm in [false, true] {
            let mut checkpoint = untrained(batch_norm);
            let weight = checkpoint.tensors.get_mut("conv2d_1.weight").unwrap();
            weight.data[9..18].fill(0.0);
            if let Some(gamma) = checkpoint.tensors.get_mut("conv2d_1.norm.gamma") {
                gamma.data[1] = 0.0;
            }
            for measure in [Measure::Magnitude, Measure::Taylor, Measure::BatchNorm] {
                let all = importance(&checkpoint, measure, &data()).unwrap();
                let first = all[0].as_ref().unwrap();
                assert_eq!(first.len(), 6);
                assert_eq!(first[1], 0.0, "{measure:?}");
                let others = first.iter().enumerate().filter(|&(at, _)| at != 1);
                assert!(others.clone().any(|(_, &value)| value > 0.0), "{measure:?}");
                assert!(all[1].is_none(), "a pool has no weights");
            }
        }
    }

    #[test]
    fn taylor_sums_within_a_channel_before_it_squares() {
        let dense = Layer::Dense(shared::layer::Dense {
            units: 2.try_into().unwrap(),
            activation: shared::layer::Activation::None,
        });
        // 2 inputs of 2 units.
        let sums = products(
            &dense,
            &[2, 2],
            &[1.0, 2.0, 3.0, 4.0],
            &[1.0, 1.0, -1.0, 0.5],
        );
        assert_eq!(sums, [-2.0, 4.0]);
    }
}
