//! What a layer is: its parameters, its shape rule, its size and its cost.
//!
//! These definitions are the only ones. The float network of the trainer is
//! built from them, the model file stores them, and the engine walks them.
//! Tensors are height x width x channels (NHWC with a batch of one).

use core::num::{NonZeroU8, NonZeroU16};

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};

/// Largest number of elements in one tensor: 16 Mi, far above any
/// microcontroller and far below an overflow of `u32`.
pub const MAX_ELEMENTS: usize = 1 << 24;

/// Largest number of products in one accumulator. One product of an int8
/// weight and a centred int8 input is at most 128 x 255 = 32,640 in size;
/// 32,768 of them stay below 2^30, so that with a bias of at most 2^30 an
/// `i32` accumulator cannot overflow.
pub const MAX_FAN_IN: usize = 1 << 15;

/// Most channels under a softmax. The sum of their exponentials, each at most 1,
/// has 12 integer bits.
pub const MAX_SOFTMAX: usize = 1 << 12;

/// Height, width and channels of a tensor, each at least 1, together at most
/// [`MAX_ELEMENTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16, u16)", into = "(u16, u16, u16)")]
pub struct Shape {
    height: NonZeroU16,
    width: NonZeroU16,
    channels: NonZeroU16,
}

impl Shape {
    /// One element.
    pub const ONE: Self = Self {
        height: NonZeroU16::MIN,
        width: NonZeroU16::MIN,
        channels: NonZeroU16::MIN,
    };

    /// A shape, or [`ShapeError::Size`] where a side is 0, above 65,535, or
    /// the product above [`MAX_ELEMENTS`].
    pub fn new(height: usize, width: usize, channels: usize) -> Result<Self, ShapeError> {
        let side = |n: usize| {
            u16::try_from(n)
                .ok()
                .and_then(NonZeroU16::new)
                .ok_or(ShapeError::Size)
        };
        let shape = Self {
            height: side(height)?,
            width: side(width)?,
            channels: side(channels)?,
        };
        let elements = height as u64 * width as u64 * channels as u64;
        if elements > MAX_ELEMENTS as u64 {
            return Err(ShapeError::Size);
        }
        Ok(shape)
    }

    /// Rows.
    pub fn height(self) -> usize {
        self.height.get() as usize
    }

    /// Columns.
    pub fn width(self) -> usize {
        self.width.get() as usize
    }

    /// Channels.
    pub fn channels(self) -> usize {
        self.channels.get() as usize
    }

    /// Elements, which for int8 are bytes.
    #[allow(clippy::len_without_is_empty)] // no shape is empty
    pub fn len(self) -> usize {
        self.height() * self.width() * self.channels()
    }
}

impl TryFrom<(u16, u16, u16)> for Shape {
    type Error = ShapeError;

    fn try_from((height, width, channels): (u16, u16, u16)) -> Result<Self, ShapeError> {
        Self::new(height.into(), width.into(), channels.into())
    }
}

impl From<Shape> for (u16, u16, u16) {
    fn from(shape: Shape) -> Self {
        (shape.height.get(), shape.width.get(), shape.channels.get())
    }
}

impl core::fmt::Display for Shape {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// Height and width of a kernel or a stride, each 1 to 255.
///
/// In a text format it may be one number for both sides (`3`) or two
/// (`[3, 1]`); in the model file it is always two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size2 {
    height: NonZeroU8,
    width: NonZeroU8,
}

impl Size2 {
    /// One by one.
    pub const ONE: Self = Self {
        height: NonZeroU8::MIN,
        width: NonZeroU8::MIN,
    };

    /// A size, or `None` where a side is 0.
    pub const fn new(height: u8, width: u8) -> Option<Self> {
        match (NonZeroU8::new(height), NonZeroU8::new(width)) {
            (Some(height), Some(width)) => Some(Self { height, width }),
            _ => None,
        }
    }

    /// Rows.
    pub fn height(self) -> usize {
        self.height.get() as usize
    }

    /// Columns.
    pub fn width(self) -> usize {
        self.width.get() as usize
    }

    /// Rows times columns.
    pub fn area(self) -> usize {
        self.height() * self.width()
    }
}

