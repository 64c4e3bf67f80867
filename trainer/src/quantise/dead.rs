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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZeroU8;

    use shared::arith::Multiplier;
    use shared::kernels::Storage;
    use shared::kernels::add::AddFactors;
    use shared::layer::{Activation, Add, Conv2d, Dense, DepthwiseConv2d, Padding, Pool2d, Size2};
    use shared::model::{ChannelLayout, Quant, Resize, SOFTMAX_QUANT};
    use shared::{Engine, Model};

    use super::*;

    const QUANT: Quant = Quant {
        scale: 0.25,
        zero_point: -3,
    };
    /// A bias of this much moves the output by 1.
    const STEP: i32 = 1 << 8;
    /// Far below every accumulator here.
    const NEGATIVE: i32 = -(1 << 23);

    /// A factor of 1 / `STEP`.
    fn factor() -> Multiplier {
        Multiplier::new(1 << 30, -7).unwrap()
    }

    /// A model that grows layer by layer; every weight is different from 0.
    struct Net {
        shapes: Vec<Shape>,
        layers: Vec<WrittenLayer>,
    }

    impl Net {
        fn new(height: usize, width: usize, channels: usize) -> Self {
            Self {
                shapes: vec![Shape::new(height, width, channels).unwrap()],
                layers: Vec::new(),
            }
        }

        fn read(mut self, layer: Layer, sources: &[u8]) -> Self {
            let inputs: Vec<Shape> = sources.iter().map(|&s| self.shapes[s as usize]).collect();
            self.shapes.push(layer.output_shape(&inputs).unwrap());
            let node = Node {
                layer,
                sources: match *sources {
                    [a, b] => Sources::Two(a, b),
                    _ => Sources::One(sources[0]),
                },
                output: match layer {
                    Layer::Softmax => SOFTMAX_QUANT,
                    _ => QUANT,
                },
            };
            let block = block(&layer, inputs[0]);
            self.layers.push(WrittenLayer {
                node,
                block,
                storage: Storage::Dense,
                channels: ChannelLayout::default(),
            });
            self
        }

        /// Reads the newest tensor.
        fn then(self, layer: Layer) -> Self {
            let last = self.layers.len() as u8;
            self.read(layer, &[last])
        }

        /// Makes a channel of the newest layer constant: its weights are 0.
        fn constant(mut self, channel: usize, bias_of_it: i32) -> Self {
            let (weights, bias, depthwise) = self.newest();
            let (outputs, fan_in) = (bias.len(), weights.len() / bias.len());
            for (index, weight) in weights.iter_mut().enumerate() {
                let output = if depthwise {
                    index % outputs
                } else {
                    index / fan_in
                };
                if output == channel {
                    *weight = 0;
                }
            }
            bias[channel] = bias_of_it;
            self
        }

        fn bias(mut self, channel: usize, value: i32) -> Self {
            self.newest().1[channel] = value;
            self
        }

        /// Zeroes the weights that the newest layer has for one of its input
        /// channels.
        fn ignore(mut self, channel: usize) -> Self {
            let inputs = self.shapes[self.layers.len() - 1].channels();
            let weights = self.newest().0.iter_mut();
            weights.skip(channel).step_by(inputs).for_each(|w| *w = 0);
            self
        }

        fn newest(&mut self) -> (&mut Vec<i8>, &mut Vec<i32>, bool) {
            let layer = self.layers.last_mut().unwrap();
            let depthwise = matches!(layer.node.layer, Layer::DepthwiseConv2d(_));
            match &mut layer.block {
                Block::Conv { weights, bias, .. } | Block::Dense { weights, bias, .. } => {
                    (weights, bias, depthwise)
                }
                _ => panic!("a layer with weights"),
            }
        }

        fn file(self) -> ModelFile {
            ModelFile {
                input: self.shapes[0],
                input_quant: QUANT,
                resize: Resize::Exact,
                classes: Vec::new(),
                layers: self.layers,
                golden: 0,
            }
        }

        /// What each layer loses; the output must stay the same.
        fn lost(self) -> Vec<usize> {
            let before = self.file();
            let mut after = before.clone();
            let lost = remove_dead_channels(&mut after);
            assert!(outputs(&before) == outputs(&after), "{before:?}\n{after:?}");
            let again = remove_dead_channels(&mut after);
            assert!(again.iter().all(|&lost| lost == 0));
            lost
        }
    }

    fn block(layer: &Layer, input: Shape) -> Block {
        let Some(params) = layer.params(input) else {
            return match layer {
                Layer::Add(_) => Block::Add(AddFactors {
                    a: factor(),
                    b: factor(),
                    output: factor(),
                }),
                Layer::Softmax => Block::Softmax(Multiplier::new(1 << 30, 20).unwrap()),
                _ => Block::None,
            };
        };
        let weights = (0..params.weights()).map(|i| (i * 37 % 63) as i8 - 31);
        let weights = weights.map(|w| if w == 0 { 5 } else { w }).collect();
        let bias = (0..params.channels as i32).map(|i| 100 * i - 90).collect();
        match layer {
            Layer::Dense(_) => Block::Dense {
                weights,
                bias,
                factors: vec![1.0 / f64::from(STEP); params.channels],
            },
            _ => Block::Conv {
                weights,
                bias,
                factors: vec![factor(); params.channels],
            },
        }
    }

    fn outputs(file: &ModelFile) -> Vec<i8> {
        let bytes = file.to_bytes().unwrap();
        let model = Model::parse(&bytes).unwrap();
        let mut arena = vec![0; model.arena_bytes()];
        let mut engine = Engine::new(&model, &mut arena).unwrap();
        let mut outputs = Vec::new();
        for index in 0..20 {
            outputs.extend_from_slice(engine.infer(|input| match index {
                0 => input.fill(i8::MIN),
                1 => input.fill(i8::MAX),
                _ => shared::golden::fill(9, index, input),
            }));
        }
        outputs
    }

    fn side(n: u8) -> Size2 {
        Size2::new(n, n).unwrap()
    }

    fn conv(filters: u16, kernel: u8, padding: Padding, activation: Activation) -> Layer {
        Layer::Conv2d(Conv2d {
            filters: filters.try_into().unwrap(),
            kernel: side(kernel),
            stride: Size2::ONE,
            padding,
            activation,
        })
    }

    /// Three filters of 3x3 with ReLU.
    fn three() -> Layer {
        conv(3, 3, Padding::Valid, Activation::Relu)
    }

    fn depthwise(multiplier: u8, padding: Padding) -> Layer {
        Layer::DepthwiseConv2d(DepthwiseConv2d {
            multiplier: NonZeroU8::new(multiplier).unwrap(),
            kernel: side(2),
            stride: Size2::ONE,
            padding,
            activation: Activation::None,
        })
    }

    fn dense(units: u16) -> Layer {
        Layer::Dense(Dense {
            units: units.try_into().unwrap(),
            activation: Activation::None,
        })
    }

    fn pool(padding: Padding) -> Pool2d {
        Pool2d {
            kernel: side(2),
            stride: None,
            padding,
            activation: Activation::None,
        }
    }

    fn add() -> Layer {
        Layer::Add(Add {
            activation: Activation::None,
        })
    }

    /// A network with one constant channel of three, different from the zero
    /// point.
    fn one_constant() -> Net {
        Net::new(7, 6, 2).then(three()).constant(1, 40 * STEP)
    }

    #[test]
    fn a_filter_of_zeroes_goes_into_the_next_bias() {
        let mut file = one_constant().then(dense(2)).file();
        let before = outputs(&file);
        assert_eq!(remove_dead_channels(&mut file), [1, 0]);
        assert_eq!(outputs(&file), before);
        let [first, second] = file.layers.as_slice() else {
            panic!("two layers");
        };
        let (
            Block::Conv { weights, .. },
            Block::Dense {
                weights: w, bias, ..
            },
        ) = (&first.block, &second.block)
        else {
            panic!("a convolution and a dense layer");
        };
        assert_eq!((weights.len(), w.len()), (2 * 9 * 2, 2 * 5 * 4 * 2));
        assert_ne!(bias[..], [-90, 10]);
    }

    #[test]
    fn a_channel_that_its_activation_clamps_is_constant() {
        let clamped = |activation, bias| {
            let layer = conv(3, 3, Padding::Valid, activation);
            let net = Net::new(7, 6, 2).then(layer).bias(2, bias);
            net.then(dense(2)).lost()
        };
        assert_eq!(clamped(Activation::Relu, NEGATIVE), [1, 0]);
        assert_eq!(clamped(Activation::Relu6, -NEGATIVE), [1, 0]);
        assert_eq!(clamped(Activation::None, -NEGATIVE), [1, 0]);
        assert_eq!(clamped(Activation::Relu, 0), [0, 0]);
        let units = Net::new(2, 2, 2).then(dense(3)).bias(0, NEGATIVE);
        assert_eq!(units.then(dense(2)).lost(), [1, 0]);
    }

    #[test]
    fn bounds_follow_from_what_the_layer_before_can_give() {
        // Relu leaves -3..=127, so that negative weights cannot reach above the bias.
        let lost = |activation| {
            let mut net = Net::new(1, 1, 2).then(conv(2, 1, Padding::Valid, activation));
            net = net.then(conv(2, 1, Padding::Valid, Activation::Relu));
            *net.newest().0 = vec![-9, -9, 5, 5];
            net.bias(0, 0).then(dense(2)).lost()
        };
        assert_eq!(lost(Activation::Relu), [0, 1, 0]);
        assert_eq!(lost(Activation::None), [0, 0, 0]);
    }

    #[test]
    fn padding_is_zero_and_not_the_constant() {
        let behind = |constant, kernel| {
            let net = Net::new(7, 6, 2).then(three()).constant(1, constant);
            let same = conv(2, kernel, Padding::Same, Activation::None);
            net.then(same).lost()
        };
        assert_eq!(behind(40 * STEP, 3), [0, 0]);
        assert_eq!(behind(NEGATIVE, 3), [1, 0]); // the zero point
        assert_eq!(behind(40 * STEP, 1), [1, 0]); // never padded
    }

    #[test]
    fn constants_pass_pools_and_flatten() {
        for pooled in [
            Layer::MaxPool2d(pool(Padding::Valid)),
            Layer::MaxPool2d(pool(Padding::Same)),
            Layer::AvgPool2d(pool(Padding::Same)),
            Layer::GlobalAvgPool2d,
        ] {
            for constant in [40 * STEP, NEGATIVE] {
                let net = Net::new(7, 6, 2).then(three()).constant(0, constant);
                let net = net.then(pooled).then(Layer::Flatten).then(dense(2));
                assert_eq!(net.lost(), [1, 0, 0, 0], "{pooled:?}");
            }
        }
    }

    #[test]
    fn constants_pass_depthwise_layers() {
        let lost = |padding, constant| {
            let net = Net::new(7, 6, 2).then(three()).constant(1, constant);
            net.then(depthwise(2, padding)).then(dense(2)).lost()
        };
        assert_eq!(lost(Padding::Valid, 40 * STEP), [1, 2, 0]);
        assert_eq!(lost(Padding::Same, 40 * STEP), [0, 0, 0]); // other sums at the border
        assert_eq!(lost(Padding::Same, NEGATIVE), [1, 2, 0]);
    }

    #[test]
    fn a_channel_that_only_a_dead_depthwise_channel_reads_goes_too() {
        let net = || Net::new(7, 6, 2).then(three());
        let once = net().then(depthwise(1, Padding::Same)).constant(2, STEP);
        assert_eq!(once.then(dense(2)).lost(), [1, 1, 0]);
        let half = net().then(depthwise(2, Padding::Same)).constant(2, STEP);
        assert_eq!(half.then(dense(2)).lost(), [0, 0, 0]);
        let both = net().then(depthwise(2, Padding::Same)).constant(2, STEP);
        let both = both.constant(3, -STEP);
        assert_eq!(both.then(dense(2)).lost(), [1, 2, 0]);
    }

    #[test]
    fn input_and_output_and_what_add_and_softmax_read_stay() {
        assert_eq!(one_constant().lost(), [0]);
        assert_eq!(one_constant().then(Layer::GlobalAvgPool2d).lost(), [0, 0]);
        let softmax = one_constant().then(Layer::Softmax).then(dense(2));
        assert_eq!(softmax.lost(), [0, 0, 0]);
        let sum = one_constant().read(three(), &[0]).read(add(), &[1, 2]);
        assert_eq!(sum.then(dense(2)).lost(), [0, 0, 0, 0]);
        let unread_input = Net::new(4, 4, 3).then(three()).ignore(1).then(dense(2));
        assert_eq!(unread_input.lost(), [0, 0]);
    }

    #[test]
    fn every_reader_must_agree() {
        let branches = |padding| {
            let first = conv(2, 1, Padding::Valid, Activation::None);
            let second = conv(2, 3, padding, Activation::None);
            let net = one_constant().read(first, &[1]).read(second, &[1]);
            let net = net.read(Layer::GlobalAvgPool2d, &[2]);
            let net = net.read(Layer::GlobalAvgPool2d, &[3]);
            net.read(add(), &[4, 5]).lost()
        };
        assert_eq!(branches(Padding::Valid), [1, 0, 0, 0, 0, 0]);
        assert_eq!(branches(Padding::Same), [0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_nobody_reads_goes_and_takes_along_what_only_it_reads() {
        let same = || conv(3, 3, Padding::Same, Activation::Relu);
        let unread = Net::new(7, 6, 2).then(three()).then(same()).ignore(1);
        assert_eq!(unread.then(dense(2)).lost(), [1, 0, 0]);
        // Without filter 1, nobody reads channel 2 of the first layer.
        let mut chain = Net::new(7, 6, 2).then(three()).then(same());
        let (weights, ..) = chain.newest();
        let first = weights.iter_mut().enumerate();
        let others = first.filter(|(index, _)| index / 27 != 1 && index % 3 == 2);
        others.for_each(|(_, weight)| *weight = 0);
        assert_eq!(chain.then(dense(2)).ignore(1).lost(), [1, 1, 0]);
    }

    #[test]
    fn one_channel_is_always_left() {
        let net = (0..3).fold(one_constant(), |net, channel| net.constant(channel, STEP));
        assert_eq!(net.then(dense(2)).lost(), [2, 0]);
    }

    #[test]
    fn a_bias_at_its_limit_takes_nothing_in() {
        for limit in [MAX_BIAS, -MAX_BIAS] {
            let net = one_constant().then(dense(2)).bias(0, limit);
            assert_eq!(net.lost(), [0, 0]);
        }
    }

    #[test]
    fn a_sum_that_wraps_is_not_bounded() {
        // Both ends of its range become 127, or both -128, but not all between.
        let mut net = Net::new(7, 6, 2).then(three()).bias(1, -NEGATIVE);
        if let Block::Conv { factors, .. } = &mut net.layers[0].block {
            factors[1] = Multiplier::new(1 << 30, 31).unwrap();
        }
        assert_eq!(net.then(dense(2)).lost(), [0, 0]);
    }

    #[test]
    fn a_network_that_does_not_fit_together_is_left_to_the_writer() {
        let mut file = one_constant().then(dense(2)).file();
        file.layers[1].node.sources = Sources::One(7);
        assert_eq!(remove_dead_channels(&mut file), [0, 0]);
        let mut file = one_constant().then(dense(2)).file();
        file.layers[1].block = Block::None;
        assert_eq!(remove_dead_channels(&mut file), [0, 0]);
    }
}
