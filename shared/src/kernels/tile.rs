//! A tile: two filters at four positions, the unit of work of a convolution. What
//! is here is portable; [`super::target`] chooses.

use super::ConvParams;
use super::lanes::{Lanes, SEGMENT, lane_of};
use crate::arith::Multiplier;

/// Positions of one tile.
pub const POSITIONS: usize = 4;

/// The inputs that meet one word of [`super::lanes`] at four positions: two taps
/// each, less the zero point, as 16-bit numbers with the earlier tap in the low
/// half.
pub type Columns = [u32; POSITIONS];

/// Where the outputs of four positions go.
#[derive(Debug)]
pub struct Target<'a> {
    /// One row for each position, or one for all where it is `pooled`.
    pub rows: &'a mut [i8],
    /// Bytes from one row to the next: the number of filters, or one more where
    /// that is odd.
    pub stride: usize,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Whether only the largest of the four positions is kept.
    pub pooled: bool,
}

/// The filters of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a>(ConvParams<'a, Lanes<'a>>);

impl<'a> Filters<'a> {
    /// Of these parameters.
    pub fn new(params: ConvParams<'a, Lanes<'a>>) -> Self {
        Self(params)
    }

    /// Writes the outputs of all filters at four positions, without an activation.
    pub fn multiply(&self, columns: &[Columns], target: Target) {
        let mut channels = self.0.channels.iter();
        for (pair, lanes) in self.0.weights.pairs().enumerate() {
            for (filter, sums) in (2 * pair..).zip(sums(lanes, columns)) {
                let Some((bias, factor)) = channels.next() else {
                    return;
                };
                let outputs = sums.map(|sum| finish(sum, bias, factor, target.zero_point));
                if target.pooled {
                    if let Some(to) = target.rows.get_mut(filter) {
                        *to = outputs.into_iter().max().unwrap_or_default();
                    }
                    continue;
                }
                for (row, output) in target.rows.chunks_mut(target.stride.max(1)).zip(outputs) {
                    if let Some(to) = row.get_mut(filter) {
                        *to = output;
                    }
                }
            }
        }
    }
}

/// Brings an accumulator to the scale of the output.
pub fn finish(sum: i32, bias: i32, factor: Multiplier, zero_point: i32) -> i8 {
    let scaled = factor.apply(sum.wrapping_add(bias));
    let shifted = scaled.saturating_add(zero_point);
    shifted.clamp(i8::MIN.into(), i8::MAX.into()) as i8
}

/// Sums of products of two filters at four positions. Sums wrap: a position that
/// is not there may hold anything.
pub fn sums(lanes: &[[u8; 4]], columns: &[Columns]) -> [[i32; POSITIONS]; 2] {
    let mut sums = [[0i32; POSITIONS]; 2];
    for (lanes, columns) in lanes.chunks(SEGMENT).zip(columns.chunks(SEGMENT)) {
        let (mut mixed, mut low) = ([0i32; POSITIONS], [0i32; POSITIONS]);
        for (&[a, b, c, d], column) in lanes.iter().zip(columns) {
            let lanes = [[a, b], [c, d]].map(i16::from_le_bytes);
            let lows = lanes.map(|lane| i16::from(lane as i8));
            let xs: [[i16; 2]; POSITIONS] = bytemuck::cast(*column);
            for ((mixed, low), x) in mixed.iter_mut().zip(&mut low).zip(xs) {
                *mixed = mixed.wrapping_add(product(lanes, x));
                *low = low.wrapping_add(product(lows, x));
            }
        }
        for (position, (mixed, low)) in mixed.into_iter().zip(low).enumerate() {
            sums[0][position] = sums[0][position].wrapping_add(low);
            let high = mixed.wrapping_sub(low) >> 8;
            sums[1][position] = sums[1][position].wrapping_add(high);
        }
    }
    sums
}

/// The sum of two products, wrapping.
pub fn product(a: [i16; 2], b: [i16; 2]) -> i32 {
    let [[a, c], [b, d]] = [a, b].map(|pair| pair.map(i32::from));
    a.wrapping_mul(b).wrapping_add(c.wrapping_mul(d))
}

