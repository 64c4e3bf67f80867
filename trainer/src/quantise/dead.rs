//! Leaves out channels that cannot change the output: constant ones, which go
//! into the bias of the layers that read them, and ones that nobody reads.
//! Every output byte stays what it was.
//!
//! A channel is constant where bounds of its accumulators, scaled and clamped
//! by the engine's own arithmetic, give one value for every possible input.
//! The channels of tensors that an addition or a softmax reads, of the input and
//! of the output are all kept, and so is the first of a layer whose channels are
//! all dead.

use std::num::NonZeroU16;

use shared::arith::{Clamp, MAX_BIAS, scale};
use shared::layer::{Layer, Shape};
use shared::model::{Node, Sources, clamp_of};

use super::writer::{Block, ModelFile, WrittenLayer};

/// Removes dead channels until none is left and gives, layer by layer, how many
/// output channels of its own weights each has lost. A network that the writer
/// would refuse may be left as it is.
pub fn remove_dead_channels(file: &mut ModelFile) -> Vec<usize> {
    let mut lost = vec![0; file.layers.len()];
    while let Some(tensors) = trace(file) {
        let gone = gone(file, &tensors);
        if !gone.iter().flatten().any(|&gone| gone) {
            break;
        }
        for (index, layer) in file.layers.iter_mut().enumerate() {
            let source = sources(&layer.node)[0];
            if shrink(layer, &tensors[source], &gone[source], &gone[index + 1]) {
                lost[index] += gone[index + 1].iter().filter(|&&gone| gone).count();
            }
        }
    }
    lost
}

/// What is known of a tensor: 0 is the input of the network, `i + 1` the output
/// of layer `i`.
struct Tensor {
    shape: Shape,
    zero_point: i8,
    /// The values that each channel may take.
    ranges: Vec<Clamp>,
}

/// The tensors that a layer reads; one with a single input names it twice.
fn sources(node: &Node) -> [usize; 2] {
    match node.sources {
        Sources::One(a) => [a, a],
        Sources::Two(a, b) => [a, b],
    }
    .map(usize::from)
}

/// All tensors, or `None` where the layers do not fit together.
fn trace(file: &ModelFile) -> Option<Vec<Tensor>> {
    let anything = Clamp {
        min: i8::MIN,
        max: i8::MAX,
    };
    let mut tensors = vec![Tensor {
        shape: file.input,
        zero_point: file.input_quant.zero_point,
        ranges: vec![anything; file.input.channels()],
    }];
    for layer in &file.layers {
        let [a, b] = sources(&layer.node);
        let output = output(layer, tensors.get(a)?, tensors.get(b)?)?;
        tensors.push(output);
    }
    Some(tensors)
}

/// What a layer writes.
fn output(written: &WrittenLayer, input: &Tensor, second: &Tensor) -> Option<Tensor> {
    let Node { layer, output, .. } = &written.node;
    let shapes = [input.shape, second.shape];
    let shape = layer.output_shape(&shapes[..layer.inputs()]).ok()?;
    let clamp = clamp_of(layer.activation(), *output);
    let ranges = match layer {
        Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) | Layer::Dense(_) => {
            Weighted::new(written, input)?.ranges(output.zero_point, clamp)
        }
        // The largest, and the rounded mean, of values lies between them.
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d => {
            let cut = |range: &Clamp| Clamp {
                min: clamp.apply(range.min.into()),
                max: clamp.apply(range.max.into()),
            };
            input.ranges.iter().map(cut).collect()
        }
        Layer::Flatten => input.ranges.repeat(positions(input.shape)),
        Layer::Add(_) | Layer::Softmax => vec![clamp; shape.channels()],
    };
    Some(Tensor {
        shape,
        zero_point: output.zero_point,
        ranges,
    })
}

fn positions(shape: Shape) -> usize {
    shape.height() * shape.width()
}

/// The channels to remove, tensor by tensor.
fn gone(file: &ModelFile, tensors: &[Tensor]) -> Vec<Vec<bool>> {
    let spare = spare(file, tensors);
    let mut gone = vec![vec![false; file.input.channels()]];
    for (layer, mut spare) in file.layers.iter().zip(spare.into_iter().skip(1)) {
        let source = sources(&layer.node)[0];
        let input = &gone[source];
        gone.push(match layer.node.layer {
            Layer::Conv2d(_) | Layer::Dense(_) => {
                if spare.iter().all(|&spare| spare) {
                    spare[0] = false; // no shape is empty
                }
                spare
            }
            Layer::DepthwiseConv2d(d) => {
                let multiplier = usize::from(d.multiplier.get());
                let outputs = input.iter().map(|&gone| vec![gone; multiplier]);
                outputs.flatten().collect()
            }
            Layer::Flatten => input.repeat(positions(tensors[source].shape)),
            _ => input.clone(),
        });
    }
    gone
}

