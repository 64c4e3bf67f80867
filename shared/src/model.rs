//! The model file, `model.esp`: a fixed header, a postcard descriptor and an
//! aligned section of weights that is read in place.
//!
//! `docs/format.md` describes every byte. [`Model::parse`] is the only way to a
//! [`Model`] and does every check, so that an inference behind it cannot fail.
//! The writer in the trainer uses the same types and size functions.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::arith::{Clamp, MAX_BIAS, Multiplier};
use crate::golden::Golden;
use crate::kernels::add::AddFactors;
use crate::kernels::softmax::SoftmaxFactor;
use crate::kernels::{ConvParams, DenseParams};
use crate::layer::{Activation, Layer, ParamShape, Shape, ShapeError};
use crate::plan::{self, Lifetime, MAX_TENSORS};

/// First bytes of every model file.
pub const MAGIC: [u8; 8] = *b"espalier";
/// The version this code reads and writes.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;
/// Where the CRC lies in the header.
pub const CRC_RANGE: core::ops::Range<usize> = 16..20;
/// Every block of the weight section starts at a multiple of this many bytes
/// from the start of the file.
pub const ALIGN: usize = 16;
/// Most layers in one model.
pub const MAX_LAYERS: usize = MAX_TENSORS - 1;
/// Longest class name in bytes.
pub const MAX_NAME: usize = 64;

const CRC: crc::Crc<u32, crc::NoTable> = crc::Crc::<u32, crc::NoTable>::new(&crc::CRC_32_ISO_HDLC);

/// How a picture of another size is brought to the size of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Not at all: another size is refused.
    #[default]
    Exact,
    /// Each side is scaled on its own.
    Stretch,
    /// The shorter side is scaled to fit, the longer one cut at both ends.
    Crop,
}

/// First value of the descriptor. `class_count` names and `layer_count`
/// [`Node`]s follow, each a postcard value of its own.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Shape of the input.
    pub input: Shape,
    /// Scale and zero point of the input.
    pub input_quant: Quant,
    /// What was done to pictures of another size.
    pub resize: Resize,
    /// Seed of the self-test inputs, see [`crate::golden`].
    pub golden_seed: u32,
    /// Number of self-test vectors.
    pub golden_count: u8,
    /// Number of class names: 0, or as many as the output has elements.
    pub class_count: u16,
    /// Number of layers, 1 to [`MAX_LAYERS`].
    pub layer_count: u8,
}

/// real = scale * (q - zero_point).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quant {
    /// Positive and finite.
    pub scale: f32,
    /// The int8 that stands for 0.
    pub zero_point: i8,
}

/// Which tensors a layer reads: 0 is the network's input, `i + 1` the output of
/// layer `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sources {
    /// One.
    One(u8),
    /// Two, for `Add`.
    Two(u8, u8),
}

/// One layer in the descriptor.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Definition.
    pub layer: Layer,
    /// What it reads.
    pub sources: Sources,
    /// Scale and zero point of what it writes.
    pub output: Quant,
}

/// Bytes of a layer's block in the weight section, before alignment.
///
/// | layer | block |
/// |---|---|
/// | `conv2d`, `depthwise_conv2d` | int8 weights, padded to 4; int32 biases; int32 mantissas; int8 shifts |
/// | `dense` | int8 weights, padded to 4; int32 biases; f64 factors |
/// | `add` | int32 mantissa and int32 shift for input a, input b, output |
/// | `softmax` | int32 mantissa and int32 shift of the input |
/// | others | nothing |
pub fn block_bytes(layer: &Layer, input: Shape) -> usize {
    let per_channel = match layer {
        Layer::Add(_) => return 24,
        Layer::Softmax => return 8,
        Layer::Dense(_) => 4 + 8,
        _ => 4 + 4 + 1,
    };
    layer.params(input).map_or(0, |params| {
        params.weights().next_multiple_of(4) + per_channel * params.channels
    })
}

/// Offset in the file at which the weight section starts.
pub fn weights_start(descriptor_bytes: usize) -> usize {
    (HEADER_BYTES + descriptor_bytes).next_multiple_of(ALIGN)
}

/// CRC-32 (ISO-HDLC, as in zip and PNG) of a file, its own four bytes left out.
pub fn crc32(file: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(file.get(..CRC_RANGE.start).unwrap_or_default());
    digest.update(file.get(CRC_RANGE.end..).unwrap_or_default());
    digest.finalize()
}

