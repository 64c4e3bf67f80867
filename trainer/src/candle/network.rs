//! The float network in Burn 0.21, on any of its backends.

#![allow(deprecated)] // all of burn-candle is, see docs/candle.md

use burn_candle::Candle;
use burn_tensor_21::activation::{relu, softmax};
use burn_tensor_21::backend::Backend;
use burn_tensor_21::module::conv2d;
use burn_tensor_21::ops::PaddedConvOptions;
use burn_tensor_21::{Tensor, TensorData};
use shared::layer::{Activation, Layer, Shape, Window};

use super::{Unsupported, check};
use crate::checkpoint::{Array, Checkpoint, InputScale, NORM_EPSILON, channel_of};
use crate::network::{Network, Node, Role};

/// Candle with 32-bit floats.
pub(super) type Cpu = Candle<f32, i64>;

/// Pictures that [`CandleNetwork::logits_of`] takes at a time.
const BATCH: usize = 128;

/// The network of a [`Checkpoint`] on Candle's CPU device.
#[derive(Clone, Debug)]
pub struct CandleNetwork {
    pub(super) network: Network,
    /// One for each node.
    pub(super) layers: Vec<Parameters<Cpu>>,
}

/// The parameters of one node.
#[derive(Clone, Debug)]
pub(super) struct Parameters<B: Backend> {
    pub weights: Weights<B>,
    pub norm: Option<Norm<B>>,
}

/// Weights and biases of one node.
#[derive(Clone, Debug)]
pub(super) enum Weights<B: Backend> {
    /// Of a layer without.
    None,
    /// Weights OIHW, and biases.
    Conv(Tensor<B, 4>, Tensor<B, 1>),
    /// Weights [inputs, units], and biases.
    Dense(Tensor<B, 2>, Tensor<B, 1>),
}

/// Batch normalisation of one node.
#[derive(Clone, Debug)]
pub(super) struct Norm<B: Backend> {
    pub gamma: Tensor<B, 1>,
    pub beta: Tensor<B, 1>,
    /// Running.
    pub mean: Tensor<B, 1>,
    /// Running.
    pub variance: Tensor<B, 1>,
}

/// What is done while a batch goes through the nodes, which are given by their numbers.
pub(super) trait Pass<B: Backend> {
    /// Changes the inputs [pictures, values] of a dense node.
    fn before_dense(&self, _node: usize, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x
    }

    /// Whether batch normalisation uses the statistics of the batch in place of the running
    /// ones.
    const BY_BATCH: bool = false;

    /// Sees the mean and the variance of the batch, both [1, channels, 1, 1], of a node.
    fn see(&self, _node: usize, _mean: &Tensor<B, 4>, _variance: &Tensor<B, 4>) {}
}

/// Nothing but the outputs is wanted.
struct Answer;

impl Pass<Cpu> for Answer {}

impl CandleNetwork {
    /// The network with the tensors of a checkpoint, those of layers that have a grid on it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] for the first layer that cannot be computed.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, Unsupported> {
        check(&checkpoint.network)?;
        let nodes = checkpoint.network.nodes.iter();
        Ok(Self {
            layers: nodes.map(|node| parameters(checkpoint, node)).collect(),
            network: checkpoint.network.clone(),
        })
    }

    /// Outputs of the head before a closing softmax, for each of any number of pictures (HWC
    /// bytes), some at a time.
    pub fn logits_of(&self, pictures: &[&[u8]], scale: InputScale) -> Vec<Vec<f32>> {
        let classes = self.network.classes().max(1);
        let of_batch = |batch: &[&[u8]]| {
            let input = self.input(batch, scale);
            let rows = numbers(logits(&self.network, &self.layers, input, &Answer));
            rows.chunks(classes)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        pictures.chunks(BATCH).flat_map(of_batch).collect()
    }

    /// Pictures as [pictures, channels, height, width].
    fn input(&self, pictures: &[&[u8]], scale: InputScale) -> Tensor<Cpu, 4> {
        let shape = self.network.input;
        let real = |&pixel: &u8| scale.real(pixel);
        let data = pictures.iter().flat_map(|picture| picture.iter().map(real));
        let sides = [
            pictures.len(),
            shape.height(),
            shape.width(),
            shape.channels(),
        ];
        tensor::<4>(data.collect(), sides.to_vec()).permute([0, 3, 1, 2])
    }
}

