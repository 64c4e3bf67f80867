//! Convolution.
//!
//! Four output positions at a time are gathered into columns of 16-bit numbers
//! and multiplied with two filters at a time, [`tile`](super::tile).

use super::lanes::words;
use super::tile::{Columns, POSITIONS, Runs, Target};
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
    let patch = bytemuck::cast_slice_mut(patch);
    patch.fill(input.zero_point as i8);

    let gather = Gather::new(conv.window, input);
    let filters_of = target::Filters::new(conv.params);
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
            gather.window(memory.tensors, at, patch, columns, position);
        }
        let count = rows.min(positions - first);
        let start = output.start + first * filters;
        let whole = memory.tensors.get_mut(start..start + count * filters);
        let outputs = whole.unwrap_or_default();
        let multiply = |rows: &mut [i8]| {
            let columns = columns.get(..words(conv.params.weights.fan_in()));
            let to = Target {
                rows,
                stride,
                zero_point: output.zero_point,
                pooled: conv.pooled,
            };
            filters_of.multiply(columns.unwrap_or_default(), to);
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

/// Brings windows into columns.
struct Gather {
    window: Window,
    input: View,
    /// Zeroes above and to the left of the input.
    padding: (usize, usize),
    /// Bytes of one row of the window, and of the input.
    kernel_row: usize,
    row: usize,
}

impl Gather {
    fn new(window: Window, input: View) -> Self {
        let channels = input.shape.channels();
        Self {
            window,
            input,
            padding: window.padding_before(input.shape),
            kernel_row: window.kernel.width() * channels,
            row: input.shape.width() * channels,
        }
    }

    /// Brings what the window covers at `(y, x)` into the columns of a position;
    /// padding is real 0. Positions behind the last one cover nothing.
    #[inline(never)]
    fn window(
        &self,
        tensors: &[i8],
        (y, x): (usize, usize),
        patch: &mut [i8],
        columns: &mut [Columns],
        position: usize,
    ) {
        let (kernel, stride) = (self.window.kernel, self.window.stride);
        let (shape, (top, left)) = (self.input.shape, self.padding);
        let channels = shape.channels();
        let rows = overlap(y, stride.height(), top, kernel.height(), shape.height());
        let across = overlap(x, stride.width(), left, kernel.width(), shape.width());
        let runs = Runs {
            count: rows.input.len(),
            bytes: across.input.len() * channels,
            from: self.input.start + rows.input.start * self.row + across.input.start * channels,
            from_step: self.row,
            to: rows.kernel_start * self.kernel_row + across.kernel_start * channels,
            to_step: self.kernel_row,
        };
        let padded = runs.bytes != self.kernel_row || runs.count != kernel.height();
        let zero_point = self.input.zero_point;
        if channels.is_multiple_of(4) {
            if padded {
                columns.iter_mut().for_each(|column| column[position] = 0);
            }
            target::widen_runs(tensors, runs, zero_point, columns, position);
        } else {
            if padded {
                patch.fill(zero_point as i8);
            }
            target::copy_runs(tensors, runs, patch);
            let whole = Runs {
                count: 1,
                bytes: patch.len(),
                ..Runs::default()
            };
            target::widen_runs(patch, whole, zero_point, columns, position);
        }
    }
}