impl core::fmt::Display for Size2 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl Serialize for Size2 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.height)?;
        tuple.serialize_element(&self.width)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Size2 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrTwo;

        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Size2;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("a number from 1 to 255, or two of them: [height, width]")
            }

            fn visit_i64<E: de::Error>(self, side: i64) -> Result<Size2, E> {
                let side = u8::try_from(side).unwrap_or(0);
                Size2::new(side, side)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(side.into()), &self))
            }

            fn visit_u64<E: de::Error>(self, side: u64) -> Result<Size2, E> {
                self.visit_i64(i64::try_from(side).unwrap_or(0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Size2, A::Error> {
                let mut side = |index| {
                    seq.next_element::<NonZeroU8>()?
                        .ok_or_else(|| de::Error::invalid_length(index, &"two numbers"))
                };
                let size = Size2 {
                    height: side(0)?,
                    width: side(1)?,
                };
                match seq.next_element::<de::IgnoredAny>() {
                    Ok(Some(_)) => Err(de::Error::invalid_length(3, &"two numbers")),
                    _ => Ok(size),
                }
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(OneOrTwo)
        } else {
            deserializer.deserialize_tuple(2, OneOrTwo)
        }
    }
}

/// What happens at the border, as TensorFlow defines it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// The window stays inside: out = floor((in - kernel) / stride) + 1.
    #[default]
    Valid,
    /// Zeroes around the input so that out = ceil(in / stride); an odd zero
    /// goes after the input.
    Same,
}

/// The activation fused into a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
}

fn one() -> Size2 {
    Size2::ONE
}

fn no_multiplier() -> NonZeroU8 {
    NonZeroU8::MIN
}

/// Convolution: every output channel sees every input channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Output channels.
    pub filters: NonZeroU16,
    /// Window.
    pub kernel: Size2,
    /// Step of the window.
    #[serde(default = "one")]
    pub stride: Size2,
    /// Border rule.
    #[serde(default)]
    pub padding: Padding,
    /// Fused activation.
    #[serde(default)]
    pub activation: Activation,
}

/// Depthwise convolution: every output channel sees one input channel; output
/// channel `i` sees input channel `i / multiplier`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthwiseConv2d {
    /// Output channels per input channel.
    #[serde(default = "no_multiplier")]
    pub multiplier: NonZeroU8,
    /// Window.
    pub kernel: Size2,
    /// Step of the window.
    #[serde(default = "one")]
    pub stride: Size2,
    /// Border rule.
    #[serde(default)]
    pub padding: Padding,
    /// Fused activation.
    #[serde(default)]
    pub activation: Activation,
}

/// Fully connected layer over all elements of its input in NHWC order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Outputs.
    pub units: NonZeroU16,
    /// Fused activation.
    #[serde(default)]
    pub activation: Activation,
}

/// Max or average over a window of each channel. Padding never counts: the
/// maximum ignores it and the average divides by the elements inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool2d {
    /// Window.
    pub kernel: Size2,
    /// Step of the window; as large as the window where it is not given.
    #[serde(default)]
    pub stride: Option<Size2>,
    /// Border rule.
    #[serde(default)]
    pub padding: Padding,
    /// Fused activation.
    #[serde(default)]
    pub activation: Activation,
}

/// Element-wise sum of two tensors of one shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// Fused activation.
    #[serde(default)]
    pub activation: Activation,
}

/// One layer. The order of the variants is part of the file format: new ones
/// go to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Layer {
    /// See [`Conv2d`].
    Conv2d(Conv2d),
    /// See [`DepthwiseConv2d`].
    DepthwiseConv2d(DepthwiseConv2d),
    /// See [`Dense`].
    Dense(Dense),
    /// Maximum over a window, see [`Pool2d`].
    MaxPool2d(Pool2d),
    /// Mean over a window, see [`Pool2d`].
    AvgPool2d(Pool2d),
    /// Mean over each whole channel: h x w x c to 1 x 1 x c.
    GlobalAvgPool2d,
    /// See [`Add`].
    Add(Add),
    /// h x w x c to 1 x 1 x (h w c); moves no byte.
    Flatten,
    /// exp(x_i) / sum of exp(x_j) over the channels of each position.
    Softmax,
}

/// Where a window starts and how it moves over an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Size.
    pub kernel: Size2,
    /// Step.
    pub stride: Size2,
    /// Border rule.
    pub padding: Padding,
}

impl Window {
    /// Rows and columns of the output over an input of this shape.
    ///
    /// [`ShapeError::WindowTooLarge`] where no valid window fits.
    pub fn output(self, input: Shape) -> Result<(usize, usize), ShapeError> {
        let side = |input: usize, kernel: usize, stride: usize| match self.padding {
            Padding::Same => Ok(input.div_ceil(stride)),
            Padding::Valid if kernel <= input => Ok((input - kernel) / stride + 1),
            Padding::Valid => Err(ShapeError::WindowTooLarge),
        };
        Ok((
            side(input.height(), self.kernel.height(), self.stride.height())?,
            side(input.width(), self.kernel.width(), self.stride.width())?,
        ))
    }

