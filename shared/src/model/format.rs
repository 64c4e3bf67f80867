//! What lies where in the file: constants, the values of the descriptor, sizes.
//! Reader and writer both use these.

use serde::{Deserialize, Serialize};

use crate::arith::Clamp;
use crate::kernels::{Storage, channels, lanes, sparse};
use crate::layer::{Activation, Layer, ParamShape, Shape};
use crate::plan::MAX_TENSORS;

/// First bytes of every model file.
pub const MAGIC: [u8; 8] = *b"espalier";
/// The version this code reads and writes.
pub const VERSION: u16 = 5;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of the header that are 0.
pub const RESERVED_RANGE: core::ops::Range<usize> = 10..12;
/// Where the CRC lies in the header.
pub const CRC_RANGE: core::ops::Range<usize> = 16..20;
/// Every block of the weight section starts at a multiple of this many bytes
/// from the start of the file.
pub const ALIGN: usize = 4;
/// Most layers in one model.
pub const MAX_LAYERS: usize = MAX_TENSORS - 1;
/// Longest file in bytes: 1 GiB, so that no sum of offsets overflows on a
/// 32-bit target (a block has less than 2^31 + 2^20 bytes).
pub const MAX_FILE: usize = 1 << 30;
/// Longest class name in bytes.
pub const MAX_NAME: usize = 64;

pub(crate) const CRC: crc::Crc<u32, crc::NoTable> =
    crc::Crc::<u32, crc::NoTable>::new(&crc::CRC_32_ISO_HDLC);

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

/// First value of the descriptor. The input's [`Place`], `class_count` names and
/// `layer_count` times a [`Node`], for a layer with weights a [`Layout`], and a [`Place`]
/// follow, each a postcard value of its own.
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

/// When a model is sure enough to answer, and how often it is right then. The last value of
/// the descriptor, which ends behind the layers where there is none.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Confidence {
    /// What logits, as real numbers, are divided by so that their softmax says how often
    /// such answers are right (Guo et al. 2017); positive and finite.
    pub temperature: f32,
    /// Least [`crate::margin`] of the logits of an answer, in steps of int8.
    pub margin: u8,
    /// Pictures that both were found on.
    pub pictures: u32,
    /// Those of them that are answered, no more than `pictures`.
    pub answered: u32,
    /// Those that are answered and right, no more than `answered`.
    pub correct: u32,
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

/// How the parameters of a layer lie in its block; in the descriptor behind each
/// [`Node`] that has some.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Layout {
    /// The weights.
    pub weights: WeightLayout,
    /// The bias and the factor of each output channel.
    pub channels: ChannelLayout,
}

/// How the weights of a layer lie in its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum WeightLayout {
    /// All of them: [`lanes`], or channel by channel where the layer is depthwise.
    #[default]
    Dense,
    /// Those of a convolution or a dense layer that are not 0: [`sparse`].
    Sparse {
        /// How many entries there are, filled up to an even number for each filter.
        entries: u32,
    },
    /// All of them, in as few bits as each value needs: [`crate::kernels::coded`].
    Coded {
        /// Bytes of codebook and stream, a multiple of 4.
        bytes: u32,
    },
}

impl WeightLayout {
    /// Which of the three it is.
    pub fn storage(&self) -> Storage {
        match self {
            Self::Dense => Storage::Dense,
            Self::Sparse { .. } => Storage::Sparse,
            Self::Coded { .. } => Storage::Coded,
        }
    }
}

/// How the bias and the factor of each output channel lie in a layer's block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ChannelLayout {
    /// As numbers of their own, 9 or 12 bytes.
    #[default]
    Wide,
    /// In a word: [`channels`].
    Compact,
}

/// Where a tensor lies in the arena; in the descriptor behind the [`Head`], for the
/// input, and at the end of each layer. `crate::plan` tells what it has to satisfy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// Offset of the tensor: of what a `Flatten` writes, that of what it reads, and
    /// 0 for a convolution whose output is pooled at once.
    pub offset: u32,
    /// Offset of the scratch of the kernel that writes it; 0 where it has none.
    pub scratch: u32,
}

/// Bytes of a layer's block in the weight section, before alignment.
///
/// | layer | block |
/// |---|---|
/// | `conv2d` | weights as [`lanes`], [`sparse`] or [`coded`]; words of [`channels`], or int32 biases; int32 mantissas; int8 shifts |
/// | `depthwise_conv2d` | int8 weights, padded to 4, or [`coded`]; the rest as `conv2d` |
/// | `dense` | weights as [`lanes`], [`sparse`] or [`coded`]; words of [`channels`], or int32 biases; f64 factors |
/// | `add` | int32 mantissa and int32 shift for input a, input b, output |
/// | `softmax` | int32 mantissa and int32 shift of the input |
/// | others | nothing |
///
/// Of words, biases, mantissas, shifts and factors there is an even number: behind an
/// odd number of channels stands a 0.
///
/// [`coded`]: crate::kernels::coded
pub fn block_bytes(layer: &Layer, layout: Layout, input: Shape) -> usize {
    match (layer, layer.params(input)) {
        (Layer::Add(_), _) => 24,
        (Layer::Softmax, _) => 8,
        (_, None) => 0,
        (_, Some(params)) => {
            weight_bytes(layer, layout.weights, params)
                + channel_bytes(layer, layout.channels, params)
        }
    }
}

