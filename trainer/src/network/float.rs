//! The network in Burn, in 32-bit floats: for training, and to calibrate and
//! judge the int8 network.

use std::collections::{BTreeMap, HashMap};

use burn::module::{
    Flag, Module, ModuleMapper, Param, ParamId, Reparameterization, Reparameterizer, RunningState,
};
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, Linear, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use shared::layer::{Activation, Layer, Padding, Pool2d, Shape, Size2};

use super::kernels::{self, Convolution, Windows};
use super::{Network, Node, Role};
use crate::checkpoint::{Array, Checkpoint, InputScale, NORM_EPSILON, channel_of};
use crate::quantise::Grid;

/// Share of a new batch in the running mean and variance; Burn's default.
pub(crate) const NORM_MOMENTUM: f64 = 0.1;

/// Pictures that [`FloatNetwork::logits_of`] takes at a time.
const BATCH: usize = 128;

/// The network of a [`Checkpoint`] on a Burn device.
///
/// Tensors are NCHW, as Burn has them. On an autodiff device batch
/// normalisation uses and updates the statistics of the batch, elsewhere the
/// running ones.
#[derive(Module, Debug)]
pub struct FloatNetwork {
    layers: Vec<FloatLayer>,
    #[module(skip)]
    network: Network,
}

/// The parameters of one node; all `None` for a layer without.
#[derive(Module, Debug)]
struct FloatLayer {
    conv: Option<Conv2d>,
    dense: Option<Linear>,
    norm: Option<BatchNorm>,
}

/// Changes the inputs [pictures, values] of the dense node of a number.
type BeforeDense<'a> = &'a dyn Fn(usize, Tensor<2>) -> Tensor<2>;

/// Which weights of a [`FloatNetwork`] are 0 and stay so.
#[derive(Clone, Debug)]
pub struct Masks(HashMap<ParamId, Tensor<1, Bool>>);

/// Pictures (HWC bytes of the given shape, one after the other) as a tensor
/// [pictures, channels, height, width].
pub fn pictures_to_tensor(
    pixels: &[u8],
    shape: Shape,
    scale: InputScale,
    device: &Device,
) -> Tensor<4> {
    let reals: Vec<f32> = (0..=255).map(|pixel| scale.real(pixel)).collect();
    let channels = shape.channels();
    let mut data = Vec::with_capacity(pixels.len());
    for picture in pixels.chunks_exact(shape.len()) {
        for channel in 0..channels {
            let plane = picture.iter().skip(channel).step_by(channels);
            data.extend(plane.map(|&pixel| reals[usize::from(pixel)]));
        }
    }
    let count = pixels.len() / shape.len();
    let sides = [count, channels, shape.height(), shape.width()];
    Tensor::from_data(TensorData::new(data, sides), device)
}

impl FloatNetwork {
    /// The network with the tensors of a checkpoint. Weights of layers that have a grid
    /// are on it wherever they are used, and are trained beside it.
    ///
    /// Parameters are numbered in the order of the network, so that the state
    /// of an optimiser fits every copy.
    pub fn new(checkpoint: &Checkpoint, device: &Device) -> Self {
        Self::placed(checkpoint, |_| device)
    }

