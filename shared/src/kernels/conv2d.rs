//! Convolution.
//!
//! Four output positions at a time are gathered into columns of 16-bit numbers
//! and multiplied with two filters at a time, [`tile`](super::tile).

use super::lanes::words;
use super::tile::{Columns, POSITIONS, Runs, Taps, Target};
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
        let at = |number: usize| {
            let y = number.checked_div(width).unwrap_or(0); // no side is 0
            (y, number - y * width)
        };
        if self.pooled {
            let (y, x) = at(first);
            (POOL * y + position / POOL, POOL * x + position % POOL)
        } else {
            at(first + position)
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
    let rows = if pooled { 1 } else { POSITIONS };
    let filters = output.channels();
    let positions = output.height() * output.width();
    let staging = if filters.is_multiple_of(2) && positions.is_multiple_of(rows) {
        0
    } else {
        rows * filters.next_multiple_of(2)
    };
    4 * (column_words(fan_in) + taps(fan_in, input).div_ceil(2) + staging.div_ceil(4))
}

/// Words of the columns of `fan_in` taps.
fn column_words(fan_in: usize) -> usize {
    2 * fan_in.div_ceil(4) * POSITIONS
}

/// How many taps are brought to their place one by one: none where they come four
/// channels at a time.
fn taps(fan_in: usize, input: Shape) -> usize {
    if input.channels().is_multiple_of(4) {
        0
    } else {
        fan_in
    }
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
    let fan_in = conv.params.weights.fan_in();
    let (columns, rest) = split(memory.scratch, column_words(fan_in));
    // Words of fewer than four taps, and padding, stay real 0.
    columns.fill(0);
    let columns = columns.as_chunks_mut().0;
    let count = taps(fan_in, input.shape);
    let (places, staging) = split(rest, count.div_ceil(2));
    let places = bytemuck::cast_slice_mut(places).get_mut(..count);
    let taps = (count > 0).then(|| Taps::new(places.unwrap_or_default()));
    let walk = Positions {
        window: conv.window,
        input: input.shape,
        output: output.shape,
        pooled: conv.pooled,
    };
    let gather = Gather::new(&walk, input, taps);
    let staging: &mut [i8] = bytemuck::cast_slice_mut(staging);
    let all = target::Filters::new(conv.params);

    let rows = walk.group();
    let positions = output.shape.height() * output.shape.width();
    for first in (0..positions).step_by(rows) {
        gather.tile(memory.tensors, |position| walk.at(first, position), columns);
        let count = rows.min(positions - first);
        let start = output.start + first * filters;
        let whole = memory.tensors.get_mut(start..start + count * filters);
        let outputs = whole.unwrap_or_default();
        let multiply = |rows: &mut [i8]| {
            let columns = columns.get(..words(fan_in));
            let to = Target {
                rows,
                stride,
                zero_point: output.zero_point,
                pooled: conv.pooled,
            };
            all.multiply(columns.unwrap_or_default(), to);
        };
        if count == rows && stride == filters {
            multiply(outputs);
        } else {
            let staging = staging.get_mut(..rows * stride).unwrap_or_default();
            multiply(staging);
            for row in 0..count {
                let to = outputs.get_mut(row * filters..(row + 1) * filters);
                let from = staging.get(row * stride..).unwrap_or_default();
                let bytes = to.unwrap_or_default().iter_mut().zip(from);
                bytes.for_each(|(to, from)| *to = *from);
            }
        }
        conv.clamp.cut(outputs);
    }
}

fn split<T>(slice: &mut [T], at: usize) -> (&mut [T], &mut [T]) {
    slice.split_at_mut_checked(at).unwrap_or_default()
}

/// Brings windows into columns.
struct Gather<'s> {
    window: Window,
    input: View,
    /// Zeroes above and to the left of the input.
    padding: (usize, usize),
    /// Rows and columns at which a window may start that lies inside the input.
    inside: (usize, usize),
    /// The rows of such a window; they start at 0.
    whole: Runs,
    /// Rows and columns from the first position of a tile to the last.
    corner: (usize, usize),
    /// Bytes from the window of the first position to that of each.
    steps: [usize; POSITIONS],
    /// Where each tap goes, where not four channels at a time are widened.
    taps: Option<Taps<'s>>,
}

