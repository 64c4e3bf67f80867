//! Models for tests: a fixed one that has every layer kind, and random ones.

use std::num::{NonZeroU8, NonZeroU16};

use espalier::network::NetworkSpec;
use espalier::quantise::{Block, ModelFile, WrittenLayer, factor};
use shared::Model;
use shared::arith::{MAX_BIAS, Multiplier};
use shared::kernels::Storage;
use shared::kernels::add::AddFactors;
use shared::layer::{
    Activation, Add, Conv2d, Dense, DepthwiseConv2d, Layer, Padding, ParamShape, Pool2d, Shape,
    Size2,
};
use shared::model::{ChannelLayout, Node, Quant, Resize, SOFTMAX_QUANT, Sources};

/// A model of every layer kind, with a residual, flattened tensors, class names
/// and two self-test vectors.
pub fn every_kind() -> ModelFile {
    let mut network = Builder::new(7, shape(6, 6, 2));
    let conv = network.push(conv2d(4, 3, Padding::Same), &[0]);
    network.push(depthwise(2, 3, Padding::Valid), &[conv]);
    let wide = network.push(pool(Layer::AvgPool2d, 2, Padding::Same), &[2]);
    let narrow = network.push(conv2d(8, 1, Padding::Valid), &[wide]);
    network.push(add(Activation::Relu), &[wide, narrow]);
    let small = network.push(pool(Layer::MaxPool2d, 2, Padding::Valid), &[5]);
    let flat = network.push(Layer::Flatten, &[small]);
    let mean = network.push(Layer::GlobalAvgPool2d, &[small]);
    let from_flat = network.push(dense(3, Activation::Relu6), &[flat]);
    let from_mean = network.push(dense(3, Activation::None), &[mean]);
    let sum = network.push(add(Activation::None), &[from_flat, from_mean]);
    network.push(Layer::Softmax, &[sum]);
    let classes = ["cat", "", "ein Name mit Umlaut: ä"];
    ModelFile {
        classes: classes.map(str::to_owned).to_vec(),
        golden: 2,
        ..network.finish(Resize::Crop)
    }
}

/// The complete example of `docs/format.md`: one dense layer and its two
/// classes.
pub fn documented() -> ModelFile {
    let node = Node {
        layer: dense(2, Activation::Relu),
        sources: Sources::One(0),
        output: Quant {
            scale: 0.5,
            zero_point: -128,
        },
    };
    let block = Block::Dense {
        weights: vec![1, 2, 3, 4, 5, -1, -2, -3, -4, -5],
        bias: vec![100, -1],
        factors: vec![0.5, 0.25],
    };
    ModelFile {
        input: shape(1, 5, 1),
        input_quant: Quant {
            scale: 0.25,
            zero_point: -1,
        },
        resize: Resize::Stretch,
        classes: vec!["no".into(), "yes".into()],
        layers: vec![WrittenLayer {
            node,
            block,
            storage: Storage::Dense,
            channels: ChannelLayout::Wide,
        }],
        golden: 1,
    }
}

/// A valid model of `layers` random layers and what it takes to join their
/// loose ends; the same one for the same arguments. Keep `layers` at most 16.
pub fn random(seed: u64, layers: usize) -> ModelFile {
    let mut random = Random::new(seed);
    let mut up_to = |most| 1 + random.below(most);
    let input = shape(up_to(9), up_to(9), up_to(5));
    let mut network = Builder::new(random.number(), input);
    for _ in 0..layers.max(1) {
        network.push_random();
    }
    network.join_loose_ends();
    let outputs = network.last().shape.len();
    let classes = match network.random.below(2) {
        0 if outputs <= 100 => (0..outputs).map(|_| network.random.name()).collect(),
        _ => Vec::new(),
    };
    let golden = network.random.below(4) as u8;
    let resize = *network
        .random
        .pick(&[Resize::Exact, Resize::Stretch, Resize::Crop]);
    ModelFile {
        classes,
        golden,
        ..network.finish(resize)
    }
}

