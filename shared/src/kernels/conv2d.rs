//! Convolution.
//!
//! Four output positions at a time are gathered into columns of 16-bit numbers
//! and multiplied with two filters at a time, [`tile`](super::tile).

use super::lanes::words;
use super::tile::{Columns, POSITIONS, Target};
use super::{ConvParams, Memory, View, overlap, target};
use crate::arith::Clamp;
use crate::layer::{Shape, Window};

/// Side and step of the max pool that a convolution can be fused with.
pub const POOL: usize = 2;

/// The positions of a convolution's windows, in the order in which they are
/// computed: four at a time or, pooled, the four of one output at a time.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// Window.
    pub window: Window,
    /// Shape that the window moves over.
    pub input: Shape,
    /// Shape that is written.
    pub output: Shape,
    /// Whether of each 2x2 positions only the largest is written, per channel.
    pub pooled: bool,
}

impl Positions {
    /// Outputs, per channel, that are written at a time.
    pub fn group(&self) -> usize {
        if self.pooled { 1 } else { POSITIONS }
    }

    /// Row and column of the window at a position of the tile that starts with
    /// output number `first`.
    pub fn at(&self, first: usize, position: usize) -> (usize, usize) {
        let width = self.output.width();
        if self.pooled {
            let (y, x) = (first / width, first % width);
            (POOL * y + position / POOL, POOL * x + position % POOL)
        } else {
            ((first + position) / width, (first + position) % width)
        }
    }
}

/// A convolution over tensors in memory.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'a> {
    /// Window.
    pub window: Window,
    /// What it reads.
    pub input: View,
    /// Weights.
    pub params: ConvParams<'a>,
    /// What it writes.
    pub output: View,
    /// Range of the fused activation.
    pub clamp: Clamp,
    /// Whether of each 2x2 positions only the largest is written, per channel.
    pub pooled: bool,
}

/// Bytes of scratch of [`conv2d`], a multiple of 4.
pub fn scratch_bytes(fan_in: usize, input: Shape, output: Shape, pooled: bool) -> usize {
    let blocks = fan_in.div_ceil(4);
    let patch = if input.channels().is_multiple_of(4) {
        0
    } else {
        4 * blocks
    };
    let rows = if pooled { 1 } else { POSITIONS };
    let filters = output.channels();
    let positions = output.height() * output.width();
    let staging = if filters.is_multiple_of(2) && positions.is_multiple_of(rows) {
        0
    } else {
        rows * filters.next_multiple_of(2)
    };
    2 * blocks * size_of::<Columns>() + patch + staging.next_multiple_of(4)
}

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in - zp_in) * w[o, ky, kx, i]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions. Where it
/// is pooled, the largest accumulator may be found first: scaling keeps the order.
///
/// Padding stands for real 0. Positions are written in order, four at a time or,
/// pooled, one at a time, after their windows have been read, so that the output
/// may overlap the input as far as [`crate::plan::lag`] says.
pub fn conv2d(memory: Memory, conv: Conv2d) {
    let Conv2d { input, output, .. } = conv;
    let filters = output.shape.channels();
    let stride = filters.next_multiple_of(2);
    let blocks = conv.params.weights.fan_in().div_ceil(4);
    let (columns, rest) = split(memory.scratch, 2 * blocks * POSITIONS);
    let columns = columns.as_chunks_mut().0;
    let patch_words = match input.shape.channels() % 4 {
        0 => 0,
        _ => blocks,
    };
    let (patch, staging) = split(rest, patch_words);
    let staging: &mut [i8] = bytemuck::cast_slice_mut(staging);
    // What lies between the fan-in and the last word stays real 0.
    bytemuck::cast_slice_mut(patch).fill(input.zero_point as i8);

    let walk = Positions {
        window: conv.window,
        input: input.shape,
        output: output.shape,
        pooled: conv.pooled,
    };
    let rows = walk.group();
    let positions = output.shape.height() * output.shape.width();
    for first in (0..positions).step_by(rows) {
        for position in 0..POSITIONS {
            let at = walk.at(first, position);
            gather(&conv, memory.tensors, at, patch, columns, position);
        }
        let count = rows.min(positions - first);
        let start = output.start + first * filters;
        let whole = memory.tensors.get_mut(start..start + count * filters);
        let outputs = whole.unwrap_or_default();
        let multiply = |rows: &mut [i8]| {
            let columns = columns.get(..words(conv.params.weights.fan_in()));
            let target = Target {
                rows,
                stride,
                zero_point: output.zero_point,
                pooled: conv.pooled,
            };
            target::multiply(conv.params, columns.unwrap_or_default(), target);
        };
        if count == rows && stride == filters {
            multiply(outputs);
        } else {
            let staging = staging.get_mut(..rows * stride).unwrap_or_default();
            multiply(staging);
            for (to, from) in outputs.chunks_mut(filters).zip(staging.chunks(stride)) {
                to.copy_from_slice(from.get(..filters).unwrap_or_default());
            }
        }
        conv.clamp.cut(outputs);
    }
}

fn split<T>(slice: &mut [T], at: usize) -> (&mut [T], &mut [T]) {
    slice.split_at_mut_checked(at).unwrap_or_default()
}

/// Brings what the window covers at `(y, x)` into the columns of a position;
/// padding is real 0. Positions behind the last one have no rows to cover.
fn gather(
    conv: &Conv2d,
    tensors: &[i8],
    (y, x): (usize, usize),
    patch: &mut [u32],
    columns: &mut [Columns],
    position: usize,
) {
    let Conv2d { window, input, .. } = *conv;
    let (kernel, stride) = (window.kernel, window.stride);
    let (top, left) = window.padding_before(input.shape);
    let (height, width) = (input.shape.height(), input.shape.width());
    let rows = overlap(y, stride.height(), top, kernel.height(), height);
    let across = overlap(x, stride.width(), left, kernel.width(), width);
    let channels = input.shape.channels();
    let kernel_row = kernel.width() * channels;
    let run = across.input.len() * channels;
    let padded = rows.input.len() * run != kernel.height() * kernel_row;
    let to = rows.kernel_start * kernel_row + across.kernel_start * channels;
    let from = input.start + (rows.input.start * width + across.input.start) * channels;
    let runs = (0..rows.input.len()).map(|row| {
        let from = from + row * width * channels;
        let run = tensors.get(from..from + run).unwrap_or_default();
        (to + row * kernel_row, run)
    });
    if channels.is_multiple_of(4) {
        if padded {
            for column in columns.iter_mut() {
                column[position] = 0;
            }
        }
        for (to, run) in runs {
            let columns = columns.get_mut(to / 2..).unwrap_or_default();
            let bytes: &[u8] = bytemuck::cast_slice(run);
            target::widen(bytes.as_chunks().0, input.zero_point, columns, position);
        }
    } else {
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(patch);
        if padded {
            bytes.fill(input.zero_point as i8);
        }
        for (to, run) in runs {
            for (to, &from) in bytes.iter_mut().skip(to).zip(run) {
                *to = from;
            }
        }
        target::widen(bytemuck::cast_slice(patch), input.zero_point, columns, position);
    }
}
