//! Convolution.
//!
//! Four output positions at a time are gathered into columns of 16-bit numbers
//! and multiplied with two filters at a time, [`tile`]; or eight, with the weights
//! of one filter that are not 0, [`sparse`].

use super::channels::Channels;
use super::lanes::{Lanes, words};
use super::sparse::{self, Column, QUAD};
use super::tile::{Columns, Runs, Taps, Target};
use super::{ConvParams, Memory, Storage, View, Way, Weights, lanes, overlap, target, tile};
use crate::arith::Clamp;
use crate::layer::{Shape, Window};

/// Side and step of the max pool that a convolution can be fused with.
pub const POOL: usize = 2;

/// The positions of a convolution's windows, in the order in which they are
/// computed: one tile at a time or, pooled, those of one or two outputs.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// Window.
    pub window: Window,
    /// Shape that the window moves over.
    pub input: Shape,
    /// Shape that is written.
    pub output: Shape,
    /// Whether of each 2x2 positions only the largest is written, per channel, and
    /// how many positions make a tile.
    pub way: Way,
}

impl Positions {
    /// Row and column of the window at a position of the tile that starts with
    /// output number `first`.
    #[inline(always)]
    pub fn at(&self, first: usize, position: usize) -> (usize, usize) {
        let width = self.output.width();
        let at = |number: usize| {
            let y = number.checked_div(width).unwrap_or(0); // no side is 0
            (y, number - y * width)
        };
        if self.way.pooled {
            let (y, x) = at(first + position / QUAD);
            let (down, right) = (position % QUAD / POOL, position % POOL);
            (POOL * y + down, POOL * x + right)
        } else {
            at(first + position)
        }
    }
}

impl Way {
    /// Positions of one tile of a convolution, a multiple of [`QUAD`].
    pub fn tile(self) -> usize {
        match self.storage {
            Storage::Sparse => sparse::POSITIONS,
            Storage::Dense | Storage::Coded => tile::POSITIONS,
        }
    }

    /// Positions of which one output of a convolution is made.
    pub fn per_output(self) -> usize {
        if self.pooled { POOL * POOL } else { 1 }
    }

    /// Outputs of a convolution, per channel, that are written at a time.
    pub fn group(self) -> usize {
        self.tile() / self.per_output()
    }