/// A random network of the shapes that fast kernels are made for, mostly with the
/// factors of a trained one: a convolution with a max pool of 2x2 behind it, a
/// residual of a depthwise and a pointwise one, another convolution and a dense
/// layer; the same one for the same seed.
pub fn convolutions(seed: u64) -> ModelFile {
    let mut random = Random::new(seed ^ 0x00C0_FFEE);
    let mut side = || 5 + random.below(6);
    let (height, width) = (side(), side());
    let channels = 1 + random.below(7);
    let mut conv = |filters: usize, kernel: (usize, usize), padding: Padding| {
        Layer::Conv2d(Conv2d {
            filters: units(filters),
            kernel: size(kernel.0, kernel.1),
            stride: Size2::ONE,
            padding,
            activation: random.activation(),
        })
    };
    let paddings = [Padding::Valid, Padding::Same];
    let mut dice = Random::new(seed ^ 0xD1CE);
    let mut kernel = || (1 + dice.below(3), 1 + dice.below(3));
    let (first, second) = (kernel(), kernel());
    // Some have more taps than are summed up at once.
    let filters = *dice.pick(&[1, 3, 4, 7, 8, 12, 36]);
    let first = conv(filters, first, *dice.pick(&paddings));
    let point = conv(filters, (1, 1), Padding::Valid);
    let second = conv(1 + dice.below(9), second, Padding::Same);
    let mut network = Builder::new(dice.number(), shape(height, width, channels));
    network.push(first, &[0]);
    let pooled = network.push(pool(Layer::MaxPool2d, 2, Padding::Valid), &[1]);
    let kernel = *dice.pick(&[3, 3, 3, 2]);
    let depthwise = network.push(depthwise(1, kernel, Padding::Same), &[pooled]);
    let point = network.push(point, &[depthwise]);
    let sum = network.push(add(Activation::Relu), &[pooled, point]);
    let last = network.push(second, &[sum]);
    network.push(dense(1 + dice.below(7), Activation::None), &[last]);
    if dice.below(4) > 0 {
        network.calm_factors();
    }
    network.finish(Resize::Exact)
}

/// A chain of random convolutions, pools and dense layers, with the factors of
/// a trained network and no addition; the same one for the same seed.
pub fn sequence(seed: u64) -> ModelFile {
    let mut random = Random::new(seed ^ 0x5E9);
    let input = shape(
        6 + random.below(5),
        6 + random.below(5),
        1 + random.below(4),
    );
    let layers = 3 + random.below(5);
    let mut network = Builder::new(random.number(), input);
    for source in 0..layers {
        let mut layer = network.random_layer(network.last().shape);
        while matches!(layer, Layer::Add(_) | Layer::Softmax) {
            layer = network.random_layer(network.last().shape);
        }
        network.push(layer, &[source]);
    }
    network.push(dense(1 + random.below(9), Activation::None), &[layers]);
    network.calm_factors();
    network.finish(Resize::Exact)
}

/// A chain of 1x1 convolutions over one pixel, whose tensors have these sizes.
pub fn chain(sizes: &[u16]) -> ModelFile {
    let mut network = Builder::new(1, shape(1, 1, sizes[0].into()));
    for (source, &filters) in sizes[1..].iter().enumerate() {
        network.push(conv2d(filters, 1, Padding::Valid), &[source]);
    }
    network.finish(Resize::Exact)
}

fn shape(height: usize, width: usize, channels: usize) -> Shape {
    Shape::new(height, width, channels).expect("small enough")
}

fn size(height: usize, width: usize) -> Size2 {
    Size2::new(height as u8, width as u8).expect("not 0")
}

fn units(count: usize) -> NonZeroU16 {
    NonZeroU16::new(count as u16).expect("not 0")
}

fn conv2d(filters: u16, kernel: usize, padding: Padding) -> Layer {
    Layer::Conv2d(Conv2d {
        filters: units(filters.into()),
        kernel: size(kernel, kernel),
        stride: Size2::ONE,
        padding,
        activation: Activation::Relu,
    })
}

