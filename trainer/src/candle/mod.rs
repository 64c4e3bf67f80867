//! Networks on Candle's CPU device, by way of `burn-candle`: what they answer, and their
//! gradients. The feature `candle` compiles it; `docs/candle.md` says what for.
//!
//! Burn 0.21 is the last with Candle, so that its tensors are other types than those of
//! the rest of the program: numbers cross, tensors do not. What cannot be computed is
//! refused by [`CandleNetwork::new`], with the layer and the reason; the tests of this
//! module show what would happen otherwise.

mod network;
mod training;

use shared::layer::{Conv2d, Layer, Shape, Size2};

use crate::network::{Network, Node};

pub use network::CandleNetwork;
pub(crate) use training::Found;

/// Why Candle does not compute a network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsupported {
    /// `burn-candle` panics where it should compute the gradient.
    #[error(
        "layer `{layer}`: Candle has no gradient of depthwise convolutions; {}",
        WITHOUT
    )]
    Depthwise {
        /// The layer.
        layer: String,
    },
    /// `burn-candle` has no gradient of pooling; windows side by side do without one.
    #[error(
        "layer `{layer}`: Candle pools windows side by side without padding, and these overlap, leave gaps or are \
         padded; set its `stride` to its `kernel` and `padding` to 'valid', or {}",
        WITHOUT
    )]
    Windows {
        /// The layer.
        layer: String,
    },
    /// Candle's convolutions have one stride.
    #[error(
        "layer `{layer}`: Candle's convolutions move as far down as to the side, and not by {} and {}; {}",
        stride.height(),
        stride.width(),
        WITHOUT
    )]
    Stride {
        /// The layer.
        layer: String,
        /// The two.
        stride: Size2,
    },
}

/// What to do in place of it.
const WITHOUT: &str = "take the default, `--backend flex`";

/// Refuses a network with a layer that cannot be computed, and names the first.
pub fn check(network: &Network) -> Result<(), Unsupported> {
    let check = |node| check_node(node, network.input_of(node));
    network.nodes.iter().try_for_each(check)
}

fn check_node(node: &Node, input: Shape) -> Result<(), Unsupported> {
    let layer = node.name.clone();
    match node.layer {
        Layer::DepthwiseConv2d(_) => Err(Unsupported::Depthwise { layer }),
        Layer::Conv2d(Conv2d { stride, .. }) if stride.height() != stride.width() => {
            Err(Unsupported::Stride { layer, stride })
        }
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) if !is_side_by_side(&node.layer, input) => {
            Err(Unsupported::Windows { layer })
        }
        _ => Ok(()),
    }
}