    /// The same with the nodes, which are given by their numbers, on several devices.
    pub(crate) fn placed<'a>(
        checkpoint: &'a Checkpoint,
        device_of: impl Fn(usize) -> &'a Device,
    ) -> Self {
        let mut ids = 0..;
        let nodes = checkpoint.network.nodes.iter().enumerate();
        let layers = nodes.map(|(index, node)| {
            let mut source = Source {
                checkpoint,
                node,
                device: device_of(index),
                ids: &mut ids,
            };
            source.layer()
        });
        let network = Self {
            layers: layers.collect(),
            network: checkpoint.network.clone(),
        };
        match checkpoint.grids.is_empty() {
            true => network,
            false => network.apply_reparameterization(Grids(checkpoint)),
        }
    }

    /// Outputs of the head before a closing softmax: [pictures, classes].
    pub fn logits(&self, input: Tensor<4>) -> Tensor<2> {
        self.logits_through(input, &|_, x| x)
    }

    /// The same, with the inputs of dense layers changed before.
    pub(crate) fn logits_through(&self, input: Tensor<4>, before_dense: BeforeDense) -> Tensor<2> {
        self.head(vec![input], before_dense)
    }

    /// The same from values that are there already: of [`Self::values`].
    pub(crate) fn logits_behind(&self, values: Vec<Tensor<4>>) -> Tensor<2> {
        self.head(values, &|_, x| x)
    }

    /// The same from values and with changed inputs.
    pub(crate) fn head(&self, values: Vec<Tensor<4>>, before_dense: BeforeDense) -> Tensor<2> {
        let closing = self
            .network
            .nodes
            .last()
            .is_some_and(|node| node.layer == Layer::Softmax);
        let count = self.layers.len() - usize::from(closing);
        let mut values = self.go_on(values, count, before_dense);
        // The head is a value, and there is at least the input.
        flat(values.swap_remove(values.len() - 1))
    }

    /// The same for each of any number of pictures (HWC bytes), some at a time, on a device
    /// without gradients.
    pub fn logits_of(&self, pictures: &[&[u8]], scale: InputScale) -> Vec<Vec<f32>> {
        let classes = self.network.classes().max(1);
        let of_batch = |batch: &[&[u8]]| {
            let input = &batch.concat();
            let input = pictures_to_tensor(input, self.network.input, scale, &Device::flex());
            let rows = numbers(self.logits(input));
            rows.chunks(classes)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        pictures.chunks(BATCH).flat_map(of_batch).collect()
    }

    /// The output of every node behind its activation, for a batch: numbers in
    /// the order `[picture][row][column][channel]`.
    pub fn trace(&self, input: Tensor<4>) -> Vec<Vec<f32>> {
        let values = self.values(input, self.layers.len());
        values
            .into_iter()
            .skip(1)
            .map(|value| numbers(value.permute([0, 2, 3, 1])))
            .collect()
    }

    /// The present tensors, named and laid out as in a checkpoint; weights as they were
    /// before they were put on a grid.
    pub fn to_tensors(&self) -> BTreeMap<String, Array> {
        let mut tensors = BTreeMap::new();
        for (node, layer) in self.network.nodes.iter().zip(&self.layers) {
            for (role, shape) in self.network.tensors_of(node) {
                if let Some(data) = layer.numbers(role) {
                    tensors.insert(node.tensor_name(role), Array { shape, data });
                }
            }
        }
        tensors
    }

    /// For each node, the gradient of its weights, laid out as they are; `None` for one
    /// without.
    pub fn weight_gradients(&self, gradients: &GradientsParams) -> Vec<Option<Vec<f32>>> {
        let of_layer = |layer: &FloatLayer| match (&layer.conv, &layer.dense) {
            (Some(conv), _) => gradients.get::<4>(conv.weight.id).map(numbers),
            (_, Some(dense)) => gradients.get::<2>(dense.weight.id).map(numbers),
            _ => None,
        };
        self.layers.iter().map(of_layer).collect()
    }

    /// The running means and variances of batch normalisation in some nodes, which are given
    /// by their numbers: the names they have in a checkpoint, and the values.
    pub(crate) fn statistics(&self, nodes: std::ops::Range<usize>) -> Vec<(String, Tensor<1>)> {
        let layers = self.network.nodes.iter().zip(&self.layers).enumerate();
        let layers = layers.filter(|(index, _)| nodes.contains(index));
        let of_layer = |(_, (node, layer)): (usize, (&Node, &FloatLayer))| {
            let norm = layer.norm.as_ref()?;
            Some([
                (node.tensor_name(Role::Mean), norm.running_mean.value_sync()),
                (
                    node.tensor_name(Role::Variance),
                    norm.running_var.value_sync(),
                ),
            ])
        };
        layers.filter_map(of_layer).flatten().collect()
    }

    /// The weights that are 0 now.
    pub fn masks(&self) -> Masks {
        let mask = |layer: &FloatLayer| {
            let conv = layer.conv.as_ref().map(|conv| conv.weight.id);
            let id = conv.or(layer.dense.as_ref().map(|dense| dense.weight.id))?;
            let data = layer.numbers(Role::Weight)?;
            let zeroes: Vec<bool> = data.iter().map(|&weight| weight == 0.0).collect();
            Some((id, Tensor::from_data(zeroes.as_slice(), &Device::flex())))
        };
        Masks(self.layers.iter().filter_map(mask).collect())
    }

    /// Puts the masked weights back to 0.
    pub fn hold(self, masks: &Masks) -> Self {
        self.map(&mut Hold(masks))
    }

    /// The input and the outputs of the first `count` nodes.
    pub(crate) fn values(&self, input: Tensor<4>, count: usize) -> Vec<Tensor<4>> {
        self.go_on(vec![input], count, &|_, x| x)
    }

    /// Values of which some are there already: the input, and the outputs of the first nodes.
    pub(crate) fn go_on(
        &self,
        mut values: Vec<Tensor<4>>,
        count: usize,
        before_dense: BeforeDense,
    ) -> Vec<Tensor<4>> {
        let layers = self.network.nodes.iter().zip(&self.layers);
        let there = values.len() - 1;
        for (index, (node, layer)) in layers.enumerate().take(count).skip(there) {
            let before_dense = |x| before_dense(index, x);
            let shape = self.network.input_of(node);
            values.push(layer.forward(node, shape, &values, &before_dense));
        }
        values
    }
}