/// The channels that every reader can do without, tensor by tensor.
fn spare(file: &ModelFile, tensors: &[Tensor]) -> Vec<Vec<bool>> {
    let all = |tensor: &Tensor| vec![true; tensor.ranges.len()];
    let mut spare: Vec<Vec<bool>> = tensors.iter().map(all).collect();
    for kept in [0, tensors.len() - 1] {
        spare[kept].fill(false);
    }
    for (index, layer) in file.layers.iter().enumerate().rev() {
        let [a, b] = sources(&layer.node);
        let unneeded = unneeded(layer, &tensors[a], &spare[index + 1]);
        for source in [a, b] {
            let channels = spare[source].iter_mut().zip(&unneeded);
            channels.for_each(|(spare, unneeded)| *spare &= unneeded);
        }
    }
    spare
}

/// The channels of its input that a layer can do without, where its own readers
/// can do without the channels `spare` of its output.
fn unneeded(written: &WrittenLayer, input: &Tensor, spare: &[bool]) -> Vec<bool> {
    let channels = input.ranges.len();
    match written.node.layer {
        Layer::Conv2d(_) | Layer::Dense(_) => {
            let constants = Weighted::new(written, input).map(|layer| layer.constants());
            let constants = constants.unwrap_or_default();
            constants.iter().map(Option::is_some).collect()
        }
        Layer::DepthwiseConv2d(d) => {
            let outputs = spare.chunks(usize::from(d.multiplier.get()));
            outputs.map(|spare| spare.iter().all(|&s| s)).collect()
        }
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d => spare.to_vec(),
        Layer::Flatten => {
            let everywhere = |c| spare.iter().skip(c).step_by(channels).all(|&s| s);
            (0..channels).map(everywhere).collect()
        }
        Layer::Add(_) | Layer::Softmax => vec![false; channels],
    }
}

/// Takes the channels `gone_in` and `gone_out` out of a layer with weights;
/// `false` for one without.
fn shrink(written: &mut WrittenLayer, input: &Tensor, gone_in: &[bool], gone_out: &[bool]) -> bool {
    let Some(layer) = Weighted::new(written, input) else {
        return false;
    };
    let new_weights = layer
        .products()
        .filter(|product| !gone_in[product.input] && !gone_out[product.output])
        .map(|product| product.weight)
        .collect();
    let new_bias = kept(&layer.folded_bias(gone_in), gone_out);
    let count = NonZeroU16::new(new_bias.len() as u16).unwrap_or(NonZeroU16::MIN);
    match &mut written.block {
        Block::Conv {
            weights,
            bias,
            factors,
        } => {
            (*weights, *bias) = (new_weights, new_bias);
            *factors = kept(factors, gone_out);
        }
        Block::Dense {
            weights,
            bias,
            factors,
        } => {
            (*weights, *bias) = (new_weights, new_bias);
            *factors = kept(factors, gone_out);
        }
        _ => return false,
    }
    match &mut written.node.layer {
        Layer::Conv2d(conv) => conv.filters = count,
        Layer::Dense(dense) => dense.units = count,
        _ => {} // a depthwise convolution has as many as its input says
    }
    true
}

fn kept<T: Copy>(all: &[T], gone: &[bool]) -> Vec<T> {
    let pairs = all.iter().zip(gone);
    pairs.filter(|(_, gone)| !**gone).map(|(&x, _)| x).collect()
}

/// A layer with weights over its input.
struct Weighted<'a> {
    block: &'a Block,
    weights: &'a [i8],
    bias: &'a [i32],
    input: &'a Tensor,
    /// Products in one accumulator.
    fan_in: usize,
    /// Output channels of each input channel of a depthwise convolution.
    multiplier: Option<usize>,
    /// Whether some window reaches over the border.
    padded: bool,
}

/// A weight and the channels that it connects.
struct Product {
    output: usize,
    input: usize,
    weight: i8,
}

impl<'a> Weighted<'a> {
    /// `None` for a layer without weights, or with a block that does not fit it.
    fn new(written: &'a WrittenLayer, input: &'a Tensor) -> Option<Self> {
        let layer = &written.node.layer;
        let shape = layer.params(input.shape)?;
        let dense = matches!(layer, Layer::Dense(_));
        let (weights, bias, factors) = match &written.block {
            Block::Conv {
                weights,
                bias,
                factors,
            } if !dense => (weights, bias, factors.len()),
            Block::Dense {
                weights,
                bias,
                factors,
            } if dense => (weights, bias, factors.len()),
            _ => return None,
        };
        let sizes = [weights.len(), bias.len(), factors];
        if sizes != [shape.weights(), shape.channels, shape.channels] {
            return None;
        }
        let window = layer.window(input.shape);
        let padding = |window: shared::layer::Window| {
            [
                window.padding_before(input.shape),
                window.padding_after(input.shape),
            ]
        };
        Some(Self {
            block: &written.block,
            weights,
            bias,
            input,
            fan_in: shape.fan_in,
            multiplier: match layer {
                Layer::DepthwiseConv2d(d) => Some(d.multiplier.get().into()),
                _ => None,
            },
            padded: window.is_some_and(|window| padding(window) != [(0, 0); 2]),
        })
    }