    /// Outputs of a convolution that are written at one position: where two filters
    /// share their weights, an even number.
    fn stride(self, filters: usize) -> usize {
        match self.storage {
            Storage::Sparse => filters,
            Storage::Dense | Storage::Coded => filters.next_multiple_of(2),
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
pub fn scratch_bytes(fan_in: usize, input: Shape, output: Shape, way: Way) -> usize {
    let (filters, positions) = (output.channels(), output.height() * output.width());
    let (rows, stride) = (way.group(), way.stride(filters));
    let staging = if stride == filters && positions.is_multiple_of(rows) {
        0
    } else {
        rows * stride
    };
    let columns = match way.storage {
        Storage::Sparse => sparse_column_words(fan_in),
        Storage::Dense | Storage::Coded => column_words(fan_in) + taps(fan_in, input).div_ceil(2),
    };
    let decoded = match way.storage {
        Storage::Coded => lanes::bytes(fan_in, filters),
        Storage::Dense | Storage::Sparse => 0,
    };
    decoded + 4 * (columns + staging.div_ceil(4))
}

/// Words of the columns of `fan_in` taps.
fn column_words(fan_in: usize) -> usize {
    2 * fan_in.div_ceil(4) * tile::POSITIONS
}

/// Those of a sparse tile.
fn sparse_column_words(fan_in: usize) -> usize {
    fan_in * size_of::<Column>() / 4
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
/// Padding stands for real 0. Positions are written in order, a tile at a time,
/// after their windows have been read, so that the output may overlap the input as
/// far as [`crate::plan::lag`] says.
pub fn conv2d(memory: Memory, conv: Conv2d) {
    let ConvParams { weights, channels } = conv.params;
    match weights {
        Weights::Lanes(weights) => walk_lanes(memory, &conv, weights, channels),
        Weights::Coded(weights) => {
            let Memory { tensors, scratch } = memory;
            let (decoded, scratch) = split(scratch, weights.lane_words());
            let memory = Memory { tensors, scratch };
            walk_lanes(memory, &conv, weights.lanes(decoded), channels);
        }
        Weights::Sparse(weights) => {
            let words = sparse_column_words(weights.fan_in());
            let (columns, staging) = split(memory.scratch, words);
            let (columns, _) = bytemuck::cast_slice_mut::<_, i16>(columns).as_chunks_mut();
            let mut tile = SparseTile {
                columns,
                zero_point: conv.input.zero_point as i16,
                filters: target::SparseFilters::new(ConvParams { weights, channels }),
            };
            walk(memory.tensors, staging, &conv, Storage::Sparse, &mut tile);
        }
    }
}

/// [`conv2d`] with all weights.
fn walk_lanes(memory: Memory, conv: &Conv2d, weights: Lanes, channels: Channels) {
    let fan_in = weights.fan_in();
    let (columns, rest) = split(memory.scratch, column_words(fan_in));
    // Words of fewer than four taps, and padding, stay real 0.
    columns.fill(0);
    let count = taps(fan_in, conv.input.shape);
    let (places, staging) = split(rest, count.div_ceil(2));
    let places = bytemuck::cast_slice_mut(places).get_mut(..count);
    let mut tile = LaneTile {
        columns: columns.as_chunks_mut().0,
        words: words(fan_in),
        taps: (count > 0).then(|| Taps::new(places.unwrap_or_default())),
        zero_point: conv.input.zero_point,
        filters: target::Filters::new(ConvParams { weights, channels }),
    };
    walk(memory.tensors, staging, conv, Storage::Dense, &mut tile);
}

/// Computes all tiles.
fn walk(
    tensors: &mut [i8],
    staging: &mut [u32],
    conv: &Conv2d,
    storage: Storage,
    tile: &mut dyn Tile,
) {
    let (input, output) = (conv.input, conv.output);
    let way = Way {
        pooled: conv.pooled,
        storage,
    };
    let walk = Positions {
        window: conv.window,
        input: input.shape,
        output: output.shape,
        way,
    };
    let gather = Gather::new(walk, input);
    let staging: &mut [i8] = bytemuck::cast_slice_mut(staging);
    let filters = output.shape.channels();
    let (rows, stride) = (way.group(), way.stride(filters));
    let positions = output.shape.height() * output.shape.width();
    for first in (0..positions).step_by(rows) {
        gather.tile(tensors, first, tile);
        let count = rows.min(positions - first);
        let start = output.start + first * filters;
        let outputs = tensors.get_mut(start..start + count * filters);
        let outputs = outputs.unwrap_or_default();
        let target = |rows| Target {
            rows,
            stride,
            zero_point: output.zero_point,
            pooled: conv.pooled,
        };
        if count == rows && stride == filters {
            tile.multiply(target(&mut *outputs));
        } else {
            let staging = staging.get_mut(..rows * stride).unwrap_or_default();
            tile.multiply(target(&mut *staging));
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

/// What the windows of a tile cover, and the filters that it meets.
trait Tile {
    /// Brings rows of bytes in: of position `first` the rows that begin at the first
    /// of `starts`, and so on.
    fn bring(&mut self, tensors: &[i8], runs: Runs, starts: &[usize], first: usize);

    /// Makes all of one position padding.
    fn clear(&mut self, position: usize);

    /// Writes the outputs of all filters, without an activation.
    fn multiply(&self, target: Target);
}

/// For [`super::lanes`].
struct LaneTile<'a> {
    columns: &'a mut [Columns],
    words: usize,
    /// Where each tap goes, where not four channels at a time are widened.
    taps: Option<Taps<'a>>,
    zero_point: i32,
    filters: target::Filters<'a>,
}

impl Tile for LaneTile<'_> {
    fn bring(&mut self, tensors: &[i8], runs: Runs, starts: &[usize], first: usize) {
        let (zero_point, columns) = (self.zero_point, &mut *self.columns);
        match self.taps {
            None => target::widen_rows(tensors, runs, starts, zero_point, columns, first),
            Some(taps) => target::scatter(tensors, runs, starts, zero_point, columns, first, taps),
        }
    }

    fn clear(&mut self, position: usize) {
        let words = self.columns.iter_mut();
        words
            .filter_map(|column| column.get_mut(position))
            .for_each(|word| *word = 0);
    }

    fn multiply(&self, target: Target) {
        let columns = self.columns.get(..self.words).unwrap_or_default();
        self.filters.multiply(columns, target);
    }
}

/// For [`super::sparse`].
struct SparseTile<'a> {
    columns: &'a mut [Column],
    zero_point: i16,
    filters: target::SparseFilters<'a>,
}

impl Tile for SparseTile<'_> {
    fn bring(&mut self, tensors: &[i8], runs: Runs, starts: &[usize], first: usize) {
        target::spread(tensors, runs, starts, self.columns, first);
    }

    fn clear(&mut self, position: usize) {
        let taps = self.columns.iter_mut();
        taps.filter_map(|column| column.get_mut(position))
            .for_each(|x| *x = self.zero_point);
    }

    fn multiply(&self, target: Target) {
        self.filters.multiply(self.columns, target);
    }
}

fn split<T>(slice: &mut [T], at: usize) -> (&mut [T], &mut [T]) {
    slice.split_at_mut_checked(at).unwrap_or_default()
}

/// Brings windows into tiles.
struct Gather {
    walk: Positions,
    input: View,
    /// Zeroes above and to the left of the input.
    padding: (usize, usize),
    /// Rows and columns at which a window may start that lies inside the input.
    inside: (usize, usize),
    /// The rows of such a window; they start at 0.
    whole: Runs,
    /// Rows and columns from the first position of four to the last.
    corner: (usize, usize),
    /// Bytes from the window of the first position to that of each.
    steps: [usize; QUAD],
}

impl Gather {
    fn new(walk: Positions, input: View) -> Self {
        let (kernel, stride) = (walk.window.kernel, walk.window.stride);
        let (shape, channels) = (input.shape, input.shape.channels());
        let starts = |input: usize, kernel: usize| (input + 1).saturating_sub(kernel);
        let (row, bytes) = (shape.width() * channels, kernel.width() * channels);
        let (down, right) = (stride.height() * row, stride.width() * channels);
        let (corner, steps) = if walk.way.pooled {
            ((1, 1), [0, right, down, down + right])
        } else {
            ((0, 3), [0, right, 2 * right, 3 * right])
        };
        Self {
            walk,
            input,
            padding: walk.window.padding_before(shape),
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
        }
    }

    /// Brings in what the windows of a tile cover, four positions at a time.
    /// Positions behind the last one cover nothing.
    fn tile(&self, tensors: &[i8], first: usize, tile: &mut dyn Tile) {
        for quad in (0..self.walk.way.tile()).step_by(QUAD) {
            self.quad(tensors, first, quad, tile);
        }
    }

    fn quad(&self, tensors: &[i8], first: usize, quad: usize, tile: &mut dyn Tile) {
        let at = |position| self.walk.at(first, quad + position);
        let (start, last) = (at(0), at(QUAD - 1));
        // Both corners of a pool's window, or the ends of a part of a row.
        let block = last == (start.0 + self.corner.0, start.1 + self.corner.1);
        let starts = match (block, self.start(start), self.start(last)) {
            (true, Some(start), Some(_)) => Some(self.steps.map(|step| start + step)),
            (true, ..) => None,
            _ => self.apart(at),
        };
        if let Some(starts) = starts {
            return tile.bring(tensors, self.whole, &starts, quad);
        }
        for position in 0..QUAD {
            let at = at(position);
            if let Some(start) = self.start(at) {
                tile.bring(tensors, self.whole, &[start], quad + position);
            } else {
                tile.clear(quad + position);
                let (runs, start) = self.cut(at);
                tile.bring(tensors, runs, &[start], quad + position);
            }
        }
    }

    /// Where four windows start, of which none covers padding.
    fn apart(&self, at: impl Fn(usize) -> (usize, usize)) -> Option<[usize; QUAD]> {
        let mut starts = [0; QUAD];
        for (position, to) in starts.iter_mut().enumerate() {
            *to = self.start(at(position))?;
        }
        Some(starts)
    }

    /// Where a window starts that covers no padding.
    #[inline(always)]
    fn start(&self, (y, x): (usize, usize)) -> Option<usize> {
        let (stride, (top, left)) = (self.walk.window.stride, self.padding);
        // Above and left of the input they wrap, and are too large as well.
        let row = (y * stride.height()).wrapping_sub(top);
        let column = (x * stride.width()).wrapping_sub(left);
        let (rows, columns) = self.inside;
        (row < rows && column < columns).then(|| self.offset(row, column))
    }

    /// The rows of a window that are inside the input, and where the first starts.
    #[inline(never)]
    fn cut(&self, (y, x): (usize, usize)) -> (Runs, usize) {
        let Window { kernel, stride, .. } = self.walk.window;
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