impl FloatLayer {
    fn forward(
        &self,
        node: &Node,
        shape: Shape,
        values: &[Tensor<4>],
        before_dense: &dyn Fn(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<4> {
        let input = |index: usize| values[node.inputs[index]].clone();
        let x = input(0);
        let windows = node
            .layer
            .window(shape)
            .filter(|_| kernels::run_on(&x.device()));
        let windows = windows.map(|window| Windows::new(window, shape, node.output));
        // A kernel activates what it stores, unless batch normalisation is between.
        let (within, behind) = match (&self.conv, windows, &self.norm) {
            (Some(_), Some(_), None) => (node.layer.activation(), Activation::None),
            _ => (Activation::None, node.layer.activation()),
        };
        let y = match (&node.layer, &self.conv, &self.dense) {
            (layer, Some(conv), _) => match windows {
                Some(windows) => {
                    let depthwise = matches!(layer, Layer::DepthwiseConv2d(_));
                    let convolution = Convolution {
                        windows,
                        depthwise,
                        activation: within,
                    };
                    kernels::convolve(x, conv, convolution)
                }
                None => conv.forward(x),
            },
            (_, _, Some(dense)) => column(dense.forward(before_dense(flat(x)))),
            (Layer::MaxPool2d(pool), ..) => match windows {
                Some(windows) => kernels::max_pool(x, windows),
                None => max_pool(pool, x),
            },
            (Layer::AvgPool2d(pool), ..) => average_pool(pool, x),
            (Layer::GlobalAvgPool2d, ..) => x.mean_dim(3).mean_dim(2),
            (Layer::Add(_), ..) => x + input(1),
            (Layer::Flatten, ..) => column(flat(x)),
            (Layer::Softmax, ..) => softmax(x, 1),
            (Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) | Layer::Dense(_), None, None) => x,
        };
        let y = match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        match behind {
            Activation::None => y,
            Activation::Relu => relu(y),
            Activation::Relu6 => y.clamp(0.0, 6.0),
        }
    }

    fn numbers(&self, role: Role) -> Option<Vec<f32>> {
        match role {
            Role::Weight => match (&self.conv, &self.dense) {
                (Some(conv), _) => Some(numbers(conv.weight.base())),
                (_, Some(dense)) => Some(numbers(dense.weight.base())),
                _ => None,
            },
            Role::Bias => {
                let bias = |conv: &Conv2d| conv.bias.clone();
                let bias = self.conv.as_ref().map(bias);
                let bias = bias.or_else(|| self.dense.as_ref().map(|dense| dense.bias.clone()));
                bias.flatten().map(|bias| numbers(bias.val()))
            }
            Role::Gamma => self.norm.as_ref().map(|norm| numbers(norm.gamma.val())),
            Role::Beta => self.norm.as_ref().map(|norm| numbers(norm.beta.val())),
            Role::Mean => self
                .norm
                .as_ref()
                .map(|norm| numbers(norm.running_mean.value_sync())),
            Role::Variance => self
                .norm
                .as_ref()
                .map(|norm| numbers(norm.running_var.value_sync())),
        }
    }
}

/// Puts a weight on a grid wherever it is read. The gradient passes as if it had not
/// (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic
/// Neurons": the straight-through estimator), so that what is trained is the weight
/// before, and a small step is not lost.
#[derive(Module, Debug)]
struct OnGrid {
    #[module(skip)]
    grid: Grid,
    #[module(skip)]
    layer: Layer,
}

impl Reparameterization for OnGrid {
    const NAME: &'static str = "grid";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let (shape, device) = (base.dims(), base.device());
        let mut values = numbers(base.clone());
        self.grid.snap(&mut values, channel_of(&self.layer, &shape));
        let snapped = Tensor::from_data(TensorData::new(values, shape), &device);
        match device.is_autodiff() {
            // The difference is 0, but for the gradient.
            true => base.clone() - base.detach() + snapped,
            false => snapped,
        }
    }
}