fn parameters(checkpoint: &Checkpoint, node: &Node) -> Parameters<Cpu> {
    let array = |role| checkpoint.tensor(node, role).cloned().unwrap_or_default();
    let weight = || {
        let Array { shape, mut data } = array(Role::Weight);
        if let Some(grid) = checkpoint.grids.get(&node.name) {
            grid.snap(&mut data, channel_of(&node.layer, &shape));
        }
        (data, shape)
    };
    let of_channels = |role| {
        let Array { shape, data } = array(role);
        tensor::<1>(data, shape)
    };
    let bias = || of_channels(Role::Bias);
    let norm = || Norm {
        gamma: of_channels(Role::Gamma),
        beta: of_channels(Role::Beta),
        mean: of_channels(Role::Mean),
        variance: of_channels(Role::Variance),
    };
    Parameters {
        weights: match node.layer {
            Layer::Conv2d(_) => {
                let (data, shape) = weight();
                Weights::Conv(tensor(data, shape), bias())
            }
            Layer::Dense(_) => {
                let (data, shape) = weight();
                Weights::Dense(tensor(data, shape), bias())
            }
            _ => Weights::None,
        },
        norm: node.batch_norm.then(norm),
    }
}

/// Outputs of the head before a closing softmax: [pictures, classes].
pub(super) fn logits<B: Backend, P: Pass<B>>(
    network: &Network,
    layers: &[Parameters<B>],
    input: Tensor<B, 4>,
    pass: &P,
) -> Tensor<B, 2> {
    let mut values = vec![input];
    let closing = network.nodes.last().map(|node| node.layer) == Some(Layer::Softmax);
    let count = network.nodes.len() - usize::from(closing);
    let nodes = network.nodes.iter().zip(layers).take(count);
    for (index, (node, parameters)) in nodes.enumerate() {
        let before_dense = |x| pass.before_dense(index, x);
        let shape = network.input_of(node);
        let y = forward(node, shape, &parameters.weights, &values, &before_dense);
        let y = match &parameters.norm {
            Some(norm) => normalised(norm, y, index, pass),
            None => y,
        };
        values.push(match node.layer.activation() {
            Activation::None => y,
            Activation::Relu => relu(y),
            Activation::Relu6 => y.clamp(0.0, 6.0),
        });
    }
    // The head is a value, and there is at least the input.
    flat(values.swap_remove(values.len() - 1))
}