fn depthwise(multiplier: u8, kernel: usize, padding: Padding) -> Layer {
    Layer::DepthwiseConv2d(DepthwiseConv2d {
        multiplier: NonZeroU8::new(multiplier).expect("not 0"),
        kernel: size(kernel, kernel),
        stride: Size2::ONE,
        padding,
        activation: Activation::None,
    })
}

fn pool(kind: fn(Pool2d) -> Layer, kernel: usize, padding: Padding) -> Layer {
    kind(Pool2d {
        kernel: size(kernel, kernel),
        stride: None,
        padding,
        activation: Activation::None,
    })
}

fn dense(count: usize, activation: Activation) -> Layer {
    Layer::Dense(Dense {
        units: units(count),
        activation,
    })
}

fn add(activation: Activation) -> Layer {
    Layer::Add(Add { activation })
}

/// Numbers from a seed: Vigna's `splitmix64`.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// One of a few.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// `count` int8 values, now and then all of them an extreme.
    pub fn bytes(&mut self, count: usize) -> Vec<i8> {
        match self.below(8) {
            0 => vec![*self.pick(&[i8::MIN, -127, 0, i8::MAX]); count],
            _ => (0..count).map(|_| self.number() as i8).collect(),
        }
    }

    /// Weights, -127 to 127, sometimes all the same.
    fn weights(&mut self, count: usize) -> Vec<i8> {
        let bytes = self.bytes(count).into_iter();
        bytes.map(|byte| byte.max(-127)).collect()
    }

    fn name(&mut self) -> String {
        let letter = *self.pick(&["a", "ß", "字"]);
        letter.repeat(self.below(64 / letter.len() + 1))
    }

    fn activation(&mut self) -> Activation {
        *self.pick(&[Activation::None, Activation::Relu, Activation::Relu6])
    }

    fn quant(&mut self) -> Quant {
        let extremes = [f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, 6.0 / 255.0];
        Quant {
            scale: match self.below(4) {
                0 => *self.pick(&extremes),
                _ => (1 + self.below(1000)) as f32 / 3000.0,
            },
            zero_point: match self.below(3) {
                0 => *self.pick(&[i8::MIN, 0, i8::MAX]),
                _ => self.number() as i8,
            },
        }
    }

    fn bias(&mut self) -> i32 {
        match self.below(4) {
            0 => *self.pick(&[-MAX_BIAS, 0, MAX_BIAS]),
            _ => self.below(20_000) as i32 - 10_000,
        }
    }

    /// A factor with a shift in `smallest..=largest`, half of the time one that
    /// leaves small accumulators inside int8.
    fn multiplier(&mut self, smallest: i32, largest: i32) -> Multiplier {
        let mantissa = match self.below(4) {
            0 => *self.pick(&[0, 1 << 30, i32::MAX]),
            _ => (1 << 30) + self.below(1 << 30) as i32,
        };
        let shift = match self.below(2) {
            0 => smallest + self.below((largest - smallest + 1) as usize) as i32,
            _ => (-8).clamp(smallest, largest),
        };
        Multiplier::new(mantissa, shift).expect("in range")
    }

    fn factor(&mut self) -> f64 {
        let extremes = [
            0.0,
            -0.0,
            f64::from_bits(1),
            f64::MIN_POSITIVE,
            1e300,
            f64::MAX,
        ];
        match self.below(4) {
            0 => *self.pick(&extremes),
            _ => self.below(1000) as f64 / 50_000.0,
        }
    }

    fn conv_block(&mut self, params: ParamShape) -> Block {
        Block::Conv {
            weights: self.weights(params.weights()),
            bias: (0..params.channels).map(|_| self.bias()).collect(),
            factors: (0..params.channels)
                .map(|_| self.multiplier(-31, 31))
                .collect(),
        }
    }

    fn dense_block(&mut self, params: ParamShape) -> Block {
        Block::Dense {
            weights: self.weights(params.weights()),
            bias: (0..params.channels).map(|_| self.bias()).collect(),
            factors: (0..params.channels).map(|_| self.factor()).collect(),
        }
    }
}

#[derive(Clone, Copy)]
struct Tensor {
    shape: Shape,
    quant: Quant,
    read: bool,
}

