//! Portable reference kernels: plain Rust, compiled for every target, and the
//! definition of what every faster kernel must compute. [`target`] names the
//! fastest ones that this target has.
//!
//! The caller, [`crate::Engine`], passes slices whose lengths fit the shapes;
//! [`crate::Model::parse`] has proved that they do.

pub mod add;
pub mod channels;
pub mod coded;
pub mod conv2d;
pub mod dense;
pub mod depthwise_conv2d;
#[cfg(espalier_dsp)]
mod dsp;
pub mod lanes;
pub mod pool2d;
pub mod softmax;
pub mod sparse;
pub mod target;
pub mod tile;

use core::ops::Range;

use serde::{Deserialize, Serialize};

use self::channels::{Channels, Units};
use self::coded::Coded;
use self::lanes::Lanes;
use self::sparse::Sparse;
use crate::arith::Clamp;
use crate::layer::{Layer, Shape, Window};

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Shape; `data` has `shape.len()` elements in NHWC order.
    pub shape: Shape,
    /// The int8 value that stands for 0, -128 to 127.
    pub zero_point: i32,
    /// Elements.
    pub data: &'a [i8],
}

/// A tensor to write.
#[derive(Debug)]
pub struct Output<'a> {
    /// Shape; `data` has `shape.len()` elements in NHWC order.
    pub shape: Shape,
    /// The int8 value that stands for 0, -128 to 127.
    pub zero_point: i32,
    /// Range of the fused activation.
    pub clamp: Clamp,
    /// Elements.
    pub data: &'a mut [i8],
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Shape.
    pub shape: Shape,
    /// The int8 value that stands for 0, -128 to 127.
    pub zero_point: i32,
    /// Offset of its first element in [`Memory::tensors`].
    pub start: usize,
}

/// What a kernel works in, where its output may overlap its input.
#[derive(Debug)]
pub struct Memory<'a> {
    /// All tensors.
    pub tensors: &'a mut [i8],
    /// As much as [`scratch_bytes`] says, with any content.
    pub scratch: &'a mut [u32],
}

/// Weights of a convolution or a dense layer.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// All of them.
    Lanes(Lanes<'a>),
    /// Those that are not 0.
    Sparse(Sparse<'a>),
    /// All of them, which become lanes before they are used.
    Coded(Coded<'a>),
}

/// Weights of a depthwise convolution, output channel by output channel, each row by
/// row.
#[derive(Clone, Copy, Debug)]
pub enum DepthwiseWeights<'a> {
    /// As they are.
    Plain(&'a [i8]),
    /// To be decoded.
    Coded(Coded<'a>),
}

/// Parameters of a convolution, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct ConvParams<'a, W = Weights<'a>> {
    /// Weights.
    pub weights: W,
    /// Biases and factors; of sparse weights, [`sparse::bias`].
    pub channels: Channels<'a>,
}

/// Parameters of a depthwise convolution, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseParams<'a> {
    /// Weights.
    pub weights: DepthwiseWeights<'a>,
    /// Biases and factors.
    pub channels: Channels<'a>,
}

/// Parameters of a dense layer, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct DenseParams<'a> {
    /// Weights.
    pub weights: Weights<'a>,
    /// Biases and factors; of sparse weights, [`sparse::bias`].
    pub units: Units<'a>,
}

/// How the weights of a layer are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// All of them, a byte each.
    #[default]
    Dense,
    /// Those that are not 0: [`sparse`].
    Sparse,
    /// All of them, in as few bits as each value needs: [`coded`].
    Coded,
}

impl Storage {
    /// Its name, as tables have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::Coded => "coded",
        }
    }
}

/// How a layer is computed, as far as its memory depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// With the max pool behind it.
    pub pooled: bool,
    /// From weights that are stored like this.
    pub storage: Storage,
}

/// Bytes of scratch that a layer's kernel may use, a multiple of 4. The same for
/// every target, so that a model needs the same arena everywhere.
pub fn scratch_bytes(layer: &Layer, input: Shape, output: Shape, way: Way) -> usize {
    let fan_in = layer.params(input).map_or(0, |params| params.fan_in);
    match (layer, layer.window(input)) {
        (Layer::Conv2d(_), _) => conv2d::scratch_bytes(fan_in, input, output, way),
        (Layer::DepthwiseConv2d(_), Some(window)) => {
            depthwise_conv2d::scratch_bytes(window, output, way.storage)
        }
        (Layer::Dense(_), _) => dense::scratch_bytes(fan_in, output.channels(), way.storage),
        _ => 0,
    }
}

/// The part of a window that lies inside the input, along one side: which rows
/// of the input, and from which row of the kernel on.
#[derive(Clone, Debug)]
pub(crate) struct Overlap {
    pub(crate) input: Range<usize>,
    pub(crate) kernel_start: usize,
}

/// Window number `index` along a side of `input` elements.
pub(crate) fn overlap(
    index: usize,
    stride: usize,
    before: usize,
    kernel: usize,
    input: usize,
) -> Overlap {
    let start = index * stride;
    let first = start.max(before);
    let last = (start + kernel).min(input + before).max(first);
    Overlap {
        input: first - before..last - before,
        kernel_start: first - start,
    }
}

/// Slides a window over an input: `each` gets the output's channels at one
/// position, and the rows and columns of the input that its window covers.
#[inline]
fn slide(
    window: Window,
    input: Shape,
    output: &mut [i8],
    output_shape: Shape,
    mut each: impl FnMut(&mut [i8], &Overlap, &Overlap),
) {
    let (kernel, stride) = (window.kernel, window.stride);
    let (top, left) = window.padding_before(input);
    let mut pixels = output.chunks_exact_mut(output_shape.channels());
    for y in 0..output_shape.height() {
        let rows = overlap(y, stride.height(), top, kernel.height(), input.height());
        for x in 0..output_shape.width() {
            let columns = overlap(x, stride.width(), left, kernel.width(), input.width());
            let Some(pixel) = pixels.next() else { return };
            each(pixel, &rows, &columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_at_both_borders() {
        // 4 elements, kernel 3, stride 1, one zero on each side.
        let cut: Vec<_> = (0..4).map(|i| overlap(i, 1, 1, 3, 4)).collect();
        let ranges: Vec<_> = cut
            .iter()
            .map(|o| (o.input.clone(), o.kernel_start))
            .collect();
        assert_eq!(ranges, [(0..2, 1), (0..3, 0), (1..4, 0), (2..4, 0)]);
    }
}