/// Why bytes are not a model that this engine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the header or than the header says.
    #[error("the file is cut off: {available} bytes of {needed}")]
    CutOff {
        /// Bytes the file should have.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// Not a model file.
    #[error("not a model file: it does not start with \"espalier\"")]
    Magic,
    /// Written by another version of espalier, as a rule a newer one.
    #[error("the file has format version {found} and this build reads version {VERSION}")]
    Version {
        /// Version in the file.
        found: u16,
    },
    /// A byte was changed after writing.
    #[error("the checksum is {found:#010x} and should be {stored:#010x}: the file is damaged")]
    Crc {
        /// In the header.
        stored: u32,
        /// Computed from the bytes.
        found: u32,
    },
    /// The descriptor cannot be decoded.
    #[error("the descriptor cannot be read at byte {offset} of the file")]
    Descriptor {
        /// Where the value starts that does not decode.
        offset: usize,
    },
    /// A reserved or padding byte is not zero, or bytes are left over.
    #[error("unexpected bytes at {offset}")]
    Stray {
        /// Where.
        offset: usize,
    },
    /// Class names do not match the output.
    #[error("{names} class names for {outputs} outputs")]
    Classes {
        /// Names in the file.
        names: usize,
        /// Elements of the output.
        outputs: usize,
    },
    /// A class name is longer than [`MAX_NAME`] bytes.
    #[error("class name {index} is longer than {MAX_NAME} bytes")]
    Name {
        /// Number of the class from 0.
        index: usize,
    },
    /// No layer, or more than [`MAX_LAYERS`].
    #[error("{count} layers; 1 to {MAX_LAYERS} are possible")]
    LayerCount {
        /// Layers in the file.
        count: usize,
    },
    /// A scale is not a positive number (tensor 0 is the input).
    #[error("tensor {tensor}: the scale is not a positive number")]
    Scale {
        /// Tensor.
        tensor: usize,
    },
    /// A layer reads a tensor that does not exist yet.
    #[error("layer {layer} reads a tensor that no earlier layer writes")]
    Source {
        /// Layer.
        layer: usize,
    },
    /// A layer does not take its input.
    #[error("layer {layer}: {error}")]
    Shape {
        /// Layer.
        layer: usize,
        /// Why.
        error: ShapeError,
    },
    /// A pool, flatten or softmax whose output scale is not the one it must be.
    #[error("layer {layer}: a {kind} cannot change the scale like this")]
    Rescale {
        /// Layer.
        layer: usize,
        /// Its kind.
        kind: &'static str,
    },
    /// A bias, mantissa or shift out of range.
    #[error("layer {layer}, channel {channel}: bias or multiplier out of range")]
    Parameter {
        /// Layer.
        layer: usize,
        /// Channel.
        channel: usize,
    },
    /// A tensor that nobody reads.
    #[error("tensor {tensor} is written and never read")]
    Unused {
        /// Tensor.
        tensor: usize,
    },
}

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
    /// Offset of its block in the file.
    pub block: u32,
}

/// Contents of a layer's block.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Of a convolution.
    Conv(ConvParams<'a>),
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
    names: &'a [u8],
    tensors: Vec<Tensor, MAX_TENSORS>,
    steps: Vec<Step, MAX_LAYERS>,
    arena_bytes: u32,
    golden: Golden<'a>,
}

impl<'a> Model<'a> {
    /// Checks everything: length, magic, version, checksum, descriptor, shapes,
    /// scales, parameter ranges, data flow; then computes the memory plan.
    ///
    /// `bytes` may be longer than the file, such as a whole flash region.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes)?;
        let file = header.file;
        let mut reader = Reader {
            file,
            offset: HEADER_BYTES,
            end: header.descriptor_end,
        };
        let head: Head = reader.value()?;
        let names = reader.names(head.class_count)?;
        let network = Network::read(&mut reader, &head)?;
        reader.finish()?;

