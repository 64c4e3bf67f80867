//! The model file, `model.esp`: a fixed header, a postcard descriptor and an
//! aligned section of weights that is read in place.
//!
//! `docs/format.md` describes every byte. [`Model::parse`] is the only way to a
//! [`Model`] and does every check, so that an inference behind it cannot fail.
//! The writer in the trainer uses the same types and size functions.

mod error;
mod format;
mod parse;

use heapless::Vec;

use crate::arith::{Clamp, Multiplier};
use crate::golden::Golden;
use crate::kernels::add::AddFactors;
use crate::kernels::channels::{Channels, Units};
use crate::kernels::coded::Coded;
use crate::kernels::lanes::Lanes;
use crate::kernels::softmax::SoftmaxFactor;
use crate::kernels::sparse::Sparse;
use crate::kernels::{ConvParams, DenseParams, DepthwiseParams, DepthwiseWeights, Weights};
use crate::layer::{Layer, ParamShape, Shape};
use crate::plan::MAX_TENSORS;

pub use error::ParseError;
pub use format::*;

/// One tensor of a parsed model.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Shape.
    pub shape: Shape,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero_point: i8,
    /// Offset in the arena, in bytes.
    pub offset: u32,
}

impl Tensor {
    pub(crate) fn range(&self) -> core::ops::Range<usize> {
        let start = self.offset as usize;
        start..start + self.shape.len()
    }
}

/// One layer of a parsed model.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Definition.
    pub layer: Layer,
    /// Tensors it reads; a layer with one input names it twice.
    pub inputs: [u8; 2],
    /// Tensor it writes.
    pub output: u8,
    /// Range of its output.
    pub clamp: Clamp,
    /// How its parameters lie in its block.
    pub layout: Layout,
    /// Offset of its block in the file.
    pub block: u32,
    /// Where what it writes lies in the arena, and its kernel's scratch.
    pub place: Place,
}

/// Contents of a layer's block.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Of a convolution.
    Conv(ConvParams<'a>),
    /// Of a depthwise convolution.
    Depthwise(DepthwiseParams<'a>),
    /// Of a dense layer.
    Dense(DenseParams<'a>),
    /// Factors of an addition.
    Add(AddFactors),
    /// Factor of a softmax.
    Softmax(SoftmaxFactor),
    /// Nothing.
    None,
}

/// How a picture becomes an input.
#[derive(Clone, Copy, Debug)]
pub struct Preprocessing {
    /// Shape of the input.
    pub shape: Shape,
    /// What was done to pictures of another size.
    pub resize: Resize,
}

impl Preprocessing {
    /// Pixel bytes to input: `q = pixel - 128`. The training's normalisation is
    /// in the input's scale and zero point, so this holds for every model.
    /// Stops at the end of the shorter slice.
    pub fn quantise(&self, pixels: &[u8], input: &mut [i8]) {
        for (q, &pixel) in input.iter_mut().zip(pixels) {
            *q = (pixel ^ 0x80) as i8;
        }
    }
}

/// A model whose every byte has been checked.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    file: &'a [u8],
    head: Head,
    input_place: Place,
    /// The class names and the layers, as the descriptor has them. Layers are
    /// decoded again whenever they are walked: that costs little, and a table of
    /// them would cost more RAM than a small chip has.
    names: &'a [u8],
    nodes: &'a [u8],
    /// The tensor that [`Model::logits`] gives.
    logits: u8,
    confidence: Option<Confidence>,
    weights_start: u32,
    tensors: Vec<Tensor, MAX_TENSORS>,
    /// Bit `i` is set where tensor `i` is never stored: a convolution's output
    /// of which a fused pool keeps the largest elements.
    unstored: u128,
    arena_bytes: u32,
    golden: Golden<'a>,
}

impl<'a> Model<'a> {
    /// The file, from its first byte to its last.
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        self.file.len()
    }

    /// Bytes of arena that an inference needs, those included that are skipped
    /// where it does not start at a multiple of 4.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes as usize
    }

    /// Whether tensor `index` exists as a whole: not where its layer, a
    /// convolution, is computed together with the max pool behind it.
    pub fn is_stored(&self, index: u8) -> bool {
        self.unstored >> index & 1 == 0
    }

    /// Layers in the order in which they run.
    pub fn steps(&self) -> Steps<'_> {
        Steps {
            model: self,
            nodes: self.nodes,
            layer: 0,
            block: self.weights_start,
        }
    }

    /// Tensor `index`: 0 is the input, `i + 1` the output of layer `i`. One that
    /// does not exist has one element.
    pub fn tensor(&self, index: u8) -> &Tensor {
        const NONE: &Tensor = &Tensor {
            shape: Shape::ONE,
            scale: 1.0,
            zero_point: 0,
            offset: 0,
        };
        self.tensors.get(usize::from(index)).unwrap_or(NONE)
    }

    /// The tensor that goes in.
    pub fn input(&self) -> &Tensor {
        self.tensor(0)
    }

    /// The tensor that comes out.
    pub fn output(&self) -> &Tensor {
        self.tensor(self.head.layer_count)
    }

    /// The tensor of what is computed for each class: the output, or where a softmax
    /// comes last, what that reads.
    pub fn logits(&self) -> &Tensor {
        self.tensor(self.logits)
    }

    /// Shape that goes in.
    pub fn input_shape(&self) -> Shape {
        self.input().shape
    }

    /// Shape that comes out.
    pub fn output_shape(&self) -> Shape {
        self.output().shape
    }

    /// Names of the classes in the order of the outputs; none where the file
    /// has none.
    pub fn class_names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.names;
        core::iter::from_fn(move || {
            let (name, left) = postcard::take_from_bytes(rest).ok()?;
            rest = left;
            Some(name)
        })
    }

    /// When it is sure enough to answer; always, where there is nothing.
    pub fn confidence(&self) -> Option<Confidence> {
        self.confidence
    }

    /// How a picture becomes an input.
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing {
            shape: self.head.input,
            resize: self.head.resize,
        }
    }

    /// Self-test vectors.
    pub fn golden(&self) -> Golden<'a> {
        self.golden
    }

    /// Shape of the parameters of a layer.
    pub fn params(&self, step: &Step) -> Option<ParamShape> {
        step.layer.params(self.tensor(step.inputs[0]).shape)
    }

    /// Multiply-accumulates of a layer.
    pub fn macs(&self, step: &Step) -> u64 {
        let shape = |index| self.tensor(index).shape;
        step.layer.macs(shape(step.inputs[0]), shape(step.output))
    }

    /// Contents of a layer's block.
    pub fn data(&self, step: &Step) -> Data<'a> {
        let input = self.tensor(step.inputs[0]).shape;
        let start = step.block as usize;
        let bytes = start..start + block_bytes(&step.layer, step.layout, input);
        let block = self.file.get(bytes).unwrap_or_default();
        if let Some(shape) = step.layer.params(input) {
            return split_params(&step.layer, step.layout, block, shape);
        }
        let (words, _) = block.as_chunks::<4>();
        let factor = |index: usize| {
            let word = |i: usize| words.get(i).copied().unwrap_or_default();
            let [mantissa, shift] = [0, 1].map(|i| i32::from_le_bytes(word(2 * index + i)));
            Multiplier::trusted(mantissa, shift as i8)
        };
        match step.layer {
            Layer::Add(_) => Data::Add(AddFactors {
                a: factor(0),
                b: factor(1),
                output: factor(2),
            }),
            Layer::Softmax => Data::Softmax(SoftmaxFactor(factor(0))),
            _ => Data::None,
        }
    }
}