/// Whether every element is in one window at the most, and every window inside.
fn is_side_by_side(pool: &Layer, input: Shape) -> bool {
    pool.window(input).is_some_and(|window| {
        let padding = (window.padding_before(input), window.padding_after(input));
        window.kernel == window.stride && padding == ((0, 0), (0, 0))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use burn::tensor::{Device, Tensor as Flex};
    use burn_autodiff_21::Autodiff;
    use burn_tensor_21::Tensor;
    use burn_tensor_21::module::{avg_pool2d, conv2d, max_pool2d};
    use burn_tensor_21::ops::ConvOptions;
    use shared::model::Resize;

    use super::network::{Cpu, tensor};
    use super::*;
    use crate::checkpoint::{Checkpoint, InputScale};
    use crate::network::{
        FloatNetwork, NetworkSpec, initial_tensors, numbers as flex_numbers, pictures_to_tensor,
    };

    type Learning = Autodiff<Cpu>;

    /// Enough that no variance of a batch is next to nothing, where rounding would grow.
    const PICTURES: usize = 12;

    /// A picture of 4x4x2, and weights for two filters of 3x3, both with gradients.
    fn leaves(inputs: usize) -> (Tensor<Learning, 4>, Tensor<Learning, 4>) {
        let values = |count: usize| (0..count).map(|i| (i * 7 % 11) as f32).collect();
        let leaf = |sides: [usize; 4]| {
            let data = values(sides.iter().product());
            Tensor::from_inner(tensor(data, sides.to_vec())).require_grad()
        };
        (leaf([1, 2, 4, 4]), leaf([2, inputs, 3, 3]))
    }

    fn panics<T>(work: impl FnOnce() -> T) -> bool {
        catch_unwind(AssertUnwindSafe(work)).is_err()
    }

    /// Should `burn-candle` ever do one of these, it need no longer be refused.
    #[test]
    fn what_is_refused_panics_in_burn_candle() {
        let conv = |groups, stride, backward: bool| {
            let (x, weight) = leaves(2 / groups);
            let options = ConvOptions::new(stride, [0, 0], [1, 1], groups);
            let y = conv2d(x, weight, None, options).sum();
            if backward {
                let _ = y.backward();
            }
        };
        assert!(!panics(|| conv(1, [1, 1], true)));
        assert!(!panics(|| conv(1, [2, 2], true)));
        assert!(!panics(|| conv(2, [1, 1], false)));
        assert!(panics(|| conv(2, [1, 1], true)), "depthwise backward");
        assert!(panics(|| conv(1, [1, 2], false)), "two strides");
        let pool = |size, padding, backward: bool| {
            let x = leaves(2).0;
            let y = avg_pool2d(x, [size; 2], [2, 2], [padding; 2], true, false).sum();
            if backward {
                let _ = y.backward();
            }
        };
        assert!(!panics(|| pool(2, 0, false)));
        assert!(panics(|| pool(2, 0, true)), "average pool backward");
        assert!(panics(|| pool(2, 1, false)), "padded average pool");
        let pool = |size, padding| {
            let (x, _) = leaves(2);
            max_pool2d(x, [size; 2], [2, 2], [padding; 2], [1, 1], false)
        };
        assert!(panics(|| pool(2, 0)), "max pool with gradients");
        let x = leaves(2).0.inner();
        let plain = |padding| max_pool2d(x.clone(), [2; 2], [2; 2], [padding; 2], [1, 1], false);
        assert!(!panics(|| plain(0)));
        assert!(panics(|| plain(1)), "padded max pool");
    }

    fn checkpoint(layers: &str, (height, width): (usize, usize)) -> Checkpoint {
        let spec: NetworkSpec = toml::from_str(&format!("layers = [{layers}]")).unwrap();
        let network = spec
            .build(Shape::new(height, width, 2).unwrap(), 3)
            .unwrap();
        let mut tensors = initial_tensors(&network, 5);
        for (name, array) in &mut tensors {
            if name.ends_with("bias") {
                let vary = |(i, value): (usize, &mut f32)| *value += 0.05 * (1.0 + i as f32);
                array.data.iter_mut().enumerate().for_each(vary);
            }
        }
        Checkpoint {
            network,
            tensors,
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            input: InputScale {
                mean: 100,
                scale: 0.01,
            },
            resize: Resize::Exact,
            training: None,
            split: None,
            grids: Default::default(),
        }
    }

    /// Values [dense layers' inputs] that are dropped alike on both.
    fn dropped(layer: usize, x: Flex<2>) -> Flex<2> {
        let [pictures, values] = x.dims();
        let factor = |i: usize| {
            if (i + layer).is_multiple_of(3) {
                0.0
            } else {
                1.5
            }
        };
        let factors: Vec<f32> = (0..pictures * values).map(factor).collect();
        let factors = burn::tensor::TensorData::new(factors, [pictures, values]);
        let device = x.device();
        x * Flex::from_data(factors, &device)
    }

    fn close(a: &[f32], b: &[f32], what: &str) {
        assert_eq!(a.len(), b.len(), "{what}");
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{what}: {a} {b}");
        }
    }

    /// Logits, loss and gradients are those of Flex.
    fn agrees(layers: &str, sides: (usize, usize)) {
        let mut checkpoint = checkpoint(layers, sides);
        let candle = CandleNetwork::new(&checkpoint).unwrap();
        let flex = FloatNetwork::new(&checkpoint, &Device::flex());
        let shape = checkpoint.network.input;
        let pixels: Vec<u8> = (0..PICTURES * shape.len())
            .map(|i| (i * 73 % 251) as u8)
            .collect();
        let pictures: Vec<&[u8]> = pixels.chunks(shape.len()).collect();
        let found = candle.logits_of(&pictures, checkpoint.input).concat();
        let wanted = flex.logits_of(&pictures, checkpoint.input).concat();
        close(&found, &wanted, "logits");

        let device = Device::flex().autodiff();
        let flex = FloatNetwork::new(&checkpoint, &device);
        let input = pictures_to_tensor(&pixels, shape, checkpoint.input, &device);
        let loss = |logits: Flex<2>| ((logits.clone() * logits).sum(), ());
        let wanted = loss(flex.logits_through(input.clone(), &dropped)).0;
        let found = candle.learn(&flex, input, Some(dropped), loss);
        let (gradients, value) = (found.gradients, found.loss);
        close(&[value], &flex_numbers(wanted.clone().inner()), "loss");
        // Flex has taken the running statistics of the batch.
        checkpoint.tensors = flex.to_tensors();
        let norms = checkpoint
            .network
            .nodes
            .iter()
            .filter(|node| node.batch_norm);
        assert_eq!(found.statistics.len(), 2 * norms.count());
        for (name, values) in &found.statistics {
            close(values, &checkpoint.tensors[name].data, name);
        }
        let wanted = burn::optim::GradientsParams::from_grads(wanted.backward(), &flex);
        let (found, wanted) = (
            flex.weight_gradients(&gradients),
            flex.weight_gradients(&wanted),
        );
        assert!(wanted.iter().flatten().flatten().any(|&value| value != 0.0));
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let slices = |side: &Option<Vec<f32>>| side.clone().unwrap_or_default();
            close(&slices(found), &slices(wanted), &format!("layer {index}"));
        }
    }

    #[test]
    fn the_layers_of_the_article_agree_with_flex() {
        // The second pool leaves a row out.
        agrees(
            "{ conv2d = { filters = 4, kernel = 3, activation = 'relu' } }, { max_pool2d = { kernel = 2 } },
             { conv2d = { filters = 5, kernel = 3, activation = 'relu6' } }, { max_pool2d = { kernel = 2 } },
             { flatten = {} }, { dense = { units = 7, activation = 'relu' } }, { dense = {} }, { softmax = {} }",
            (16, 12),
        );
    }

    #[test]
    fn padding_and_strides_agree_with_flex() {
        for side in [7, 8] {
            agrees(
                "{ conv2d = { filters = 4, kernel = 3, stride = 2, padding = 'same', activation = 'relu' } },
                 { conv2d = { filters = 3, kernel = [3, 1], padding = 'same' } },
                 { conv2d = { filters = 4, kernel = 3, padding = 'same', activation = 'relu' } },
                 { dense = {} }",
                (side, side),
            );
        }
    }

    #[test]
    fn graphs_and_means_agree_with_flex() {
        agrees(
            "{ name = 'a', conv2d = { filters = 4, kernel = 1, activation = 'relu' } },
             { name = 'b', conv2d = { filters = 4, kernel = 3, padding = 'same' } },
             { from = ['a', 'b'], add = { activation = 'relu' } },
             { avg_pool2d = { kernel = [2, 3], activation = 'relu' } }, { global_avg_pool2d = {} }, { dense = {} }",
            (6, 8),
        );
    }

    #[test]
    fn batch_normalisation_agrees_with_flex() {
        agrees(
            "{ conv2d = { filters = 4, kernel = 3, activation = 'relu' }, batch_norm = true },
             { max_pool2d = { kernel = 2 } },
             { dense = { units = 6, activation = 'relu6' }, batch_norm = true }, { dense = {} }",
            (8, 9),
        );
    }

    #[test]
    fn weights_are_on_their_grids() {
        use crate::quantise::{Grid, Levels};
        let mut checkpoint = checkpoint("{ dense = { units = 6 } }, { dense = {} }", (4, 4));
        let node = checkpoint.network.nodes[0].clone();
        let weight = checkpoint
            .tensor(&node, crate::network::Role::Weight)
            .unwrap()
            .data
            .clone();
        let channel_of = crate::checkpoint::channel_of(&node.layer, &[32, 6]);
        let grid = Grid::fit(&weight, channel_of, 6, Levels::Shared(4));
        checkpoint.grids.insert(node.name.clone(), grid);
        let picture: Vec<u8> = (0..32).map(|i| i * 7).collect();
        let flex = FloatNetwork::new(&checkpoint, &Device::flex());
        let wanted = flex.logits_of(&[&picture], checkpoint.input).concat();
        let candle = CandleNetwork::new(&checkpoint).unwrap();
        let found = candle.logits_of(&[&picture], checkpoint.input).concat();
        close(&found, &wanted, "logits");
    }

    #[test]
    fn refusals_name_the_layer() {
        let refused = |layer: &str| {
            let layers = format!("{{ name = 'x', {layer} }}, {{ dense = {{}} }}");
            check(&checkpoint(&layers, (8, 8)).network).unwrap_err()
        };
        let layer = || "x".to_owned();
        assert_eq!(
            refused("depthwise_conv2d = { kernel = 3 }"),
            Unsupported::Depthwise { layer: layer() }
        );
        for pool in [
            "max_pool2d = { kernel = 3, stride = 2 }",
            "max_pool2d = { kernel = 2, stride = 3 }",
            "max_pool2d = { kernel = 3, padding = 'same' }",
            "avg_pool2d = { kernel = 2, stride = 1 }",
            "avg_pool2d = { kernel = 3, padding = 'same' }",
        ] {
            assert_eq!(refused(pool), Unsupported::Windows { layer: layer() });
        }
        let stride = Size2::new(1, 2).unwrap();
        assert_eq!(
            refused("conv2d = { filters = 2, kernel = 3, stride = [1, 2] }"),
            Unsupported::Stride {
                layer: layer(),
                stride
            }
        );
        let said = refused("depthwise_conv2d = { kernel = 3 }").to_string();
        assert!(
            said.contains("`x`") && said.contains("--backend flex"),
            "{said}"
        );
    }
}
