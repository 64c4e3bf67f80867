//! Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
//! Gradient-based Localization").

use burn::tensor::{Device, Tensor};
use shared::layer::Layer;

use super::{ExplainError, Float, Heatmap};
use crate::network::{Network, Node, numbers, pictures_to_tensor};

/// A layer whose outputs still have places in the picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(usize);

impl Place {
    /// The layer of this name; without one, the last convolution that has places.
    pub fn new(network: &Network, name: Option<&str>) -> Result<Self, ExplainError> {
        let layers = || {
            let nodes = network.nodes.iter().filter(|node| has_places(node));
            let names: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        let no_place = |layer: String| ExplainError::NoPlace {
            layer,
            layers: layers(),
        };
        let Some(name) = name else {
            let last = network.nodes.iter().rposition(is_convolution);
            return last
                .map(Self)
                .ok_or_else(|| no_place("every convolution of the network".to_owned()));
        };
        let position = network.nodes.iter().position(|node| node.name == name);
        match position {
            Some(index) if has_places(&network.nodes[index]) => Ok(Self(index)),
            Some(_) => Err(no_place(format!("layer `{name}`"))),
            None => Err(ExplainError::NoLayer {
                name: name.to_owned(),
                layers: layers(),
            }),
        }
    }

    /// The layer.
    pub fn node(self, network: &Network) -> &Node {
        &network.nodes[self.0]
    }
}

fn has_places(node: &Node) -> bool {
    node.output.height() * node.output.width() > 1
}

fn is_convolution(node: &Node) -> bool {
    has_places(node) && matches!(node.layer, Layer::Conv2d(_) | Layer::DepthwiseConv2d(_))
}

/// ReLU(sum over k of alpha_k A_k), where A_k is channel k of what the layer writes and
/// alpha_k the mean over all places of the gradient of the class's logit by A_k; brought to
/// the size of the picture. No value is below 0.
pub fn grad_cam(network: &Float, pixels: &[u8], class: usize, place: Place) -> Heatmap {
    let picture = network.network().input;
    at_layer(network, pixels, class, place).stretched(picture.height(), picture.width())
}

/// The same in the size of the layer's output.
fn at_layer(network: &Float, pixels: &[u8], class: usize, place: Place) -> Heatmap {
    let device = Device::flex().autodiff();
    let checkpoint = &network.checkpoint;
    let shape = place.node(&checkpoint.network).output;
    let input = pictures_to_tensor(pixels, checkpoint.network.input, checkpoint.input, &device);
    // What was computed so far is constant, but for the layer's output.
    let values = network.differentiable.values(input, place.0 + 1);
    let mut values: Vec<Tensor<4>> = values.into_iter().map(Tensor::detach).collect();
    let output = values.remove(place.0 + 1).require_grad();
    values.push(output.clone());
    let logits = network.differentiable.logits_behind(values);
    let gradients = logits.narrow(1, class, 1).sum().backward();
    let gradient = output.grad(&gradients).map(numbers).unwrap_or_default();
    weighted(&numbers(output), &gradient, shape.height(), shape.width())
}

/// Channel by channel, each of this height and width.
fn weighted(outputs: &[f32], gradient: &[f32], height: usize, width: usize) -> Heatmap {
    let area = height * width;
    let mut values = vec![0.0; area];
    for (output, gradient) in outputs.chunks(area).zip(gradient.chunks(area)) {
        let alpha = gradient.iter().sum::<f32>() / area as f32;
        for (value, output) in values.iter_mut().zip(output) {
            *value += alpha * output;
        }
    }
    values.iter_mut().for_each(|value| *value = value.max(0.0));
    Heatmap {
        height,
        width,
        values,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::train::tests::{data, untrained};

    #[test]
    fn channels_are_weighted_by_their_mean_gradient() {
        let outputs = [1.0, 2.0, 3.0, 4.0, 10.0, 0.0, 0.0, 20.0];
        let gradient = [0.0, 4.0, 4.0, 0.0, -1.0, 0.0, 0.0, 0.0];
        // The means are 2 and -1/4.
        let map = weighted(&outputs, &gradient, 2, 2);
        assert_eq!(map.values, [0.0, 4.0, 6.0, 3.0]);
    }

    #[test]
    fn behind_the_last_nonlinearity_the_weights_are_those_of_the_head() {
        // Flatten and one dense layer behind the pool: the gradient is the dense weights.
        let checkpoint = untrained(false);
        let mut network = checkpoint.clone();
        for name in ["dense_1.weight", "dense_1.bias"] {
            // Far above 0, where the ReLU between both dense layers does nothing.
            let array = network.tensors.get_mut(name).unwrap();
            array
                .data
                .iter_mut()
                .for_each(|value| *value = value.abs() + 1.0);
        }
        let float = Float::new(&network).unwrap();
        let picture = &data().pictures[4].pixels;
        let place = Place::new(&network.network, Some("max_pool2d_1")).unwrap();
        let map = at_layer(&float, picture, 2, place);
        assert_eq!((map.height, map.width), (2, 2));

        let of = |name: &str| network.tensors[name].data.clone();
        let (first, second) = (of("dense_1.weight"), of("dense_2.weight"));
        // d logit / d pool[i], in HWC order.
        let slope = |i: usize| {
            (0..8)
                .map(|j| first[i * 8 + j] * second[j * 3 + 2])
                .sum::<f32>()
        };
        let device = Device::flex();
        let input = pictures_to_tensor(picture, network.network.input, network.input, &device);
        let pooled = &float.differentiable.trace(input.autodiff())[1];
        for place in 0..4 {
            let alpha = |c: usize| (0..4).map(|p| slope(p * 6 + c)).sum::<f32>() / 4.0;
            let expected: f32 = (0..6).map(|c| alpha(c) * pooled[place * 6 + c]).sum();
            let difference = (map.values[place] - expected.max(0.0)).abs();
            assert!(
                difference < 1e-4,
                "{place}: {} {expected}",
                map.values[place]
            );
        }
    }

    #[test]
    fn the_layer_is_a_convolution_or_the_one_asked_for() {
        let network = untrained(true).network;
        let name = |wanted| Place::new(&network, wanted).map(|p| p.node(&network).name.clone());
        assert_eq!(name(None).unwrap(), "conv2d_1");
        assert_eq!(name(Some("max_pool2d_1")).unwrap(), "max_pool2d_1");
        let wrong = |wanted| name(Some(wanted)).unwrap_err().to_string();
        assert!(wrong("dense_1").contains("one of conv2d_1, max_pool2d_1"));
        assert!(wrong("conv").contains("no layer is called `conv`"));
    }
}
