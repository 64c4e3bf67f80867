//! First values of a network's tensors.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shared::layer::Activation;

use super::{Network, Node, Role};
use crate::checkpoint::Array;

/// Tensors of an untrained network, the same bits for the same seed on every
/// machine.
///
/// Weights are uniform with the variance 2 / fan-in before a ReLU and
/// 1 / fan-in elsewhere (He et al. 2015, "Delving Deep into Rectifiers"),
/// biases and means 0, variances and factors 1. Each node has a random stream
/// of its own, so that another head leaves the body as it was.
pub fn initial_tensors(network: &Network, seed: u64) -> BTreeMap<String, Array> {
    let mut tensors = BTreeMap::new();
    for (stream, node) in (0..).zip(&network.nodes) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        for (role, shape) in network.tensors_of(node) {
            let elements = shape.iter().product();
            let data = match role {
                Role::Weight => weights(network, node, elements, &mut random),
                Role::Bias | Role::Beta | Role::Mean => vec![0.0; elements],
                Role::Gamma | Role::Variance => vec![1.0; elements],
            };
            tensors.insert(node.tensor_name(role), Array { shape, data });
        }
    }
    tensors
}

fn weights(network: &Network, node: &Node, count: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let gain = match node.layer.activation() {
        Activation::None => 1.0,
        Activation::Relu | Activation::Relu6 => 2.0,
    };
    let fan_in = network.params(node).map_or(1, |params| params.fan_in);
    // A uniform number between -limit and limit has the variance limit^2 / 3.
    let limit = (3.0 * gain / fan_in as f32).sqrt();
    (0..count)
        .map(|_| random.random_range(-limit..limit))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::NetworkSpec;
    use super::*;
    use shared::layer::Shape;

    #[test]
    fn a_seed_gives_the_same_tensors() {
        let article = |classes| {
            let input = Shape::new(28, 28, 1).unwrap();
            NetworkSpec::preset("article")
                .build(input, classes)
                .unwrap()
        };
        let tensors = initial_tensors(&article(10), 1);
        assert_eq!(tensors, initial_tensors(&article(10), 1));
        assert_ne!(tensors, initial_tensors(&article(10), 2));
        let other = initial_tensors(&article(3), 1);
        assert_eq!(tensors["dense_1.weight"], other["dense_1.weight"]);
        assert!(
            tensors["conv2d_1.bias"]
                .data
                .iter()
                .all(|&bias| bias == 0.0)
        );

        let weights = &tensors["dense_1.weight"].data;
        let variance = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
        assert!((variance * 1600.0 / 2.0 - 1.0).abs() < 0.02);
    }
}