impl<'s> Gather<'s> {
    fn new(positions: &Positions, input: View, taps: Option<Taps<'s>>) -> Self {
        let Positions { window, pooled, .. } = *positions;
        let (kernel, stride) = (window.kernel, window.stride);
        let (shape, channels) = (input.shape, input.shape.channels());
        let starts = |input: usize, kernel: usize| (input + 1).saturating_sub(kernel);
        let (row, bytes) = (shape.width() * channels, kernel.width() * channels);
        let (down, right) = (stride.height() * row, stride.width() * channels);
        let (corner, steps) = if pooled {
            ((1, 1), [0, right, down, down + right])
        } else {
            ((0, 3), [0, right, 2 * right, 3 * right])
        };
        Self {
            window,
            input,
            padding: window.padding_before(shape),
            inside: (
                starts(shape.height(), kernel.height()),
                starts(shape.width(), kernel.width()),
            ),
            whole: Runs {
                count: kernel.height(),
                bytes,
                from_step: row,
                to: 0,
                to_step: bytes,
            },
            corner,
            steps,
            taps,
        }
    }

    /// Brings what the windows of a tile cover into the columns; padding is real 0.
    /// Positions behind the last one cover nothing.
    fn tile(&self, tensors: &[i8], at: impl Fn(usize) -> (usize, usize), columns: &mut [Columns]) {
        let (first, last) = (at(0), at(POSITIONS - 1));
        // Both corners of a pool's window, or the ends of a part of a row.
        let block = last == (first.0 + self.corner.0, first.1 + self.corner.1);
        let ends = (self.start(first), self.start(last));
        if let (true, (Some(start), Some(_))) = (block, ends) {
            let starts = self.steps.map(|step| start + step);
            return self.bring(tensors, self.whole, &starts, columns, 0);
        }
        for position in 0..POSITIONS {
            let at = at(position);
            if let Some(start) = self.start(at) {
                self.bring(tensors, self.whole, &[start], columns, position);
            } else {
                let of_position = columns
                    .iter_mut()
                    .filter_map(|column| column.get_mut(position));
                of_position.for_each(|word| *word = 0);
                let (runs, start) = self.cut(at);
                self.bring(tensors, runs, &[start], columns, position);
            }
        }
    }

    fn bring(
        &self,
        tensors: &[i8],
        runs: Runs,
        starts: &[usize],
        columns: &mut [Columns],
        first: usize,
    ) {
        let zero_point = self.input.zero_point;
        match self.taps {
            None => target::widen_rows(tensors, runs, starts, zero_point, columns, first),
            Some(taps) => target::scatter(tensors, runs, starts, zero_point, columns, first, taps),
        }
    }

    /// Where a window starts that covers no padding.
    #[inline(always)]
    fn start(&self, (y, x): (usize, usize)) -> Option<usize> {
        let (stride, (top, left)) = (self.window.stride, self.padding);
        // Above and left of the input they wrap, and are too large as well.
        let row = (y * stride.height()).wrapping_sub(top);
        let column = (x * stride.width()).wrapping_sub(left);
        let (rows, columns) = self.inside;
        (row < rows && column < columns).then(|| self.offset(row, column))
    }

    /// The rows of a window that are inside the input, and where the first starts.
    #[inline(never)]
    fn cut(&self, (y, x): (usize, usize)) -> (Runs, usize) {
        let (kernel, stride) = (self.window.kernel, self.window.stride);
        let (shape, (top, left)) = (self.input.shape, self.padding);
        let channels = shape.channels();
        let rows = overlap(y, stride.height(), top, kernel.height(), shape.height());
        let across = overlap(x, stride.width(), left, kernel.width(), shape.width());
        let runs = Runs {
            count: rows.input.len(),
            bytes: across.input.len() * channels,
            to: rows.kernel_start * self.whole.bytes + across.kernel_start * channels,
            ..self.whole
        };
        (runs, self.offset(rows.input.start, across.input.start))
    }

    /// Offset of a row and column of the input.
    fn offset(&self, row: usize, column: usize) -> usize {
        self.input.start + row * self.whole.from_step + column * self.input.shape.channels()
    }
}