/// Bytes of biases and factors behind the weights of a layer.
pub fn channel_bytes(layer: &Layer, layout: ChannelLayout, params: ParamShape) -> usize {
    let each = match (layout, layer) {
        (ChannelLayout::Compact, _) => size_of::<channels::Packed>(),
        (ChannelLayout::Wide, Layer::Dense(_)) => 4 + 8,
        (ChannelLayout::Wide, _) => 4 + 4 + 1,
    };
    each * params.channels.next_multiple_of(2)
}

/// Bytes of the weights at the start of a layer's block, a multiple of 4.
pub fn weight_bytes(layer: &Layer, layout: WeightLayout, params: ParamShape) -> usize {
    match (layer, layout) {
        (_, WeightLayout::Coded { bytes }) => bytes as usize,
        (Layer::DepthwiseConv2d(_), _) => params.weights().next_multiple_of(4),
        (_, WeightLayout::Dense) => lanes::bytes(params.fan_in, params.channels),
        (_, WeightLayout::Sparse { entries }) => sparse::bytes(params.channels, entries as usize),
    }
}

/// Offset behind a layer's block that starts at `block`, aligned for the next.
pub fn block_end(block: u32, layer: &Layer, layout: Layout, input: Shape) -> u32 {
    let end = block as usize + block_bytes(layer, layout, input);
    end.next_multiple_of(ALIGN) as u32
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
            // Called before the scale has been checked, so it may be anything.
            let steps = (6.0 / quant.scale).clamp(0.0, 255.0);
            let whole = steps as i32;
            let six = whole + i32::from(steps - whole as f32 >= 0.5);
            let max = (i32::from(quant.zero_point) + six).min(i32::from(i8::MAX));
            (quant.zero_point, max as i8)
        }
    };
    Clamp { min, max }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Add, Conv2d, Dense, DepthwiseConv2d, MAX_FAN_IN, Padding, Pool2d, Size2};
    use core::num::{NonZeroU8, NonZeroU16};

    #[test]
    fn tags_keep_their_numbers() {
        let kernel = Size2::new(3, 5).unwrap();
        let stride = Size2::new(2, 1).unwrap();
        let (padding, activation) = (Padding::Same, Activation::Relu6);
        let pool = |stride| Pool2d {
            kernel,
            stride,
            padding,
            activation,
        };
        let layers: [(Layer, &[u8]); 10] = [
            (
                Layer::Conv2d(Conv2d {
                    filters: NonZeroU16::new(300).unwrap(),
                    kernel,
                    stride,
                    padding,
                    activation,
                }),
                &[0, 0xAC, 2, 3, 5, 2, 1, 1, 2],
            ),
            (
                Layer::DepthwiseConv2d(DepthwiseConv2d {
                    multiplier: NonZeroU8::new(200).unwrap(),
                    kernel,
                    stride,
                    padding: Padding::Valid,
                    activation,
                }),
                &[1, 200, 3, 5, 2, 1, 0, 2],
            ),
            (
                Layer::Dense(Dense {
                    units: NonZeroU16::new(10).unwrap(),
                    activation: Activation::Relu,
                }),
                &[2, 10, 1],
            ),
            (Layer::MaxPool2d(pool(None)), &[3, 3, 5, 0, 1, 2]),
            (
                Layer::MaxPool2d(pool(Some(stride))),
                &[3, 3, 5, 1, 2, 1, 1, 2],
            ),
            (Layer::AvgPool2d(pool(None)), &[4, 3, 5, 0, 1, 2]),
            (Layer::GlobalAvgPool2d, &[5]),
            (
                Layer::Add(Add {
                    activation: Activation::None,
                }),
                &[6, 0],
            ),
            (Layer::Flatten, &[7]),
            (Layer::Softmax, &[8]),
        ];
        for (layer, bytes) in layers {
            is_encoded_as(layer, bytes);
        }
        is_encoded_as(Sources::One(9), &[0, 9]);
        is_encoded_as(Sources::Two(9, 200), &[1, 9, 200]);
        is_encoded_as([Resize::Exact, Resize::Stretch, Resize::Crop], &[0, 1, 2]);
        is_encoded_as(WeightLayout::Dense, &[0]);
        is_encoded_as(WeightLayout::Sparse { entries: 300 }, &[1, 0xAC, 2]);
        is_encoded_as(WeightLayout::Coded { bytes: 300 }, &[2, 0xAC, 2]);
        is_encoded_as([ChannelLayout::Wide, ChannelLayout::Compact], &[0, 1]);
    }

    fn is_encoded_as(value: impl Serialize, bytes: &[u8]) {
        let mut buffer = [0; 16];
        assert_eq!(postcard::to_slice(&value, &mut buffer).unwrap(), bytes);
    }

    #[test]
    fn no_offset_overflows_32_bits() {
        let largest_block = 65_536 * (MAX_FAN_IN as u64 + 12) + 4;
        let end = MAX_FILE as u64 + largest_block + 2 * ALIGN as u64;
        assert!(end <= u64::from(u32::MAX));
        // Before its products are counted, a convolution may ask for this many.
        assert!(255 * 255 * 65_535 <= u64::from(u32::MAX));
    }

    #[test]
    fn no_scale_overflows_the_clamp() {
        for scale in [-1e-38, -0.0, 0.0, 1e-45, f32::MAX, f32::INFINITY, f32::NAN] {
            for zero_point in [i8::MIN, 0, i8::MAX] {
                let clamp = clamp_of(Activation::Relu6, Quant { scale, zero_point });
                assert!(clamp.min <= clamp.max);
            }
        }
    }
}
