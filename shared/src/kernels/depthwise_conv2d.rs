//! Depthwise convolution.
//!
//! One channel at a time is copied into a plane of 16-bit numbers with its
//! padding, so that its outputs may take the place of its inputs.

use super::target;
use super::tile::Runs;
use super::{DepthwiseParams, DepthwiseWeights, Memory, Storage, View};
use crate::arith::{Clamp, Multiplier};
use crate::layer::{Shape, Window};

/// A depthwise convolution over tensors in memory.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseConv2d<'a> {
    /// Window.
    pub window: Window,
    /// What it reads.
    pub input: View,
    /// Weights.
    pub params: DepthwiseParams<'a>,
    /// What it writes.
    pub output: View,
    /// Range of the fused activation.
    pub clamp: Clamp,
}

/// Size of a plane.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Rows: all that some window covers.
    pub height: usize,
    /// 16-bit numbers from one row to the next, even.
    pub stride: usize,
}

impl Plane {
    /// The plane that a window needs for an output of this shape.
    pub fn new(window: Window, output: Shape) -> Self {
        let side = |outputs: usize, stride: usize, kernel: usize| (outputs - 1) * stride + kernel;
        let (kernel, stride) = (window.kernel, window.stride);
        Self {
            height: side(output.height(), stride.height(), kernel.height()),
            stride: side(output.width(), stride.width(), kernel.width()).next_multiple_of(2),
        }
    }

    /// Words of two numbers.
    pub fn words(self) -> usize {
        self.height * self.stride / 2
    }
}

/// Bytes of scratch of [`depthwise_conv2d`], a multiple of 4: a plane, and the weights
/// of one channel where they are decoded.
pub fn scratch_bytes(window: Window, output: Shape, storage: Storage) -> usize {
    let weights = match storage {
        Storage::Coded => weight_words(window),
        Storage::Dense | Storage::Sparse => 0,
    };
    4 * (Plane::new(window, output).words() + weights)
}

/// Words that hold the weights of one channel.
fn weight_words(window: Window) -> usize {
    window.kernel.area().div_ceil(4)
}

/// One filter over one plane.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    /// Window.
    pub window: Window,
    /// Weights, row by row.
    pub weights: &'a [i8],
    /// Bias.
    pub bias: i32,
    /// Factor.
    pub factor: Multiplier,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Rows, columns and channels of the output.
    pub output: Shape,
}

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in[.., o / multiplier] - zp_in) * w[o, ky, kx]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions. The output
/// may be the input where both have one shape.
#[inline(never)] // the decoder's table is on the stack for no other layer
pub fn depthwise_conv2d(memory: Memory, conv: DepthwiseConv2d) {
    let DepthwiseConv2d { input, output, .. } = conv;
    let plane = Plane::new(conv.window, output.shape);
    let cut = memory.scratch.split_at_mut_checked(plane.words());
    let (cells, decoded) = cut.unwrap_or_default();
    cells.fill(0);
    let area = conv.window.kernel.area();
    let (plain, mut decoder) = match conv.params.weights {
        DepthwiseWeights::Plain(weights) => (weights, None),
        DepthwiseWeights::Coded(coded) => (Default::default(), Some(coded.decoder())),
    };
    let decoded: &mut [i8] = bytemuck::cast_slice_mut(decoded);
    let decoded = decoded.get_mut(..area).unwrap_or_default();
    let multiplier = output.shape.channels().checked_div(input.shape.channels());
    let multiplier = multiplier.unwrap_or(1); // no side is 0
    let channels = conv.params.channels.iter().take(output.shape.channels());
    for (o, (bias, factor)) in channels.enumerate() {
        let weights = match &mut decoder {
            None => plain.get(o * area..(o + 1) * area),
            Some(decoder) => {
                decoder.weights(decoded);
                Some(&*decoded)
            }
        };
        if o.is_multiple_of(multiplier) {
            let cells = bytemuck::cast_slice_mut(cells);
            copy_channel(
                &conv,
                memory.tensors,
                o.checked_div(multiplier).unwrap_or(0),
                plane,
                cells,
            );
        }
        let filter = Filter {
            window: conv.window,
            weights: weights.unwrap_or_default(),
            bias,
            factor,
            zero_point: output.zero_point,
            output: output.shape,
        };
        let end = output.start + output.shape.len();
        let outputs = memory.tensors.get_mut(output.start + o..end);
        target::filter_plane(cells, plane, filter, outputs.unwrap_or_default());
    }
    let outputs = output.start..output.start + output.shape.len();
    conv.clamp
        .cut(memory.tensors.get_mut(outputs).unwrap_or_default());
}

/// Copies what the windows cover of a channel, less the zero point; padding is 0
/// already.
fn copy_channel(
    conv: &DepthwiseConv2d,
    tensors: &[i8],
    channel: usize,
    plane: Plane,
    cells: &mut [i16],
) {
    let shape = conv.input.shape;
    let (top, left) = conv.window.padding_before(shape);
    let runs = Runs {
        count: shape.height().min(plane.height - top),
        bytes: shape.width().min(plane.stride - left),
        from_step: shape.width() * shape.channels(),
        to: top * plane.stride + left,
        to_step: plane.stride,
    };
    let start = conv.input.start + channel;
    let (step, zero_point) = (shape.channels(), conv.input.zero_point);
    target::copy_plane(tensors, runs, start, step, zero_point, cells);
}

/// Copies rows of bytes, less the zero point: the first at `start`, and in each row
/// one after every `step` bytes.
pub fn copy_plane(
    from: &[i8],
    runs: Runs,
    start: usize,
    step: usize,
    zero_point: i32,
    to: &mut [i16],
) {
    for row in 0..runs.count {
        let source = from.get(start + row * runs.from_step..);
        let source = source.unwrap_or_default().iter().step_by(step.max(1));
        let target = to.get_mut(runs.to + row * runs.to_step..);
        for (to, &x) in target
            .unwrap_or_default()
            .iter_mut()
            .zip(source.take(runs.bytes))
        {
            *to = i16::from(x) - zero_point as i16;
        }
    }
}

/// Writes a filter's outputs, one every `output.channels()` bytes, without an
/// activation.
pub fn filter_plane(cells: &[u32], plane: Plane, filter: Filter, outputs: &mut [i8]) {
    let cells: &[i16] = bytemuck::cast_slice(cells);
    let (kernel, stride) = (filter.window.kernel, filter.window.stride);
    let (width, channels) = (filter.output.width(), filter.output.channels().max(1));
    for (index, out) in outputs.iter_mut().step_by(channels).enumerate() {
        let y = index.checked_div(width).unwrap_or(0);
        let x = index - y * width;
        let from = y * stride.height() * plane.stride + x * stride.width();
        let rows = cells
            .get(from..)
            .unwrap_or_default()
            .chunks(plane.stride.max(1));
        let weights = filter.weights.chunks(kernel.width().max(1));
        let products = rows.zip(weights).flat_map(|(row, weights)| {
            let pairs = row.iter().zip(weights);
            pairs.map(|(&x, &w)| i32::from(x) * i32::from(w))
        });
        let sum = products.sum();
        *out = super::tile::finish(sum, filter.bias, filter.factor, filter.zero_point);
    }
}