/// A network that grows layer by layer. A tensor is named by its index, as in
/// the file.
struct Builder {
    random: Random,
    tensors: Vec<Tensor>,
    layers: Vec<WrittenLayer>,
}

impl Builder {
    fn new(seed: u64, input: Shape) -> Self {
        let mut random = Random::new(seed);
        let quant = random.quant();
        Self::with_quant(random, input, quant)
    }

    fn with_quant(random: Random, input: Shape, quant: Quant) -> Self {
        Self {
            random,
            tensors: vec![Tensor {
                shape: input,
                quant,
                read: false,
            }],
            layers: Vec::new(),
        }
    }

    fn last(&self) -> Tensor {
        self.tensors[self.tensors.len() - 1]
    }

    /// Adds a layer, with random parameters, and names its output.
    fn push(&mut self, layer: Layer, sources: &[usize]) -> usize {
        let input = self.tensors[sources[0]];
        let output = match layer {
            Layer::Softmax => SOFTMAX_QUANT,
            Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) | Layer::Dense(_) | Layer::Add(_) => {
                self.random.quant()
            }
            _ => input.quant,
        };
        let block = self.block(&layer, input.shape);
        self.place(layer, sources, output, block)
    }

    /// Adds a layer with these parameters, and names its output.
    fn place(&mut self, layer: Layer, sources: &[usize], output: Quant, block: Block) -> usize {
        let shapes: Vec<Shape> = sources.iter().map(|&s| self.tensors[s].shape).collect();
        let shape = layer.output_shape(&shapes).expect("the layer fits");
        let node = Node {
            layer,
            sources: match *sources {
                [a, b] => Sources::Two(a as u8, b as u8),
                _ => Sources::One(sources[0] as u8),
            },
            output,
        };
        self.layers.push(WrittenLayer {
            node,
            block,
            storage: Storage::Dense,
            channels: ChannelLayout::Wide,
        });
        for &source in sources {
            self.tensors[source].read = true;
        }
        self.tensors.push(Tensor {
            shape,
            quant: output,
            read: false,
        });
        self.tensors.len() - 1
    }

    /// Gives all convolutions small biases and factors below 1/2.
    fn calm_factors(&mut self) {
        for layer in &mut self.layers {
            if let Block::Conv { bias, factors, .. } = &mut layer.block {
                bias.iter_mut().for_each(|bias| *bias %= 1 << 13);
                factors
                    .iter_mut()
                    .for_each(|factor| *factor = self.random.multiplier(-10, -6));
            }
        }
    }

    fn block(&mut self, layer: &Layer, input: Shape) -> Block {
        let random = &mut self.random;
        match (layer, layer.params(input)) {
            (Layer::Dense(_), Some(params)) => random.dense_block(params),
            (_, Some(params)) => random.conv_block(params),
            (Layer::Add(_), _) => Block::Add(AddFactors {
                a: random.multiplier(-31, 0),
                b: random.multiplier(-31, 0),
                output: random.multiplier(-31, 31),
            }),
            (Layer::Softmax, _) => Block::Softmax(random.multiplier(0, 31)),
            _ => Block::None,
        }
    }

    /// Adds a random layer to the newest tensor or to an older one.
    fn push_random(&mut self) {
        let source = match self.random.below(3) {
            0 => self.random.below(self.tensors.len()),
            _ => self.tensors.len() - 1,
        };
        let input = self.tensors[source].shape;
        let layer = self.random_layer(input);
        if matches!(layer, Layer::Add(_)) {
            let second = self.tensor_of_shape(input);
            self.push(layer, &[source, second]);
        } else {
            self.push(layer, &[source]);
        }
    }

    /// A layer that takes this input and does not let it grow without end.
    fn random_layer(&mut self, input: Shape) -> Layer {
        let random = &mut self.random;
        let padding = *random.pick(&[Padding::Valid, Padding::Same]);
        // Under `same` padding a window may be larger than its input.
        let mut side = |length: usize| match padding {
            Padding::Valid => 1 + random.below(length.min(5)),
            Padding::Same => 1 + random.below(5),
        };
        let kernel = size(side(input.height()), side(input.width()));
        let stride = size(1 + random.below(4), 1 + random.below(4));
        let activation = random.activation();
        let pool = Pool2d {
            kernel,
            stride: (random.below(2) == 0).then_some(stride),
            padding,
            activation,
        };
        match random.below(11) {
            0 | 1 => Layer::Conv2d(Conv2d {
                filters: units(1 + random.below(8)),
                kernel,
                stride,
                padding,
                activation,
            }),
            2 | 3 => Layer::DepthwiseConv2d(DepthwiseConv2d {
                multiplier: match input.channels() {
                    1..16 => NonZeroU8::MIN.saturating_add(random.below(3) as u8),
                    _ => NonZeroU8::MIN,
                },
                kernel,
                stride,
                padding,
                activation,
            }),
            4 => dense(1 + random.below(12), activation),
            5 => Layer::MaxPool2d(pool),
            6 => Layer::AvgPool2d(pool),
            7 => Layer::GlobalAvgPool2d,
            8 => add(activation),
            9 => Layer::Flatten,
            _ => Layer::Softmax,
        }
    }

    /// Any tensor of this shape; there is at least one.
    fn tensor_of_shape(&mut self, shape: Shape) -> usize {
        let same = |&t: &usize| self.tensors[t].shape == shape;
        let found: Vec<usize> = (0..self.tensors.len()).filter(same).collect();
        *self.random.pick(&found)
    }

    /// Brings every tensor that nobody reads to one size and sums them up, so
    /// that only the last one is left.
    fn join_loose_ends(&mut self) {
        let loose: Vec<usize> = (0..self.tensors.len())
            .filter(|&t| !self.tensors[t].read)
            .collect();
        if let [_] = *loose {
            return;
        }
        let count = 1 + self.random.below(6);
        let ends: Vec<usize> = loose
            .iter()
            .map(|&tensor| self.push(dense(count, Activation::None), &[tensor]))
            .collect();
        ends.into_iter()
            .reduce(|a, b| self.push(add(Activation::None), &[a, b]));
    }

    fn finish(self, resize: Resize) -> ModelFile {
        ModelFile {
            input: self.tensors[0].shape,
            input_quant: self.tensors[0].quant,
            resize,
            classes: Vec::new(),
            layers: self.layers,
            golden: 0,
        }
    }
}