    /// Zeroes above and to the left of an input of this shape:
    /// floor(max((out - 1) stride + kernel - in, 0) / 2) for `same`
    /// (TensorFlow's rule, the rest goes below and right), 0 for `valid`.
    pub fn padding_before(self, input: Shape) -> (usize, usize) {
        let side = |input: usize, kernel: usize, stride: usize| match self.padding {
            Padding::Valid => 0,
            Padding::Same => {
                ((input.div_ceil(stride) - 1) * stride + kernel).saturating_sub(input) / 2
            }
        };
        (
            side(input.height(), self.kernel.height(), self.stride.height()),
            side(input.width(), self.kernel.width(), self.stride.width()),
        )
    }

    /// Zeroes below and to the right, see [`Window::padding_before`].
    pub fn padding_after(self, input: Shape) -> (usize, usize) {
        let side = |input: usize, kernel: usize, stride: usize| match self.padding {
            Padding::Valid => 0,
            Padding::Same => ((input.div_ceil(stride) - 1) * stride + kernel)
                .saturating_sub(input)
                .div_ceil(2),
        };
        (
            side(input.height(), self.kernel.height(), self.stride.height()),
            side(input.width(), self.kernel.width(), self.stride.width()),
        )
    }
}

/// How many parameters a layer has. Weights lie output channel by output
/// channel (`Conv2d`: O H W I, `Dense`: O I), except for `DepthwiseConv2d`,
/// whose output channels lie innermost (H W O), as in TensorFlow Lite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamShape {
    /// Output channels: one bias and one weight scale each.
    pub channels: usize,
    /// Weights of one output channel: the products in one accumulator.
    pub fan_in: usize,
}

impl ParamShape {
    /// Weights.
    pub fn weights(self) -> usize {
        self.channels * self.fan_in
    }
}

/// Why a layer does not take an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// A side is 0 or a tensor too large.
    #[error("a tensor has a side of 0 or more than {MAX_ELEMENTS} elements")]
    Size,
    /// A window larger than its input under `valid` padding, or a global pool
    /// whose window would have a side above 255.
    #[error("the window is larger than the input, or than 255 in a global pool")]
    WindowTooLarge,
    /// One output sums too many products for a 32-bit accumulator.
    #[error("one output sums more than {MAX_FAN_IN} products")]
    FanIn,
    /// A softmax over too many channels.
    #[error("a softmax over more than {MAX_SOFTMAX} channels")]
    Softmax,
    /// `Add` of two shapes.
    #[error("the two inputs of an addition have different shapes")]
    AddShapes,
    /// One input too few or too many.
    #[error("the layer has the wrong number of inputs")]
    Inputs,
}