/// The layers of a model in the order in which they run.
#[derive(Clone, Debug)]
pub struct Steps<'m> {
    model: &'m Model<'m>,
    nodes: &'m [u8],
    layer: u8,
    block: u32,
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        // Parse has decoded each of them, so this ends behind the last one.
        let (described, rest) = take_described(self.nodes).ok()?;
        let step = Step::new(&described, self.layer, self.block);
        let input = self.model.tensor(step.inputs[0]).shape;
        self.nodes = rest;
        self.layer += 1;
        self.block = block_end(self.block, &step.layer, step.layout, input);
        Some(step)
    }
}

/// What the descriptor says of a layer.
type Described = (Node, Layout, Place);

/// The next layer of the descriptor, and what follows it.
fn take_described(bytes: &[u8]) -> postcard::Result<(Described, &[u8])> {
    let (node, rest): (Node, _) = postcard::take_from_bytes(bytes)?;
    let (layout, rest) = match node.layer.has_params() {
        true => postcard::take_from_bytes(rest)?,
        false => (Layout::default(), rest),
    };
    let (place, rest) = postcard::take_from_bytes(rest)?;
    Ok(((node, layout, place), rest))
}

impl Step {
    fn new(&(node, layout, place): &Described, layer: u8, block: u32) -> Self {
        Self {
            layer: node.layer,
            inputs: match node.sources {
                Sources::One(a) => [a, a],
                Sources::Two(a, b) => [a, b],
            },
            output: layer + 1,
            clamp: clamp_of(node.layer.activation(), node.output),
            layout,
            block,
            place,
        }
    }
}

/// Cuts a block into its parts. The slices are as long as the shape says where
/// the block is, which [`Model::parse`] has checked.
fn split_params<'a>(layer: &Layer, layout: Layout, block: &'a [u8], shape: ParamShape) -> Data<'a> {
    let (bytes, rest) = split_at(block, weight_bytes(layer, layout.weights, shape));
    let weights = match layout.weights {
        WeightLayout::Dense => Weights::Lanes(Lanes::new(bytes, shape.fan_in)),
        WeightLayout::Sparse { .. } => {
            Weights::Sparse(Sparse::trusted(bytes, shape.channels, shape.fan_in))
        }
        WeightLayout::Coded { .. } => Weights::Coded(Coded::trusted(bytes, shape)),
    };
    let count = shape.channels.next_multiple_of(2);
    let (words, rest) = split_at(rest, 4 * count);
    let words = words.as_chunks().0;
    let is_compact = layout.channels == ChannelLayout::Compact;
    if matches!(layer, Layer::Dense(_)) {
        let units = if is_compact {
            Units::Compact(words)
        } else {
            Units::Wide {
                bias: words,
                factors: rest.as_chunks().0,
            }
        };
        return Data::Dense(DenseParams { weights, units });
    }
    let channels = if is_compact {
        Channels::Compact(words)
    } else {
        let (mantissas, shifts) = split_at(rest, 4 * count);
        Channels::Wide {
            bias: words,
            mantissas: mantissas.as_chunks().0,
            shifts: bytemuck::cast_slice(shifts),
        }
    };
    if matches!(layer, Layer::DepthwiseConv2d(_)) {
        let weights = match weights {
            Weights::Coded(weights) => DepthwiseWeights::Coded(weights),
            _ => DepthwiseWeights::Plain(bytemuck::cast_slice(split_at(bytes, shape.weights()).0)),
        };
        return Data::Depthwise(DepthwiseParams { weights, channels });
    }
    Data::Conv(ConvParams { weights, channels })
}

fn split_at(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}