/// Root mean square of the int8 values of every tensor of a [`plausible`]
/// model, less their zero point.
const RMS: f64 = 74.0;

/// Scale of the tensors of a [`plausible`] model.
const SCALE: f32 = 1.0 / 16.0;

/// A preset's network over this input, with [`plausible`] parameters.
pub fn preset(name: &str, input: Shape, classes: usize) -> ModelFile {
    let network = NetworkSpec::preset(name).build(input, classes);
    let network = network.expect("the preset takes this input");
    let nodes = network.nodes.iter();
    let nodes = nodes.map(|node| (node.layer, node.inputs.as_slice()));
    plausible(input, nodes)
}

/// One layer as a network, with [`plausible`] parameters.
pub fn single(input: Shape, layer: Layer) -> ModelFile {
    plausible(input, [(layer, &[0][..])])
}

/// Layers, and the tensors that each reads, with parameters that cost what
/// those of a trained network cost: outputs spread over int8, those behind a
/// ReLU have zero point -128, and the factors of convolutions are below 1/2.
/// The same model for the same arguments.
pub fn plausible<'a>(
    input: Shape,
    nodes: impl IntoIterator<Item = (Layer, &'a [usize])>,
) -> ModelFile {
    let quant = Quant {
        scale: SCALE,
        zero_point: -1,
    };
    let mut network = Builder::with_quant(Random::new(1), input, quant);
    for (layer, sources) in nodes {
        let inputs: Vec<Tensor> = sources.iter().map(|&s| network.tensors[s]).collect();
        let output = plausible_quant(&layer, &inputs);
        let block = plausible_block(&mut network.random, &layer, &inputs, output);
        network.place(layer, sources, output, block);
    }
    network.finish(Resize::Exact)
}