impl Layer {
    /// The name used in `espalier.toml` and in tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv2d(_) => "conv2d",
            Self::DepthwiseConv2d(_) => "depthwise_conv2d",
            Self::Dense(_) => "dense",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::GlobalAvgPool2d => "global_avg_pool2d",
            Self::Add(_) => "add",
            Self::Flatten => "flatten",
            Self::Softmax => "softmax",
        }
    }

    /// The window of a convolution or a pool over an input of this shape.
    pub fn window(&self, input: Shape) -> Option<Window> {
        let window = |kernel, stride, padding| {
            Some(Window {
                kernel,
                stride,
                padding,
            })
        };
        match *self {
            Self::Conv2d(c) => window(c.kernel, c.stride, c.padding),
            Self::DepthwiseConv2d(c) => window(c.kernel, c.stride, c.padding),
            Self::MaxPool2d(p) | Self::AvgPool2d(p) => {
                window(p.kernel, p.stride.unwrap_or(p.kernel), p.padding)
            }
            Self::GlobalAvgPool2d => {
                let side = |n| u8::try_from(n).unwrap_or(0);
                let kernel = Size2::new(side(input.height()), side(input.width()))?;
                window(kernel, Size2::ONE, Padding::Valid)
            }
            Self::Dense(_) | Self::Add(_) | Self::Flatten | Self::Softmax => None,
        }
    }

    /// The fused activation.
    pub fn activation(&self) -> Activation {
        match self {
            Self::Conv2d(c) => c.activation,
            Self::DepthwiseConv2d(c) => c.activation,
            Self::Dense(d) => d.activation,
            Self::MaxPool2d(p) | Self::AvgPool2d(p) => p.activation,
            Self::Add(a) => a.activation,
            Self::GlobalAvgPool2d | Self::Flatten | Self::Softmax => Activation::None,
        }
    }

    /// How many tensors the layer reads: 2 for `Add`, else 1.
    pub fn inputs(&self) -> usize {
        match self {
            Self::Add(_) => 2,
            _ => 1,
        }
    }

    /// The shape that comes out, or why these inputs do not go in.
    pub fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let (&first, rest) = inputs.split_first().ok_or(ShapeError::Inputs)?;
        if rest.len() + 1 != self.inputs() {
            return Err(ShapeError::Inputs);
        }
        if let Some(params) = self.params(first)
            && params.fan_in > MAX_FAN_IN
        {
            return Err(ShapeError::FanIn);
        }
        let windowed = |channels| {
            let window = self.window(first).ok_or(ShapeError::WindowTooLarge)?;
            let (height, width) = window.output(first)?;
            Shape::new(height, width, channels)
        };
        match *self {
            Self::Conv2d(c) => windowed(c.filters.get() as usize),
            Self::DepthwiseConv2d(c) => windowed(first.channels() * c.multiplier.get() as usize),
            Self::MaxPool2d(_) | Self::AvgPool2d(_) | Self::GlobalAvgPool2d => {
                windowed(first.channels())
            }
            Self::Dense(d) => Shape::new(1, 1, d.units.get() as usize),
            Self::Flatten => Shape::new(1, 1, first.len()),
            Self::Softmax if first.channels() > MAX_SOFTMAX => Err(ShapeError::Softmax),
            Self::Softmax => Ok(first),
            Self::Add(_) if rest.first() == Some(&first) => Ok(first),
            Self::Add(_) => Err(ShapeError::AddShapes),
        }
    }

    /// Parameters over an input of this shape; `None` for a layer without.
    pub fn params(&self, input: Shape) -> Option<ParamShape> {
        match *self {
            Self::Conv2d(c) => Some(ParamShape {
                channels: c.filters.get() as usize,
                fan_in: c.kernel.area() * input.channels(),
            }),
            Self::DepthwiseConv2d(c) => Some(ParamShape {
                channels: input.channels() * c.multiplier.get() as usize,
                fan_in: c.kernel.area(),
            }),
            Self::Dense(d) => Some(ParamShape {
                channels: d.units.get() as usize,
                fan_in: input.len(),
            }),
            _ => None,
        }
    }

    /// Whether it has weights, with a bias and a factor for each output channel.
    pub fn has_params(&self) -> bool {
        self.params(Shape::ONE).is_some()
    }

    /// Multiply-accumulates of one inference, products with padding counted;
    /// 0 for a layer without weights.
    pub fn macs(&self, input: Shape, output: Shape) -> u64 {
        self.params(input)
            .map_or(0, |params| output.len() as u64 * params.fan_in as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(h: usize, w: usize, c: usize) -> Shape {
        Shape::new(h, w, c).unwrap()
    }

    fn conv(kernel: u8, stride: u8, padding: Padding) -> Layer {
        Layer::Conv2d(Conv2d {
            filters: NonZeroU16::new(8).unwrap(),
            kernel: Size2::new(kernel, kernel).unwrap(),
            stride: Size2::new(stride, stride).unwrap(),
            padding,
            activation: Activation::Relu,
        })
    }

    #[test]
    fn convolution_shapes_follow_tensorflow() {
        let input = shape(28, 28, 1);
        for (kernel, stride, padding, side) in [
            (3, 1, Padding::Valid, 26),
            (3, 2, Padding::Valid, 13),
            (3, 1, Padding::Same, 28),
            (3, 2, Padding::Same, 14),
            (5, 3, Padding::Same, 10),
        ] {
            let out = conv(kernel, stride, padding).output_shape(&[input]);
            assert_eq!(out, Ok(shape(side, side, 8)));
        }
    }

    #[test]
    fn odd_padding_goes_after() {
        let window = conv(3, 2, Padding::Same).window(shape(28, 28, 1)).unwrap();
        assert_eq!(window.padding_before(shape(28, 28, 1)), (0, 0));
        assert_eq!(window.padding_after(shape(28, 28, 1)), (1, 1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(
            conv(5, 1, Padding::Valid).output_shape(&[shape(4, 4, 1)]),
            Err(ShapeError::WindowTooLarge)
        );
        let add = Layer::Add(Add {
            activation: Activation::None,
        });
        assert_eq!(
            add.output_shape(&[shape(2, 2, 1), shape(2, 2, 2)]),
            Err(ShapeError::AddShapes)
        );
        assert_eq!(add.output_shape(&[shape(2, 2, 1)]), Err(ShapeError::Inputs));
        assert_eq!(Shape::new(0, 1, 1), Err(ShapeError::Size));
        assert_eq!(Shape::new(65_535, 65_535, 1), Err(ShapeError::Size));
    }

    #[test]
    fn fan_in_keeps_the_accumulator_in_range() {
        let worst = MAX_FAN_IN as i64 * 128 * 255 + (1 << 30);
        assert!(worst <= i64::from(i32::MAX));
    }
}