        let output = network.output()?;
        let outputs = output.shape.len();
        if head.class_count != 0 && usize::from(head.class_count) != outputs {
            return Err(ParseError::Classes {
                names: head.class_count.into(),
                outputs,
            });
        }
        let golden_bytes = usize::from(head.golden_count) * outputs;
        let end = network.end + golden_bytes;
        if end != file.len() {
            return Err(ParseError::CutOff {
                needed: end,
                available: file.len(),
            });
        }
        let golden = Golden {
            seed: head.golden_seed,
            output_len: outputs,
            expected: bytemuck::cast_slice(file.get(network.end..).unwrap_or_default()),
        };
        let mut model = Self {
            file,
            head,
            names,
            tensors: network.tensors,
            steps: network.steps,
            arena_bytes: 0,
            golden,
        };
        model.check_parameters()?;
        model.place_tensors()?;
        Ok(model)
    }

    /// The file, from its first byte to its last.
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        self.file.len()
    }

    /// Bytes of arena that an inference needs.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes as usize
    }

    /// Layers in the order in which they run.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Tensor `index`: 0 is the input, `i + 1` the output of layer `i`.
    pub fn tensor(&self, index: u8) -> &Tensor {
        &self.tensors[usize::from(index)]
    }

    /// The tensor that goes in.
    pub fn input(&self) -> &Tensor {
        &self.tensors[0]
    }

    /// The tensor that comes out.
    pub fn output(&self) -> &Tensor {
        &self.tensors[self.tensors.len() - 1]
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
        let block = self.file.get(step.block as usize..).unwrap_or_default();
        if let Some(shape) = self.params(step) {
            return split_params(&step.layer, block, shape);
        }
        let (words, _) = block.as_chunks::<4>();
        let factor = |index: usize| {
            let word = |i: usize| words.get(i).copied().unwrap_or_default();
            Multiplier::trusted(
                word(2 * index),
                i32::from_le_bytes(word(2 * index + 1)) as i8,
            )
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

    fn check_parameters(&self) -> Result<(), ParseError> {
        for (layer, step) in self.steps.iter().enumerate() {
            let bias = |bias: i32| bias.unsigned_abs() <= MAX_BIAS as u32;
            let wrong = match self.data(step) {
                Data::Conv(params) => params
                    .channels()
                    .position(|(b, factor)| !(bias(b) && is_normal(factor))),
                Data::Dense(params) => params
                    .units()
                    .position(|(b, factor)| !(bias(b) && factor.is_finite() && factor >= 0.0)),
                Data::Add(_) | Data::Softmax(_) => self.wrong_pair(step),
                Data::None => None,
            };
            if let Some(channel) = wrong {
                return Err(ParseError::Parameter { layer, channel });
            }
        }
        Ok(())
    }

    /// The first pair of mantissa and shift, both whole words, out of range.
    fn wrong_pair(&self, step: &Step) -> Option<usize> {
        let bytes = block_bytes(&step.layer, self.tensor(step.inputs[0]).shape);
        let start = step.block as usize;
        let block = self.file.get(start..start + bytes).unwrap_or_default();
        let (pairs, _) = block.as_chunks::<8>();
        let in_range = |(index, &[a, b, c, d, e, f, g, h]): (usize, &[u8; 8])| {
            let mantissa = i32::from_le_bytes([a, b, c, d]);
            let shift = i32::from_le_bytes([e, f, g, h]);
            let side = match step.layer {
                // Both inputs are scaled down, so their sum fits.
                Layer::Add(_) if index < 2 => shift <= 0,
                Layer::Softmax => shift >= 0,
                _ => true,
            };
            side && Multiplier::new(mantissa, shift).is_some()
        };
        pairs.iter().enumerate().position(|pair| !in_range(pair))
    }

    /// Computes the plan. `Flatten` writes nothing: its output is its input.
    fn place_tensors(&mut self) -> Result<(), ParseError> {
        let mut lifetimes: Vec<Lifetime, MAX_TENSORS> = Vec::new();
        let mut owner: Vec<u8, MAX_TENSORS> = Vec::new();
        for (index, tensor) in self.tensors.iter().enumerate() {
            let flattened = index
                .checked_sub(1)
                .and_then(|layer| self.steps.get(layer))
                .filter(|step| step.layer == Layer::Flatten);
            let own = match flattened {
                Some(step) => owner[usize::from(step.inputs[0])],
                None => index as u8,
            };
            // Both have room for every tensor, so neither push is refused.
            let _ = owner.push(own);
            let _ = lifetimes.push(Lifetime {
                size: if flattened.is_some() {
                    0
                } else {
                    tensor.shape.len() as u32
                },
                first: index as u8,
                last: index as u8,
            });
        }
        let mut read = [false; MAX_TENSORS];
        for step in &self.steps {
            for input in step.inputs.map(usize::from) {
                read[input] = true;
                lifetimes[usize::from(owner[input])].last = step.output;
            }
        }
        let last = self.tensors.len() - 1;
        lifetimes[usize::from(owner[last])].last = last as u8 + 1;
        if let Some(tensor) = (0..last).find(|&tensor| !read[tensor]) {
            return Err(ParseError::Unused { tensor });
        }
        let plan = plan::plan(&lifetimes);
        for (tensor, &own) in self.tensors.iter_mut().zip(&owner) {
            tensor.offset = plan.offsets[usize::from(own)];
        }
        self.arena_bytes = plan.peak;
        Ok(())
    }
}

fn is_normal(factor: Multiplier) -> bool {
    Multiplier::new(factor.mantissa(), factor.shift().into()).is_some()
}

/// Cuts a block into its parts. The slices are as long as the shape says where
/// the block is, which [`Network::read`] has checked.
fn split_params<'a>(layer: &Layer, block: &'a [u8], shape: ParamShape) -> Data<'a> {
    let (weights, rest) = split_at(block, shape.weights().next_multiple_of(4));
    let (bias, rest) = split_at(rest, 4 * shape.channels);
    let weights = bytemuck::cast_slice(split_at(weights, shape.weights()).0);
    let bias = bias.as_chunks().0;
    if matches!(layer, Layer::Dense(_)) {
        let (factors, _) = split_at(rest, 8 * shape.channels);
        return Data::Dense(DenseParams {
            weights,
            bias,
            factors: factors.as_chunks().0,
        });
    }
    let (mantissas, rest) = split_at(rest, 4 * shape.channels);
    let (shifts, _) = split_at(rest, shape.channels);
    Data::Conv(ConvParams {
        weights,
        bias,
        mantissas: mantissas.as_chunks().0,
        shifts: bytemuck::cast_slice(shifts),
    })
}