fn plausible_quant(layer: &Layer, inputs: &[Tensor]) -> Quant {
    let zero_point = match layer.activation() {
        Activation::None => 0,
        Activation::Relu | Activation::Relu6 => i8::MIN,
    };
    let scale = match layer {
        Layer::Softmax => return SOFTMAX_QUANT,
        Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) | Layer::Dense(_) => SCALE,
        Layer::Add(_) => 1.5 * inputs[0].quant.scale,
        _ => return inputs[0].quant,
    };
    Quant { scale, zero_point }
}

fn plausible_block(random: &mut Random, layer: &Layer, inputs: &[Tensor], output: Quant) -> Block {
    let scale = |index: usize| inputs[index].quant.scale;
    match (layer, layer.params(inputs[0].shape)) {
        (_, Some(params)) => plausible_weights(random, layer, params),
        (Layer::Add(_), _) => {
            let factors = factor::add(scale(0), scale(1), output.scale);
            Block::Add(factors.expect("the scales are near each other"))
        }
        (Layer::Softmax, _) => {
            let factor = factor::softmax(scale(0));
            Block::Softmax(factor.expect("the scale is not too small").0)
        }
        _ => Block::None,
    }
}

/// Weights spread evenly over int8, small biases, and factors around the one
/// that keeps [`RMS`].
fn plausible_weights(random: &mut Random, layer: &Layer, params: ParamShape) -> Block {
    let weight_rms = 127.0 / 3f64.sqrt();
    let accumulator_rms = weight_rms * RMS * (params.fan_in as f64).sqrt();
    // A ReLU takes half of the square sum away.
    let gain = match layer.activation() {
        Activation::None => 1.0,
        Activation::Relu | Activation::Relu6 => 2f64.sqrt(),
    };
    let middle = gain * RMS / accumulator_rms;
    let weights = (0..params.weights()).map(|_| (random.below(255) as i32 - 127) as i8);
    let weights = weights.collect();
    let limit = (accumulator_rms / 4.0) as usize;
    let bias = (0..params.channels).map(|_| random.below(2 * limit) as i32 - limit as i32);
    let bias = bias.collect();
    let factors = (0..params.channels).map(|_| middle * (750 + random.below(500)) as f64 / 1000.0);
    if matches!(layer, Layer::Dense(_)) {
        return Block::Dense {
            weights,
            bias,
            factors: factors.collect(),
        };
    }
    let factors = factors.map(|real| factor::multiplier(real).expect("positive and small"));
    Block::Conv {
        weights,
        bias,
        factors: factors.collect(),
    }
}

/// Sets each weight to 0 with a chance of `percent`; the same ones each time.
pub fn prune(model: &mut ModelFile, percent: usize) {
    let mut random = Random::new(2);
    for layer in &mut model.layers {
        if let Block::Conv { weights, .. } | Block::Dense { weights, .. } = &mut layer.block {
            let pruned = |_: &&mut i8| random.below(100) < percent;
            weights.iter_mut().filter(pruned).for_each(|w| *w = 0);
        }
    }
}

/// Lets each convolution and dense layer store only the weights that are not 0, of
/// which some or nearly none are left; the same ones for the same seed.
pub fn sparsen(mut model: ModelFile, seed: u64) -> ModelFile {
    let mut random = Random::new(seed ^ 0x59A2);
    for layer in &mut model.layers {
        let (Block::Conv { weights, bias, .. } | Block::Dense { weights, bias, .. }) =
            &mut layer.block
        else {
            continue;
        };
        layer.storage = match layer.node.layer {
            Layer::DepthwiseConv2d(_) => Storage::Dense,
            _ => Storage::Sparse,
        };
        let percent = *random.pick(&[0, 50, 90, 99, 100]);
        let pruned = |_: &&mut i8| random.below(100) < percent;
        weights.iter_mut().filter(pruned).for_each(|w| *w = 0);
        // The largest would not take what the zero point adds.
        bias.iter_mut().for_each(|bias| *bias /= 2);
    }
    model
}