/// Gives each layer its grid.
struct Grids<'a>(&'a Checkpoint);

impl Reparameterizer for Grids<'_> {
    type Reparam = OnGrid;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<OnGrid>) {
        // Such as `layers.3.conv.weight`.
        let mut parts = path.split('.');
        let index = parts.nth(1).and_then(|index| index.parse::<usize>().ok());
        let node = index.and_then(|index| self.0.network.nodes.get(index));
        let on_grid = node.filter(|_| parts.next_back() == Some("weight"));
        let on_grid = on_grid.and_then(|node| {
            let grid = self.0.grids.get(&node.name)?.clone();
            Some(OnGrid {
                grid,
                layer: node.layer,
            })
        });
        (param, on_grid)
    }
}

struct Hold<'a>(&'a Masks);

impl ModuleMapper for Hold<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(mask) = self.0.0.get(&param.id) else {
            return param;
        };
        param.map(|weight| {
            let mask = mask.clone().reshape(weight.dims());
            Tensor::from_inner(weight.inner().mask_fill(mask, 0.0)).require_grad()
        })
    }
}

/// All elements of each picture in HWC order: [pictures, elements].
fn flat(x: Tensor<4>) -> Tensor<2> {
    let [pictures, channels, height, width] = x.dims();
    let elements = channels * height * width;
    if elements == channels {
        return x.reshape([pictures, elements]);
    }
    x.permute([0, 2, 3, 1]).reshape([pictures, elements])
}

/// [pictures, elements] as [pictures, elements, 1, 1].
fn column(x: Tensor<2>) -> Tensor<4> {
    let [pictures, elements] = x.dims();
    x.reshape([pictures, elements, 1, 1])
}

fn max_pool(pool: &Pool2d, x: Tensor<4>) -> Tensor<4> {
    let config = MaxPool2dConfig::new(sides(pool.kernel))
        .with_strides(sides(pool.stride.unwrap_or(pool.kernel)))
        .with_padding(padding(pool.padding));
    config.init().forward(x)
}

fn average_pool(pool: &Pool2d, x: Tensor<4>) -> Tensor<4> {
    let config = AvgPool2dConfig::new(sides(pool.kernel))
        .with_strides(sides(pool.stride.unwrap_or(pool.kernel)))
        .with_padding(padding(pool.padding))
        .with_count_include_pad(false);
    config.init().forward(x)
}

fn sides(size: Size2) -> [usize; 2] {
    [size.height(), size.width()]
}

/// Burn's `Same` puts the odd zero behind the input, as TensorFlow does.
fn padding(padding: Padding) -> PaddingConfig2d {
    match padding {
        Padding::Valid => PaddingConfig2d::Valid,
        Padding::Same => PaddingConfig2d::Same,
    }
}

/// All elements in row-major order.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    // As they are, where they are 32 bits wide.
    let as_they_are = data.try_to_vec::<f32>();
    as_they_are.unwrap_or_else(|_| data.iter::<f32>().collect())
}

/// Takes the tensors of one node out of a checkpoint.
struct Source<'a, I> {
    checkpoint: &'a Checkpoint,
    node: &'a Node,
    device: &'a Device,
    ids: &'a mut I,
}