/// What the layer gives, before normalisation and activation.
fn forward<B: Backend>(
    node: &Node,
    shape: Shape,
    weights: &Weights<B>,
    values: &[Tensor<B, 4>],
    before_dense: &dyn Fn(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, 4> {
    let input = |index: usize| values[node.inputs[index]].clone();
    let x = input(0);
    let window = node.layer.window(shape);
    match (&node.layer, weights, window) {
        (_, Weights::Conv(weight, bias), Some(window)) => {
            let options = convolution(window, shape);
            conv2d(x, weight.clone(), Some(bias.clone()), options)
        }
        (_, Weights::Dense(weight, bias), _) => {
            let products = before_dense(flat(x)).matmul(weight.clone());
            column(products + bias.clone().unsqueeze())
        }
        (Layer::MaxPool2d(_), _, Some(window)) => windows(x, window).max_dim(5).max_dim(3).merged(),
        (Layer::AvgPool2d(_), _, Some(window)) => {
            windows(x, window).mean_dim(5).mean_dim(3).merged()
        }
        (Layer::GlobalAvgPool2d, ..) => x.mean_dim(3).mean_dim(2),
        (Layer::Add(_), ..) => x + input(1),
        (Layer::Flatten, ..) => column(flat(x)),
        (Layer::Softmax, ..) => softmax(x, 1),
        // No network that was checked has any other.
        _ => x,
    }
}

/// Burn's batch normalisation, of which 0.21 with gradients has no function: of a batch the
/// variance is the biased one.
fn normalised<B: Backend, P: Pass<B>>(
    norm: &Norm<B>,
    y: Tensor<B, 4>,
    index: usize,
    pass: &P,
) -> Tensor<B, 4> {
    let per_channel = |x: &Tensor<B, 1>| {
        let channels = x.dims()[0];
        x.clone().reshape([1, channels, 1, 1])
    };
    let of_batch = |x: Tensor<B, 4>| x.mean_dim(3).mean_dim(2).mean_dim(0);
    let mean = match P::BY_BATCH {
        true => of_batch(y.clone()),
        false => per_channel(&norm.mean),
    };
    let centred = y - mean.clone();
    let variance = match P::BY_BATCH {
        true => of_batch(centred.clone() * centred.clone()),
        false => per_channel(&norm.variance),
    };
    pass.see(index, &mean, &variance);
    let deviation = (variance + NORM_EPSILON).sqrt();
    centred / deviation * per_channel(&norm.gamma) + per_channel(&norm.beta)
}

fn convolution(window: Window, input: Shape) -> PaddedConvOptions<2> {
    let (top, left) = window.padding_before(input);
    let (bottom, right) = window.padding_after(input);
    let stride = [window.stride.height(), window.stride.width()];
    let mut options =
        PaddedConvOptions::asymmetric(stride, [top, left], [bottom, right], [1, 1], 1);
    if top != left {
        // Candle pads all sides alike; with this, zeroes are put there before.
        options.padding_end = Some([bottom, right]);
    }
    options
}

/// Windows side by side: [pictures, channels, rows, rows of a window, columns, columns of a
/// window]. What no window covers is left out. Candle has no gradient of pooling, but of
/// this, and of the largest and the mean along an axis.
fn windows<B: Backend>(x: Tensor<B, 4>, window: Window) -> Tensor<B, 6> {
    let [pictures, channels, height, width] = x.dims();
    let (high, wide) = (window.kernel.height(), window.kernel.width());
    let (rows, columns) = (height / high, width / wide);
    let x = match (rows * high, columns * wide) {
        covered if covered == (height, width) => x,
        (height, width) => x.narrow(2, 0, height).narrow(3, 0, width),
    };
    x.reshape([pictures, channels, rows, high, columns, wide])
}

/// Of [`windows`] of which one element is left.
trait Merged<B: Backend> {
    /// [pictures, channels, rows, columns].
    fn merged(self) -> Tensor<B, 4>;
}

impl<B: Backend> Merged<B> for Tensor<B, 6> {
    fn merged(self) -> Tensor<B, 4> {
        let [pictures, channels, rows, _, columns, _] = self.dims();
        self.reshape([pictures, channels, rows, columns])
    }
}

/// All elements of each picture in HWC order: [pictures, elements].
fn flat<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    let [pictures, channels, height, width] = x.dims();
    x.permute([0, 2, 3, 1])
        .reshape([pictures, channels * height * width])
}

/// [pictures, elements] as [pictures, elements, 1, 1].
fn column<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 4> {
    let [pictures, elements] = x.dims();
    x.reshape([pictures, elements, 1, 1])
}

/// A tensor without gradients.
pub(super) fn tensor<const D: usize>(data: Vec<f32>, shape: Vec<usize>) -> Tensor<Cpu, D> {
    Tensor::from_data(TensorData::new(data, shape), &Default::default())
}

/// All elements in row-major order.
pub(super) fn numbers<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