/// Rows of bytes to copy, such as those that a window covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    /// Rows.
    pub count: usize,
    /// Bytes of each.
    pub bytes: usize,
    /// Bytes from the start of a row to that of the next.
    pub from_step: usize,
    /// Where the first one goes to.
    pub to: usize,
    /// Bytes between the places where rows go to.
    pub to_step: usize,
}

impl Runs {
    /// Whether there is something to copy, and all of it lies in `from` bytes,
    /// wherever of `starts` it starts, and goes to `to` bytes.
    pub fn fit(&self, starts: &[usize], from: usize, to: usize) -> bool {
        let last = starts.iter().fold(0, |last: usize, &start| last.max(start));
        let end = |start: usize, step: usize| start + (self.count - 1) * step + self.bytes;
        !starts.is_empty()
            && self.count > 0
            && self.bytes > 0
            && end(last, self.from_step) <= from
            && end(self.to, self.to_step) <= to
    }
}

/// Where in columns each tap goes: the place of position 0, in 16-bit numbers.
/// None where they are too many for 16 bits.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'s>(&'s [u16]);

impl<'s> Taps<'s> {
    const MAX: usize = 1 << 14;

    /// As many taps as there is room for.
    pub fn new(room: &'s mut [u16]) -> Self {
        if room.len() > Self::MAX {
            return Self(&[]);
        }
        for (tap, place) in room.iter_mut().enumerate() {
            *place = tap_place(tap) as u16;
        }
        Self(room)
    }

    /// The place of each tap.
    pub fn places(&self) -> &'s [u16] {
        self.0
    }
}

fn tap_place(tap: usize) -> usize {
    let lane = lane_of(tap);
    lane / 2 * 2 * POSITIONS + lane % 2
}

/// Widens rows of bytes one by one, takes the zero point off, and brings each to
/// its place in the columns: of position `first` the rows that begin at the first of
/// `starts`, and so on.
pub fn scatter(
    from: &[i8],
    runs: Runs,
    starts: &[usize],
    zero_point: i32,
    to: &mut [Columns],
    first: usize,
    _taps: Taps,
) {
    let halves: &mut [i16] = bytemuck::cast_slice_mut(to);
    for (position, start) in (first..).zip(starts) {
        for row in 0..runs.count {
            let source = from.get(start + row * runs.from_step..);
            let source = source.unwrap_or_default().iter().take(runs.bytes);
            for (tap, &x) in (runs.to + row * runs.to_step..).zip(source) {
                if let Some(to) = halves.get_mut(tap_place(tap) + 2 * position) {
                    *to = i16::from(x) - zero_point as i16;
                }
            }
        }
    }
}

/// As [`scatter`], but four bytes at a time become two words. All numbers of `runs`
/// but `from_step` are multiples of 4.
pub fn widen_rows(
    from: &[i8],
    runs: Runs,
    starts: &[usize],
    zero_point: i32,
    to: &mut [Columns],
    first: usize,
) {
    for (position, start) in (first..).zip(starts) {
        for row in 0..runs.count {
            let source = from.get(start + row * runs.from_step..).unwrap_or_default();
            let bytes = source.get(..runs.bytes).unwrap_or_default();
            let columns = to.get_mut((runs.to + row * runs.to_step) / 2..);
            let columns = columns.unwrap_or_default().as_chunks_mut().0;
            for (&bytes, [even, odd]) in bytes.as_chunks().0.iter().zip(columns) {
                let words = widen(bytes, zero_point);
                if let (Some(even), Some(odd)) = (even.get_mut(position), odd.get_mut(position)) {
                    [*even, *odd] = words;
                }
            }
        }
    }
}

/// Bytes 0 and 2, then 1 and 3 as 16-bit numbers, less the zero point.
pub fn widen([a, b, c, d]: [i8; 4], zero_point: i32) -> [u32; 2] {
    let wide = |byte: i8| (i16::from(byte) - zero_point as i16) as u16;
    let word = |low, high| u32::from(wide(low)) | u32::from(wide(high)) << 16;
    [word(a, c), word(b, d)]
}
