//! Writes `model.esp`. The types, sizes and alignments are `shared`'s, which
//! also reads the file; `docs/format.md` describes every byte.

use std::borrow::Cow;

use shared::arith::Multiplier;
use shared::kernels::add::AddFactors;
use shared::kernels::channels::{self, Packed};
use shared::kernels::{Storage, lanes};
use shared::layer::Layer;
use shared::model::{
    ALIGN, CRC_RANGE, ChannelLayout, Confidence, HEADER_BYTES, Head, Layout, MAGIC, Node, Place,
    Quant, Resize, Sources, VERSION, WeightLayout, crc32, weights_start,
};
use shared::{Engine, Model, ParseError};

use super::{coded, factor, plan, sparse};

/// Where the header says how long the descriptor is.
const DESCRIPTOR_LENGTH: std::ops::Range<usize> = 20..24;

/// Seed of the self-test inputs of every written file.
const GOLDEN_SEED: u32 = 0x0E5B_A11E;

/// A model file that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// More layers or classes than the format counts.
    #[error("{what}: {count} is more than the file format can count")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A weight of -128, which shares no lane with another one.
    #[error("layer {layer} has a weight of -128; weights are -127 to 127")]
    Weight {
        /// Number of the layer from 0.
        layer: usize,
    },
    /// The descriptor could not be encoded.
    #[error("the model's description cannot be written: {0}")]
    Encode(#[from] postcard::Error),
    /// The written file is not accepted by the reader.
    #[error("the network does not fit the model file: {0}")]
    Refused(#[from] ParseError),
}

/// The block of one layer.
#[derive(Clone, Debug, Default)]
pub enum Block {
    /// Of a convolution: weights in the order of [`shared::layer::ParamShape`],
    /// not -128 but of a depthwise one, then one bias and one factor for each output channel.
    Conv {
        /// int8 weights.
        weights: Vec<i8>,
        /// int32 biases.
        bias: Vec<i32>,
        /// Factors.
        factors: Vec<Multiplier>,
    },
    /// Of a dense layer: weights unit by unit, then one bias and one factor for
    /// each unit.
    Dense {
        /// int8 weights.
        weights: Vec<i8>,
        /// int32 biases.
        bias: Vec<i32>,
        /// Factors.
        factors: Vec<f64>,
    },
    /// Factors of an addition.
    Add(AddFactors),
    /// Factor of a softmax.
    Softmax(Multiplier),
    /// Nothing.
    #[default]
    None,
}

impl Block {
    /// The bytes of the block of a layer, and how its parameters lie there: as the layer
    /// says where that is possible, else dense and wide.
    fn bytes(&self, of: &WrittenLayer, zero_point: i8) -> (Layout, Vec<u8>) {
        let pair = |m: &Multiplier| {
            [m.mantissa(), m.shift().into()]
                .into_iter()
                .flat_map(i32::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        let bytes = match self {
            Self::None => Vec::new(),
            Self::Softmax(factor) => pair(factor),
            Self::Add(f) => [f.a, f.b, f.output].iter().flat_map(pair).collect(),
            Self::Conv {
                weights,
                bias,
                factors,
            } => {
                let weights = Weights::new(of, weights, bias, zero_point);
                let compact = weights.compact(of.channels, factors.iter().copied().map(Some));
                return weights.followed_by(compact, || multipliers(factors));
            }
            Self::Dense {
                weights,
                bias,
                factors,
            } => {
                let weights = Weights::new(of, weights, bias, zero_point);
                let exact = |&real: &f64| factor::multiplier(real).filter(|m| m.to_f64() == real);
                let compact = weights.compact(of.channels, factors.iter().map(exact));
                let wide = || even(factors.iter().map(|f| f.to_le_bytes()));
                return weights.followed_by(compact, wide);
            }
        };
        (Layout::default(), bytes)
    }
}

/// Weights of a layer as bytes, and its biases.
struct Weights<'a> {
    layout: WeightLayout,
    bytes: Vec<u8>,
    bias: Cow<'a, [i32]>,
}

impl<'a> Weights<'a> {
    /// Stored as the layer says where that is possible, else dense.
    fn new(of: &WrittenLayer, weights: &[i8], bias: &'a [i32], zero_point: i8) -> Self {
        let layer = &of.node.layer;
        let (channels, depthwise) = (bias.len(), matches!(layer, Layer::DepthwiseConv2d(_)));
        let folded = match of.storage {
            Storage::Sparse if !depthwise => sparse::biases(weights, bias, zero_point),
            _ => None,
        };
        let coded = match of.storage {
            Storage::Coded => coded::encode(weights, layer, channels),
            _ => None,
        };
        let (layout, bytes) = match (&folded, coded) {
            (Some(_), _) => {
                let encoded = sparse::encode(weights, channels);
                let entries = encoded.entries as u32;
                (WeightLayout::Sparse { entries }, encoded.bytes)
            }
            (_, Some(coded)) => {
                let bytes = coded.len() as u32;
                (WeightLayout::Coded { bytes }, coded)
            }
            _ if depthwise => (WeightLayout::Dense, whole_words(weights, channels)),
            _ => (WeightLayout::Dense, lanes(weights, channels)),
        };
        Self {
            layout,
            bytes,
            bias: folded.map_or(Cow::Borrowed(bias), Cow::Owned),
        }
    }

    /// The channels as words, with these factors; `None` where they are to be wide or one
    /// of them does not fit.
    fn compact(
        &self,
        layout: ChannelLayout,
        factors: impl Iterator<Item = Option<Multiplier>>,
    ) -> Option<Vec<Packed>> {
        let channels = self.bias.iter().zip(factors);
        let words = channels.map(|(&bias, factor)| channels::pack(bias, factor?));
        let words = (layout == ChannelLayout::Compact).then_some(words);
        words?.collect()
    }

    /// The block: weights, then the channels, compact or as biases and `wide` factors.
    fn followed_by(
        mut self,
        compact: Option<Vec<Packed>>,
        wide: impl FnOnce() -> Vec<u8>,
    ) -> (Layout, Vec<u8>) {
        let channels = match compact {
            Some(words) => {
                self.bytes.extend(even(words.into_iter()));
                ChannelLayout::Compact
            }
            None => {
                self.bytes
                    .extend(even(self.bias.iter().map(|b| b.to_le_bytes())));
                self.bytes.extend(wide());
                ChannelLayout::Wide
            }
        };
        let weights = self.layout;
        (Layout { weights, channels }, self.bytes)
    }
}

/// Mantissas, then shifts.
fn multipliers(factors: &[Multiplier]) -> Vec<u8> {
    let mut bytes = even(factors.iter().map(|m| m.mantissa().to_le_bytes()));
    bytes.extend(even(factors.iter().map(|m| m.shift().to_le_bytes())));
    bytes
}

/// Numbers as bytes, with a 0 behind an odd number of them.
pub(super) fn even<const N: usize>(numbers: impl ExactSizeIterator<Item = [u8; N]>) -> Vec<u8> {
    let odd = numbers.len() % 2;
    let padding = std::iter::repeat_n([0; N], odd);
    numbers.chain(padding).flatten().collect()
}

/// Weights of a depthwise convolution (H W O) channel by channel.
pub(super) fn channel_by_channel(weights: &[i8], channels: usize) -> Vec<i8> {
    let of = |channel| weights.iter().skip(channel).step_by(channels.max(1));
    (0..channels).flat_map(of).copied().collect()
}

/// Weights of a depthwise convolution channel by channel, padded with zeroes to a
/// multiple of 4.
fn whole_words(weights: &[i8], channels: usize) -> Vec<u8> {
    let weights = channel_by_channel(weights, channels).into_iter();
    let mut bytes: Vec<u8> = weights.map(|w| w as u8).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Weights, filter by filter, in the order of [`shared::kernels::lanes`].
fn lanes(weights: &[i8], filters: usize) -> Vec<u8> {
    let fan_in = weights.len() / filters.max(1);
    let filters: Vec<&[i8]> = weights.chunks(fan_in.max(1)).collect();
    let pair = |pair: &[&[i8]]| {
        let mut lanes = vec![0; 2 * lanes::words(fan_in)];
        for k in 0..fan_in {
            let weight = |filter: usize| pair.get(filter).map_or(0, |weights| weights[k]);
            lanes[lanes::lane_of(k)] = lanes::pack(weight(0), weight(1));
        }
        lanes.into_iter().flat_map(i16::to_le_bytes)
    };
    filters.chunks(2).flat_map(pair).collect()
}

/// One layer to write.
#[derive(Clone, Debug)]
pub struct WrittenLayer {
    /// What the descriptor says.
    pub node: Node,
    /// What the weight section holds.
    pub block: Block,
    /// How the weights are stored, where that is possible, else dense: not sparse where
    /// the layer is a depthwise one or its biases do not allow it, and not coded where a
    /// weight is -128.
    pub storage: Storage,
    /// How biases and factors are stored, where that is possible, else wide: not compact
    /// where a bias takes more than 16 bits, or a factor is not below 1/2 or has more than
    /// [`MANTISSA_BITS`](channels::MANTISSA_BITS).
    pub channels: ChannelLayout,
}

/// A model file before it is bytes.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Shape of the input.
    pub input: shared::layer::Shape,
    /// Scale and zero point of the input.
    pub input_quant: Quant,
    /// What was done to pictures of another size.
    pub resize: Resize,
    /// Class names, none or one for each output.
    pub classes: Vec<String>,
    /// Layers in the order in which they run.
    pub layers: Vec<WrittenLayer>,
    /// Number of self-test vectors.
    pub golden: u8,
}

impl ModelFile {
    /// The bytes of the file, accepted by [`Model::parse`]. The expected
    /// outputs of the self-test are what the engine gives here.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let places = self.places()?;
        let expected = self.expected_outputs(&self.encode(&places, 0, &[])?)?;
        let bytes = self.encode(&places, self.golden, &expected)?;
        Model::parse(&bytes)?;
        Ok(bytes)
    }

    /// As [`ModelFile::to_bytes`], without self-tests, which take inferences.
    pub(super) fn to_bytes_untested(&self) -> Result<Vec<u8>, WriteError> {
        self.encode(&self.places()?, 0, &[])
    }

    fn places(&self) -> Result<Vec<Place>, WriteError> {
        self.check_weights()?;
        let unplaced = vec![Place::default(); self.layers.len() + 1];
        let demands = self.encode(&unplaced, 0, &[])?;
        Ok(plan::search(&Model::demands(&demands)?))
    }

    fn check_weights(&self) -> Result<(), WriteError> {
        let smallest = |layer: &WrittenLayer| match &layer.block {
            Block::Conv { weights, .. } | Block::Dense { weights, .. } => {
                let lanes = !matches!(layer.node.layer, Layer::DepthwiseConv2d(_));
                lanes && weights.contains(&i8::MIN)
            }
            _ => false,
        };
        match self.layers.iter().position(smallest) {
            Some(layer) => Err(WriteError::Weight { layer }),
            None => Ok(()),
        }
    }

    fn expected_outputs(&self, untested: &[u8]) -> Result<Vec<i8>, WriteError> {
        let model = Model::parse(untested)?;
        let mut arena = vec![0; model.arena_bytes()];
        let mut expected = Vec::new();
        // The arena is as large as the model says.
        if let Ok(mut engine) = Engine::new(&model, &mut arena) {
            for index in 0..u32::from(self.golden) {
                let fill = |input: &mut [i8]| shared::golden::fill(GOLDEN_SEED, index, input);
                expected.extend_from_slice(engine.infer(fill));
            }
        }
        Ok(expected)
    }

    fn encode(
        &self,
        places: &[Place],
        golden_count: u8,
        expected: &[i8],
    ) -> Result<Vec<u8>, WriteError> {
        let blocks: Vec<(Layout, Vec<u8>)> = self.layers.iter().map(|l| self.block(l)).collect();
        let layouts: Vec<Layout> = blocks.iter().map(|(layout, _)| *layout).collect();
        let descriptor = self.descriptor(&layouts, places, golden_count)?;
        let mut file = vec![0; HEADER_BYTES];
        file.extend_from_slice(&descriptor);
        file.resize(weights_start(descriptor.len()), 0);
        for (_, block) in &blocks {
            file.extend_from_slice(block);
            file.resize(file.len().next_multiple_of(ALIGN), 0);
        }
        file.extend(expected.iter().map(|&y| y as u8));
        write_header(&mut file, descriptor.len())?;
        Ok(file)
    }

    fn block(&self, layer: &WrittenLayer) -> (Layout, Vec<u8>) {
        let zero_point = self.input_of(layer).zero_point;
        layer.block.bytes(layer, zero_point)
    }

    /// Scale and zero point of the first tensor that a layer reads.
    pub fn input_of(&self, layer: &WrittenLayer) -> Quant {
        let (Sources::One(tensor) | Sources::Two(tensor, _)) = layer.node.sources;
        let writer = usize::from(tensor).checked_sub(1);
        let writer = writer.and_then(|writer| self.layers.get(writer));
        writer.map_or(self.input_quant, |layer| layer.node.output)
    }

    fn descriptor(
        &self,
        layouts: &[Layout],
        places: &[Place],
        golden_count: u8,
    ) -> Result<Vec<u8>, WriteError> {
        let head = Head {
            input: self.input,
            input_quant: self.input_quant,
            resize: self.resize,
            golden_seed: GOLDEN_SEED,
            golden_count,
            class_count: count("classes", self.classes.len())?,
            layer_count: count("layers", self.layers.len())?,
        };
        let (input, outputs) = places.split_first().unwrap_or((
            &Place {
                offset: 0,
                scratch: 0,
            },
            &[],
        ));
        let mut bytes = postcard::to_stdvec(&(head, input))?;
        for name in &self.classes {
            bytes = postcard::to_extend(name.as_str(), bytes)?;
        }
        for ((layer, layout), place) in self.layers.iter().zip(layouts).zip(outputs) {
            bytes = postcard::to_extend(&layer.node, bytes)?;
            if layer.node.layer.has_params() {
                bytes = postcard::to_extend(layout, bytes)?;
            }
            bytes = postcard::to_extend(place, bytes)?;
        }
        Ok(bytes)
    }
}

/// A file that was written without confidence, with it.
pub fn with_confidence(file: &[u8], confidence: &Confidence) -> Result<Vec<u8>, WriteError> {
    Model::parse(file)?;
    let descriptor_bytes = file.get(DESCRIPTOR_LENGTH).unwrap_or_default();
    let descriptor_bytes = descriptor_bytes.try_into().map_or(0, u32::from_le_bytes) as usize;
    let (described, _) = file.split_at(HEADER_BYTES + descriptor_bytes);
    let (_, rest) = file.split_at(weights_start(descriptor_bytes));
    let mut file = postcard::to_extend(confidence, described.to_vec())?;
    let descriptor_bytes = file.len() - HEADER_BYTES;
    // Blocks stay aligned: they move by a multiple of that.
    file.resize(weights_start(descriptor_bytes), 0);
    file.extend_from_slice(rest);
    write_header(&mut file, descriptor_bytes)?;
    Model::parse(&file)?;
    Ok(file)
}

fn count<T: TryFrom<usize>>(what: &'static str, count: usize) -> Result<T, WriteError> {
    T::try_from(count).map_err(|_| WriteError::TooMany { what, count })
}

fn write_header(file: &mut [u8], descriptor: usize) -> Result<(), WriteError> {
    let length: u32 = count("bytes", file.len())?;
    let descriptor: u32 = count("descriptor bytes", descriptor)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&length.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&descriptor.to_le_bytes());
    file[..HEADER_BYTES].copy_from_slice(&header);
    let crc = crc32(file);
    file[CRC_RANGE].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}