fn split_at(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

struct Header<'a> {
    file: &'a [u8],
    descriptor_end: usize,
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let cut_off = |needed| ParseError::CutOff {
            needed,
            available: bytes.len(),
        };
        let seen = bytes.len().min(MAGIC.len());
        if bytes.get(..seen) != MAGIC.get(..seen) {
            return Err(ParseError::Magic);
        }
        let (header, _) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(cut_off(HEADER_BYTES))?;
        let [
            ..,
            v0,
            v1,
            r0,
            r1,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let found = u16::from_le_bytes([v0, v1]);
        if found != VERSION {
            return Err(ParseError::Version { found });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let file = bytes.get(..length).ok_or(cut_off(length))?;
        let stored = u32::from_le_bytes([c0, c1, c2, c3]);
        let found = crc32(file);
        if stored != found {
            return Err(ParseError::Crc { stored, found });
        }
        if [r0, r1] != [0, 0] {
            return Err(ParseError::Stray { offset: 10 });
        }
        let descriptor_end = (u32::from_le_bytes([d0, d1, d2, d3]) as usize)
            .checked_add(HEADER_BYTES)
            .filter(|&end| end <= length)
            .ok_or(ParseError::Descriptor { offset: 20 })?;
        Ok(Self {
            file,
            descriptor_end,
        })
    }
}

/// Reads the descriptor's values one after the other.
struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn value<T: Deserialize<'a>>(&mut self) -> Result<T, ParseError> {
        let error = ParseError::Descriptor {
            offset: self.offset,
        };
        let rest = self.file.get(self.offset..self.end).ok_or(error)?;
        let (value, left) = postcard::take_from_bytes(rest).map_err(|_| error)?;
        self.offset = self.end - left.len();
        Ok(value)
    }

    fn names(&mut self, count: u16) -> Result<&'a [u8], ParseError> {
        let start = self.offset;
        for index in 0..usize::from(count) {
            if self.value::<&str>()?.len() > MAX_NAME {
                return Err(ParseError::Name { index });
            }
        }
        Ok(self.file.get(start..self.offset).unwrap_or_default())
    }

    /// Nothing may be left but zeroes up to the weight section.
    fn finish(&self) -> Result<(), ParseError> {
        if self.offset != self.end {
            return Err(ParseError::Stray {
                offset: self.offset,
            });
        }
        let start = weights_start(self.end - HEADER_BYTES).min(self.file.len());
        check_zero(self.file, self.end..start)
    }
}

fn check_zero(file: &[u8], range: core::ops::Range<usize>) -> Result<(), ParseError> {
    let padding = file.get(range.clone()).unwrap_or_default();
    match padding.iter().position(|&byte| byte != 0) {
        Some(at) => Err(ParseError::Stray {
            offset: range.start + at,
        }),
        None => Ok(()),
    }
}