    /// In the order of the weights, see [`shared::layer::ParamShape`].
    fn products(&self) -> impl Iterator<Item = Product> {
        let (outputs, inputs) = (self.bias.len(), self.input.ranges.len());
        self.weights
            .iter()
            .enumerate()
            .map(move |(index, &weight)| {
                let (output, input) = match self.multiplier {
                    Some(multiplier) => (index % outputs, index % outputs / multiplier),
                    None => (index / self.fan_in, index % inputs),
                };
                Product {
                    output,
                    input,
                    weight,
                }
            })
    }

    /// Smallest and largest value less zero point of an input channel.
    fn centred(&self, channel: usize) -> (i64, i64) {
        let Clamp { min, max } = self.input.ranges[channel];
        let centred = |value: i8| i64::from(value) - i64::from(self.input.zero_point);
        (centred(min), centred(max))
    }

    /// The values that each output channel may take.
    fn ranges(&self, zero_point: i8, clamp: Clamp) -> Vec<Clamp> {
        let mut sums: Vec<_> = self
            .bias
            .iter()
            .map(|&b| (i64::from(b), b.into()))
            .collect();
        for product in self.products() {
            let (mut min, mut max) = self.centred(product.input);
            if self.padded {
                (min, max) = (min.min(0), max.max(0));
            }
            let weight = i64::from(product.weight);
            let sum: &mut (i64, i64) = &mut sums[product.output];
            sum.0 += (weight * min).min(weight * max);
            sum.1 += (weight * min).max(weight * max);
        }
        let range = |(channel, (min, max))| {
            let value = |sum| {
                let scaled = self.block.scaled(channel, sum)?;
                Some(clamp.apply(scaled.saturating_add(zero_point.into())))
            };
            match (value(min), value(max)) {
                (Some(min), Some(max)) => Clamp { min, max },
                _ => clamp,
            }
        };
        sums.into_iter().enumerate().map(range).collect()
    }

    /// The number, its value less zero point, that stands for each input channel
    /// which can go into the biases. A channel whose weights are all 0 counts as
    /// 0. `None` for one that is not constant, also not where it is padded, or
    /// would take a bias out of the format's range.
    fn constants(&self) -> Vec<Option<i64>> {
        let inputs = self.input.ranges.len();
        let mut totals = vec![vec![0i64; self.bias.len()]; inputs];
        let mut read = vec![false; inputs];
        for product in self.products() {
            totals[product.input][product.output] += i64::from(product.weight);
            read[product.input] |= product.weight != 0;
        }
        let room = |bias: &i32| i64::from(MAX_BIAS) - i64::from(*bias).abs();
        let mut room: Vec<i64> = self.bias.iter().map(room).collect();
        let constant = |(channel, (totals, read)): (usize, (Vec<i64>, bool))| {
            let value = match (read, self.centred(channel)) {
                (false, _) => 0,
                (true, (min, max)) if min == max && (min == 0 || !self.padded) => min,
                _ => return None,
            };
            // Sizes are added up, so that any choice of channels stays in range.
            let sizes = || totals.iter().map(|total| (total * value).abs());
            if sizes().zip(&room).any(|(size, &room)| size > room) {
                return None;
            }
            room.iter_mut()
                .zip(sizes())
                .for_each(|(room, size)| *room -= size);
            Some(value)
        };
        totals
            .into_iter()
            .zip(read)
            .enumerate()
            .map(constant)
            .collect()
    }

    /// The biases with what the channels `gone` add to each accumulator.
    fn folded_bias(&self, gone: &[bool]) -> Vec<i32> {
        let mut bias = self.bias.to_vec();
        if self.multiplier.is_some() {
            return bias; // what sees a channel that is gone is gone as well
        }
        let constants = self.constants();
        for product in self.products().filter(|product| gone[product.input]) {
            let value = constants[product.input].unwrap_or_default();
            bias[product.output] += (i64::from(product.weight) * value) as i32;
        }
        bias
    }
}

impl Block {
    /// An accumulator brought to the output's scale; `None` where it leaves the
    /// 32 bits in which the engine is monotonic.
    fn scaled(&self, channel: usize, sum: i64) -> Option<i32> {
        let narrow = i32::try_from(sum).ok()?;
        match self {
            Self::Conv { factors, .. } => {
                let factor = factors.get(channel)?;
                i32::try_from(sum << factor.shift().max(0)).ok()?;
                Some(factor.apply(narrow))
            }
            Self::Dense { factors, .. } => Some(scale(narrow, *factors.get(channel)?)),
            _ => None,
        }
    }
}