/// Lets each layer with weights store them coded, rounded to few values, to many or
/// not at all, some of them mostly 0; the same ones for the same seed.
pub fn code(mut model: ModelFile, seed: u64) -> ModelFile {
    let mut random = Random::new(seed ^ 0xC0DE);
    for layer in &mut model.layers {
        let (Block::Conv { weights, .. } | Block::Dense { weights, .. }) = &mut layer.block else {
            continue;
        };
        layer.storage = Storage::Coded;
        share(weights, *random.pick(&[1, 2, 9, 18, 90, 127]));
        let percent = *random.pick(&[0, 0, 50, 90]);
        let pruned = |_: &&mut i8| random.below(100) < percent;
        weights.iter_mut().filter(pruned).for_each(|w| *w = 0);
    }
    model
}

/// Lets each layer with weights store its biases and factors compact, rounded to what a
/// word holds.
pub fn compact(mut model: ModelFile) -> ModelFile {
    for layer in &mut model.layers {
        let bias = match &mut layer.block {
            Block::Conv { bias, factors, .. } => {
                for factor in factors {
                    // One of 0 becomes the smallest.
                    let real = factor::compact(factor.to_f64());
                    let real = real.clamp(SMALLEST, LARGEST);
                    *factor = factor::multiplier(real).expect("it is small");
                }
                bias
            }
            Block::Dense { bias, factors, .. } => {
                for factor in factors {
                    *factor = factor::compact(factor.abs()).clamp(SMALLEST, LARGEST);
                }
                bias
            }
            _ => continue,
        };
        layer.channels = ChannelLayout::Compact;
        for bias in bias {
            *bias = i32::from(*bias as i16);
        }
    }
    model
}

/// The factors that a compact channel may have, 2^-32 and the last one below 1/2.
const SMALLEST: f64 = 1.0 / (1u64 << 32) as f64;
const LARGEST: f64 = 4095.0 / 8192.0;

/// Rounds weights to multiples of a number towards 0; of 18, to 15 values.
pub fn share(weights: &mut [i8], step: i8) {
    weights.iter_mut().for_each(|w| *w -= *w % step);
}

/// Makes about half of the output channels of each layer with weights constant,
/// by weights of 0 or a bias that saturates it, and lets each such layer ignore
/// about a quarter of its weights' columns; the same ones for the same seed.
pub fn deaden(model: &mut ModelFile, seed: u64) {
    let mut random = Random::new(seed ^ 0xDEAD);
    for layer in &mut model.layers {
        let depthwise = matches!(layer.node.layer, Layer::DepthwiseConv2d(_));
        let (weights, bias) = match &mut layer.block {
            Block::Conv { weights, bias, .. } | Block::Dense { weights, bias, .. } => {
                (weights, bias)
            }
            _ => continue,
        };
        let (outputs, fan_in) = (bias.len(), weights.len() / bias.len());
        let kinds: Vec<usize> = (0..outputs).map(|_| random.below(6)).collect();
        for (index, weight) in weights.iter_mut().enumerate() {
            let output = if depthwise {
                index % outputs
            } else {
                index / fan_in
            };
            if kinds[output] == 0 {
                *weight = 0;
            }
        }
        for (bias, kind) in bias.iter_mut().zip(kinds) {
            match kind {
                1 => *bias = -(1 << 24), // more than all products together
                2 => *bias = 1 << 24,
                _ => {}
            }
        }
        let ignored = (0..fan_in).filter(|_| !depthwise && random.below(4) == 0);
        for column in ignored.collect::<Vec<_>>() {
            weights
                .iter_mut()
                .skip(column)
                .step_by(fan_in)
                .for_each(|w| *w = 0);
        }
    }
}

/// Elements read by one inference, the measure of how long it takes.
pub fn cost(model: &Model) -> u64 {
    let shape = |tensor: u8| -> Shape { model.tensor(tensor).shape };
    let steps = model.steps().map(|step| {
        let window = step.layer.window(shape(step.inputs[0]));
        let area = window.map_or(1, |window| window.kernel.area());
        model.macs(&step) + (shape(step.output).len() * area) as u64
    });
    steps.sum()
}