/// Layers and tensors with shapes, scales and blocks checked.
struct Network {
    tensors: Vec<Tensor, MAX_TENSORS>,
    steps: Vec<Step, MAX_LAYERS>,
    /// Offset behind the last block.
    end: usize,
}

impl Network {
    fn read(reader: &mut Reader, head: &Head) -> Result<Self, ParseError> {
        let count = usize::from(head.layer_count);
        if count == 0 || count > MAX_LAYERS {
            return Err(ParseError::LayerCount { count });
        }
        let mut network = Self {
            tensors: Vec::new(),
            steps: Vec::new(),
            end: weights_start(reader.end - HEADER_BYTES),
        };
        network.push_tensor(head.input, head.input_quant)?;
        for layer in 0..count {
            let node = reader.value()?;
            network.push_layer(reader.file, layer, node)?;
        }
        Ok(network)
    }

    fn output(&self) -> Result<&Tensor, ParseError> {
        self.tensors
            .last()
            .ok_or(ParseError::LayerCount { count: 0 })
    }

    fn push_tensor(&mut self, shape: Shape, quant: Quant) -> Result<(), ParseError> {
        let tensor = self.tensors.len();
        if !(quant.scale.is_finite() && quant.scale > 0.0) {
            return Err(ParseError::Scale { tensor });
        }
        let too_many = ParseError::LayerCount { count: tensor };
        let tensor = Tensor {
            shape,
            scale: quant.scale,
            zero_point: quant.zero_point,
            offset: 0,
        };
        self.tensors.push(tensor).map_err(|_| too_many)
    }

    fn push_layer(&mut self, file: &[u8], layer: usize, node: Node) -> Result<(), ParseError> {
        let (inputs, count) = match node.sources {
            Sources::One(a) => ([a, a], 1),
            Sources::Two(a, b) => ([a, b], 2),
        };
        let tensor = |index: u8| {
            self.tensors
                .get(usize::from(index))
                .copied()
                .ok_or(ParseError::Source { layer })
        };
        let [a, b] = [tensor(inputs[0])?, tensor(inputs[1])?];
        let shapes = [a.shape, b.shape];
        let shape = node
            .layer
            .output_shape(shapes.get(..count).unwrap_or_default())
            .map_err(|error| ParseError::Shape { layer, error })?;
        if !keeps_scale_rule(&node, &a) {
            return Err(ParseError::Rescale {
                layer,
                kind: node.layer.kind(),
            });
        }
        let block = self.end;
        let needed = block + block_bytes(&node.layer, a.shape);
        if needed > file.len() {
            return Err(ParseError::CutOff {
                needed,
                available: file.len(),
            });
        }
        self.end = needed.next_multiple_of(ALIGN).min(file.len());
        check_zero(file, needed..self.end)?;
        let step = Step {
            layer: node.layer,
            inputs,
            output: layer as u8 + 1,
            clamp: clamp_of(node.layer.activation(), node.output),
            block: block as u32,
        };
        let too_many = ParseError::LayerCount { count: layer + 1 };
        self.steps.push(step).map_err(|_| too_many)?;
        self.push_tensor(shape, node.output)
    }
}

/// Pools and flatten pass values through; softmax always writes
/// [`SOFTMAX_QUANT`].
fn keeps_scale_rule(node: &Node, input: &Tensor) -> bool {
    match node.layer {
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d | Layer::Flatten => {
            node.output.scale == input.scale && node.output.zero_point == input.zero_point
        }
        Layer::Softmax => node.output == SOFTMAX_QUANT,
        _ => true,
    }
}

/// What softmax writes: 0 to 255/256.
pub const SOFTMAX_QUANT: Quant = Quant {
    scale: 1.0 / 256.0,
    zero_point: -128,
};

/// The range that a fused activation leaves: real 0 is the zero point, and
/// real 6 is rounded to the nearest int8, ties away from zero.
pub fn clamp_of(activation: Activation, quant: Quant) -> Clamp {
    let (min, max) = match activation {
        Activation::None => (i8::MIN, i8::MAX),
        Activation::Relu => (quant.zero_point, i8::MAX),
        Activation::Relu6 => {
            let steps = (6.0 / quant.scale).min(255.0);
            let whole = steps as i32;
            let six = whole + i32::from(steps - whole as f32 >= 0.5);
            let max = (i32::from(quant.zero_point) + six).min(i32::from(i8::MAX));
            (quant.zero_point, max as i8)
        }
    };
    Clamp { min, max }
}
