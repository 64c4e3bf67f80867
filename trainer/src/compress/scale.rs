//! Multiplies every weight by one factor. The number of parameters stays what it was:
//! all that changes is how large the logits are, and so how sharp a softmax is.

use serde::{Deserialize, Serialize};
use shared::layer::{Activation, Layer};

use crate::checkpoint::Checkpoint;
use crate::network::{Node, Role};

/// What happens to everything that is not a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleMode {
    /// Biases are scaled with what they are added to, so that every layer's output is
    /// the old one times a power of the factor, and the largest logit stays the
    /// largest. In int8, a softmax of very small logits no longer tells them apart, which
    /// is why answers are found before it.
    #[default]
    Exact,
    /// Nothing: the network computes something else.
    Literal,
}

/// Why a network cannot be scaled exactly.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ScaleError {
    /// max(0, min(6, x)) of a scaled x is not the scaled one.
    #[error(
        "layer `{layer}` has ReLU6, which no exact scale passes; set compress.scale_mode to \"literal\""
    )]
    Relu6 {
        /// The layer.
        layer: String,
    },
    /// Two paths with another number of layers.
    #[error(
        "layer `{layer}` adds what has gone through {a} and {b} scaled layers, which no exact scale passes; set compress.scale_mode to \"literal\""
    )]
    Paths {
        /// The layer.
        layer: String,
        /// Layers with weights on the first path.
        a: i32,
        /// Layers with weights on the second path.
        b: i32,
    },
    /// The factor's power is no number any more.
    #[error(
        "a scale of {scale} over {layers} layers is too small or too large for 32-bit numbers; set compress.scale nearer to 1"
    )]
    Range {
        /// The factor.
        scale: f32,
        /// Layers with weights.
        layers: i32,
    },
}

/// Multiplies all weights by `factor`, a number above 0.
pub fn scale(
    checkpoint: &Checkpoint,
    factor: f32,
    mode: ScaleMode,
) -> Result<Checkpoint, ScaleError> {
    let mut scaled = checkpoint.clone();
    let powers = match mode {
        ScaleMode::Exact => powers(checkpoint, factor)?,
        ScaleMode::Literal => vec![0; checkpoint.network.nodes.len() + 1],
    };
    for (index, node) in checkpoint.network.nodes.iter().enumerate() {
        let sum = factor.powi(powers[index + 1]);
        multiply(&mut scaled, node, Role::Weight, factor);
        // With x, mean and offset scaled alike, so is gamma (x - mean) / deviation + beta.
        for role in [Role::Bias, Role::Mean, Role::Beta] {
            multiply(&mut scaled, node, role, sum);
        }
    }
    Ok(scaled)
}

/// The power of the factor that each tensor is multiplied by.
fn powers(checkpoint: &Checkpoint, factor: f32) -> Result<Vec<i32>, ScaleError> {
    let mut powers = vec![0];
    for node in &checkpoint.network.nodes {
        let layer = || node.name.clone();
        let mut inputs = node.inputs.iter().map(|&tensor| powers[tensor]);
        let (a, b) = (inputs.next().unwrap_or(0), inputs.next());
        if let (Layer::Add(_), Some(b)) = (node.layer, b.filter(|&b| b != a)) {
            return Err(ScaleError::Paths {
                layer: layer(),
                a,
                b,
            });
        }
        let power = a + i32::from(checkpoint.network.params(node).is_some());
        if node.layer.activation() == Activation::Relu6 && power > 0 && factor != 1.0 {
            return Err(ScaleError::Relu6 { layer: layer() });
        }
        if !factor.powi(power).is_normal() {
            return Err(ScaleError::Range {
                scale: factor,
                layers: power,
            });
        }
        powers.push(power);
    }
    Ok(powers)
}

fn multiply(checkpoint: &mut Checkpoint, node: &Node, role: Role, factor: f32) {
    if let Some(array) = checkpoint.tensors.get_mut(&node.tensor_name(role)) {
        array.data.iter_mut().for_each(|value| *value *= factor);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::compress::tests::{GRAPH, PLAIN, checkpoint, logits};
    use crate::network::FloatNetwork;

    const RESIDUAL: &str = "layers = [
        { name = 'a', conv2d = { filters = 4, kernel = 1, activation = 'relu' }, batch_norm = true },
        { name = 'b', from = 'input', conv2d = { filters = 4, kernel = 1 } },
        { from = ['a', 'b'], add = { activation = 'relu' } },
        { depthwise_conv2d = { kernel = 3, activation = 'relu' }, batch_norm = true },
        { global_avg_pool2d = {} },
        { dense = {} },
    ]";

    #[test]
    fn exact_logits_are_the_old_ones_times_a_power() {
        for (layers, power) in [(PLAIN, 3), (RESIDUAL, 3)] {
            let whole = checkpoint(layers);
            let scaled = scale(&whole, 0.1, ScaleMode::Exact).unwrap();
            assert_eq!(scaled.parameters(), whole.parameters());
            assert_eq!(scaled.nonzeros(), whole.nonzeros());
            let factor = 0.1f32.powi(power);
            for (found, wanted) in logits(&scaled).iter().zip(logits(&whole)) {
                let close =
                    (found - factor * wanted).abs() <= 1e-5 * factor * wanted.abs().max(1.0);
                assert!(close, "{found} and not {wanted} times {factor}");
            }
        }
    }

    #[test]
    fn literal_scales_weights_alone() {
        let whole = checkpoint(RESIDUAL);
        let scaled = scale(&whole, 0.5, ScaleMode::Literal).unwrap();
        for (name, array) in &whole.tensors {
            let factor = if name.ends_with(".weight") { 0.5 } else { 1.0 };
            let wanted: Vec<f32> = array.data.iter().map(|value| value * factor).collect();
            assert_eq!(scaled.tensors[name].data, wanted, "{name}");
        }
        assert_eq!(
            FloatNetwork::new(&scaled, &Device::flex()).to_tensors(),
            scaled.tensors
        );
    }

    #[test]
    fn what_no_exact_scale_passes_is_refused() {
        let refused =
            |layers, factor| scale(&checkpoint(layers), factor, ScaleMode::Exact).unwrap_err();
        let paths = ScaleError::Paths {
            layer: "add_1".into(),
            a: 1,
            b: 2,
        };
        assert_eq!(refused(GRAPH, 0.1), paths);
        let relu6 = "layers = [{ dense = { units = 3, activation = 'relu6' } }, { dense = {} }]";
        assert!(matches!(refused(relu6, 0.1), ScaleError::Relu6 { .. }));
        assert!(matches!(refused(PLAIN, 1e-20), ScaleError::Range { .. }));
    }
}