impl<I: Iterator<Item = u64>> Source<'_, I> {
    fn layer(&mut self) -> FloatLayer {
        let (conv, dense) = match self.node.layer {
            Layer::Conv2d(c) => (Some(self.conv(c.kernel, c.stride, c.padding, 1)), None),
            Layer::DepthwiseConv2d(c) => {
                let groups = self.checkpoint.network.input_of(self.node).channels();
                (Some(self.conv(c.kernel, c.stride, c.padding, groups)), None)
            }
            Layer::Dense(_) => (None, Some(self.dense())),
            _ => (None, None),
        };
        let norm = self.node.batch_norm.then(|| self.norm());
        FloatLayer { conv, dense, norm }
    }

    fn conv(&mut self, kernel: Size2, stride: Size2, border: Padding, groups: usize) -> Conv2d {
        Conv2d {
            weight: self.param(Role::Weight),
            bias: Some(self.param(Role::Bias)),
            stride: sides(stride),
            kernel_size: sides(kernel),
            dilation: [1, 1],
            groups,
            padding: padding(border),
        }
    }

    fn dense(&mut self) -> Linear {
        Linear {
            weight: self.param(Role::Weight),
            bias: Some(self.param(Role::Bias)),
        }
    }

    fn norm(&mut self) -> BatchNorm {
        BatchNorm {
            gamma: self.param(Role::Gamma),
            beta: self.param(Role::Beta),
            training: Param::<Flag>::from_bool(true),
            running_mean: RunningState::with_id(self.id(), self.tensor(Role::Mean)),
            running_var: RunningState::with_id(self.id(), self.tensor(Role::Variance)),
            momentum: NORM_MOMENTUM,
            epsilon: NORM_EPSILON,
        }
    }

    fn param<const D: usize>(&mut self, role: Role) -> Param<Tensor<D>> {
        // Only an autodiff device knows gradients.
        let tensor = self
            .tensor(role)
            .set_require_grad(self.device.is_autodiff());
        Param::initialized(self.id(), tensor)
    }

    fn tensor<const D: usize>(&self, role: Role) -> Tensor<D> {
        let Array { shape, data } = self
            .checkpoint
            .tensor(self.node, role)
            .cloned()
            .unwrap_or_default();
        Tensor::from_data(TensorData::new(data, shape), self.device)
    }

    fn id(&mut self) -> ParamId {
        ParamId::from(self.ids.next().unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{NetworkSpec, initial_tensors};
    use super::*;
    use shared::layer::Window;
    use shared::model::Resize;

    fn checkpoint(text: &str, input: Shape) -> Checkpoint {
        let spec: NetworkSpec = toml::from_str(text).unwrap();
        let network = spec.build(input, 3).unwrap();
        let mut tensors = initial_tensors(&network, 5);
        for (name, array) in &mut tensors {
            let vary = |(i, value): (usize, &mut f32)| *value += 0.05 * (1.0 + i as f32);
            if !name.ends_with("weight") {
                array.data.iter_mut().enumerate().for_each(vary);
            }
        }
        Checkpoint {
            classes: vec!["a".into(), "b".into(), "c".into()],
            input: InputScale {
                mean: 100,
                scale: 0.01,
            },
            resize: Resize::Exact,
            training: None,
            split: None,
            grids: Default::default(),
            network,
            tensors,
        }
    }

    /// Every layer in plain loops, NHWC, over folded weights.
    fn reference(c: &Checkpoint, pixels: &[u8]) -> Vec<Vec<f32>> {
        let mut values = vec![
            pixels
                .iter()
                .map(|&p| c.input.real(p))
                .collect::<Vec<f32>>(),
        ];
        for node in &c.network.nodes {
            let shape = c.network.input_of(node);
            let x = values[node.inputs[0]].clone();
            let mut y = match node.layer {
                Layer::Dense(_) => {
                    let folded = c.folded(node).unwrap();
                    let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
                    let sums = folded.weights.chunks(x.len()).map(dot);
                    sums.zip(&folded.bias)
                        .map(|(sum, bias)| sum + bias)
                        .collect()
                }
                Layer::Add(_) => x
                    .iter()
                    .zip(&values[node.inputs[1]])
                    .map(|(a, b)| a + b)
                    .collect(),
                Layer::Flatten => x,
                Layer::Softmax => {
                    let sum: f32 = x.iter().map(|x| x.exp()).sum();
                    x.iter().map(|x| x.exp() / sum).collect()
                }
                layer => windowed(c, node, layer.window(shape).unwrap(), &x),
            };
            match node.layer.activation() {
                Activation::None => {}
                Activation::Relu => y.iter_mut().for_each(|y| *y = y.max(0.0)),
                Activation::Relu6 => y.iter_mut().for_each(|y| *y = y.clamp(0.0, 6.0)),
            }
            values.push(y);
        }
        values.split_off(1)
    }

    fn windowed(c: &Checkpoint, node: &Node, window: Window, x: &[f32]) -> Vec<f32> {
        let shape = c.network.input_of(node);
        let (top, left) = window.padding_before(shape);
        let mut y = Vec::new();
        for at in 0..node.output.len() {
            let (channels, width) = (node.output.channels(), node.output.width());
            let (row, column, channel) =
                (at / channels / width, at / channels % width, at % channels);
            let mut inside = Vec::new(); // (place in the window, place in the input)
            for k in 0..window.kernel.area() {
                let r = row * window.stride.height() + k / window.kernel.width();
                let s = column * window.stride.width() + k % window.kernel.width();
                let within = (top..top + shape.height()).contains(&r)
                    && (left..left + shape.width()).contains(&s);
                if within {
                    inside.push((k, (r - top) * shape.width() + s - left));
                }
            }
            let pixel = |place: usize, channel: usize| x[place * shape.channels() + channel];
            let folded = c.folded(node);
            y.push(match node.layer {
                Layer::MaxPool2d(_) => inside
                    .iter()
                    .map(|&(_, p)| pixel(p, channel))
                    .fold(f32::MIN, f32::max),
                Layer::Conv2d(_) => {
                    let folded = folded.unwrap();
                    let (i, area) = (shape.channels(), window.kernel.area());
                    let product = |(k, p): (usize, usize)| {
                        let weight = |j| folded.weights[(channel * area + k) * i + j];
                        (0..i).map(|j| weight(j) * pixel(p, j)).sum::<f32>()
                    };
                    inside.into_iter().map(product).sum::<f32>() + folded.bias[channel]
                }
                Layer::DepthwiseConv2d(d) => {
                    let folded = folded.unwrap();
                    let product = |(k, p): (usize, usize)| {
                        folded.weights[k * channels + channel]
                            * pixel(p, channel / d.multiplier.get() as usize)
                    };
                    inside.into_iter().map(product).sum::<f32>() + folded.bias[channel]
                }
                _ => {
                    let count = inside.len() as f32;
                    inside.iter().map(|&(_, p)| pixel(p, channel)).sum::<f32>() / count
                }
            });
        }
        y
    }

    fn agrees(text: &str, input: (usize, usize, usize)) {
        let shape = Shape::new(input.0, input.1, input.2).unwrap();
        let c = checkpoint(text, shape);
        let pixels: Vec<u8> = (0..2 * shape.len()).map(|i| (i * 73 % 251) as u8).collect();
        let device = Device::flex();
        let network = FloatNetwork::new(&c, &device);
        let traced = network.trace(pictures_to_tensor(&pixels, shape, c.input, &device));
        let (first, second) = pixels.split_at(shape.len());
        let (first, second) = (reference(&c, first), reference(&c, second));
        for (at, node) in c.network.nodes.iter().enumerate() {
            let wanted = [first[at].clone(), second[at].clone()].concat();
            assert_eq!(traced[at].len(), wanted.len(), "{}", node.name);
            for (found, wanted) in traced[at].iter().zip(&wanted) {
                let close = (found - wanted).abs() <= 1e-4 * wanted.abs().max(1.0);
                assert!(close, "{}: {found} and not {wanted}", node.name);
            }
        }
        assert_eq!(network.to_tensors(), c.tensors);
        let logits = numbers(network.logits(pictures_to_tensor(&pixels, shape, c.input, &device)));
        let head = c
            .network
            .nodes
            .iter()
            .rposition(|node| matches!(node.layer, Layer::Dense(_)));
        assert_eq!(logits, traced[head.unwrap()]);
    }

    #[test]
    fn plain_layers_agree_with_the_reference() {
        agrees(
            "layers = [
                { conv2d = { filters = 5, kernel = [3, 2], stride = [2, 1], activation = 'relu' } },
                { max_pool2d = { kernel = 2 } },
                { flatten = {} },
                { dense = { units = 7, activation = 'relu6' }, batch_norm = true },
                { dense = {} },
                { softmax = {} },
            ]",
            (9, 7, 3),
        );
    }

    #[test]
    fn same_padding_agrees_with_the_reference() {
        for side in [7, 8] {
            agrees(
                "layers = [
                    { conv2d = { filters = 4, kernel = 3, stride = 2, padding = 'same' }, batch_norm = true },
                    { depthwise_conv2d = { kernel = [2, 3], multiplier = 2, padding = 'same', activation = 'relu6' }, batch_norm = true },
                    { max_pool2d = { kernel = 2, stride = 1, padding = 'same' } },
                    { avg_pool2d = { kernel = 3, stride = 2, padding = 'same', activation = 'relu' } },
                    { conv2d = { filters = 3, kernel = 4, padding = 'same' } },
                    { max_pool2d = { kernel = 3, stride = 2, padding = 'same' } },
                    { dense = {} },
                ]",
                (side, side, 2),
            );
        }
    }

    #[test]
    fn graphs_agree_with_the_reference() {
        agrees(
            "layers = [
                { name = 'a', conv2d = { filters = 4, kernel = 1, activation = 'relu' } },
                { name = 'b', conv2d = { filters = 4, kernel = 3, padding = 'same' } },
                { from = ['a', 'b'], add = { activation = 'relu' } },
                { global_avg_pool2d = {} },
                { dense = {} },
            ]",
            (5, 6, 3),
        );
    }
}
