//! How the weights of pruned convolutions and dense layers may lie in the model
//! file, and what is computed from them: cost and size grow with the weights that
//! are not 0.
//!
//! A filter (or unit) is a list of entries, each a weight and a step, the number of
//! taps from the entry before it, or from tap 0. Where that is more than a byte
//! holds, entries of weight 0 lie between. First come the numbers of entries, then
//! the entries of all filters; a 0 fills up an odd number of either.
//!
//! Inputs are multiplied as they are: the bias of a filter holds what their zero
//! point adds, and padding is the zero point.

use super::ConvParams;
use super::tile::{self, Runs, Target, finish};

/// Positions that are brought into a tile at a time.
pub const QUAD: usize = tile::POSITIONS;

/// Positions of one tile.
pub const POSITIONS: usize = 2 * QUAD;

/// One tap of the windows at all positions of a tile.
pub type Column = [i16; POSITIONS];

/// A weight, as the byte that it is in the file, and a step.
pub type Entry = [u8; 2];

/// Bytes of the weights of `filters` filters with `entries` entries, filled up to
/// even numbers.
pub const fn bytes(filters: usize, entries: usize) -> usize {
    2 * filters.next_multiple_of(2) + 2 * entries
}

/// Weights that have been checked: the entries of each filter are there, and their
/// taps grow and stay below the fan-in.
#[derive(Clone, Copy, Debug)]
pub struct Sparse<'a> {
    counts: &'a [[u8; 2]],
    entries: &'a [Entry],
    fan_in: usize,
}

/// One filter of [`Sparse`].
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    entries: &'a [Entry],
    fan_in: usize,
}

impl<'a> Filter<'a> {
    /// Its entries. Where their number is odd, another one of zeroes lies behind.
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// All taps are below this.
    pub fn fan_in(&self) -> usize {
        self.fan_in
    }

    /// Tap and weight of each entry.
    pub fn taps(&self) -> impl Iterator<Item = (usize, i8)> + use<'a> {
        self.entries.iter().scan(0, |tap, &[weight, step]| {
            *tap += usize::from(step);
            Some((*tap, weight as i8))
        })
    }
}

impl<'a> Sparse<'a> {
    /// Weights of `filters` filters of `fan_in` taps, with nothing but zeroes in
    /// between and nothing left over; or the first filter that is wrong.
    pub fn parse(bytes: &'a [u8], filters: usize, fan_in: usize) -> Result<Self, usize> {
        let all = Self::trusted(bytes, filters, fan_in);
        let mut rest = all.entries;
        for (filter, &count) in all.counts.iter().enumerate() {
            let count = usize::from(u16::from_le_bytes(count));
            let (entries, left) = rest
                .split_at_checked(count.next_multiple_of(2))
                .ok_or(filter)?;
            let (entries, padding) = entries.split_at_checked(count).ok_or(filter)?;
            let in_order = Filter { entries, fan_in }
                .taps()
                .all(|(tap, _)| tap < fan_in)
                && entries.iter().skip(1).all(|&[_, step]| step > 0);
            let there = filter < filters || count == 0;
            if !(in_order && there && padding.iter().all(|&entry| entry == [0; 2])) {
                return Err(filter);
            }
            rest = left;
        }
        match rest {
            [] => Ok(all),
            _ => Err(filters),
        }
    }

    /// Weights that [`Sparse::parse`] has accepted before. The fast kernels read what
    /// they are told to, so this stays inside the crate.
    pub(crate) fn trusted(bytes: &'a [u8], filters: usize, fan_in: usize) -> Self {
        let counts = 2 * filters.next_multiple_of(2);
        let (counts, entries) = bytes.split_at_checked(counts).unwrap_or_default();
        Self {
            counts: counts.as_chunks().0,
            entries: entries.as_chunks().0,
            fan_in,
        }
    }

    /// Entries of each filter.
    pub fn counts(&self) -> &'a [[u8; 2]] {
        self.counts
    }

    /// Entries of all filters.
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// All taps are below this.
    pub fn fan_in(&self) -> usize {
        self.fan_in
    }

    /// Each filter, in order; behind an odd number of them, an empty one.
    pub fn filters(&self) -> impl Iterator<Item = Filter<'a>> + use<'a> {
        let (mut rest, fan_in) = (self.entries, self.fan_in);
        self.counts.iter().map(move |&count| {
            let count = usize::from(u16::from_le_bytes(count));
            let even = rest.split_at_checked(count.next_multiple_of(2));
            let (entries, left) = even.unwrap_or_default();
            rest = left;
            let entries = entries.get(..count).unwrap_or_default();
            Filter { entries, fan_in }
        })
    }
}

/// The filters of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct SparseFilters<'a>(ConvParams<'a, Sparse<'a>>);

impl<'a> SparseFilters<'a> {
    /// Of these parameters.
    pub fn new(params: ConvParams<'a, Sparse<'a>>) -> Self {
        Self(params)
    }

    /// Writes the outputs of all filters at the positions of a tile, without an
    /// activation. Sums wrap: a position that is not there may hold anything.
    pub fn multiply(&self, columns: &[Column], target: Target) {
        let filters = self.0.weights.filters().zip(self.0.channels.iter());
        for (index, (filter, (bias, factor))) in filters.enumerate() {
            let mut sums = [0i32; POSITIONS];
            for (tap, weight) in filter.taps() {
                let column = columns.get(tap).copied().unwrap_or_default();
                for (sum, x) in sums.iter_mut().zip(column) {
                    *sum = sum.wrapping_add(i32::from(x) * i32::from(weight));
                }
            }
            let outputs = sums.map(|sum| finish(sum, bias, factor, target.zero_point));
            let pooled = if target.pooled { QUAD } else { 1 };
            let rows = target.rows.chunks_mut(target.stride.max(1));
            for (row, outputs) in rows.zip(outputs.chunks(pooled)) {
                if let Some(to) = row.get_mut(index) {
                    *to = outputs.iter().copied().max().unwrap_or_default();
                }
            }
        }
    }
}

/// Widens rows of bytes to a column for each: of position `first` the rows that
/// begin at the first of `starts`, and so on.
pub fn spread(from: &[i8], runs: Runs, starts: &[usize], to: &mut [Column], first: usize) {
    for (position, start) in (first..).zip(starts) {
        for row in 0..runs.count {
            let source = from.get(start + row * runs.from_step..).unwrap_or_default();
            let to = to.get_mut(runs.to + row * runs.to_step..);
            let to = to.unwrap_or_default().iter_mut().take(runs.bytes);
            for (column, &x) in to.zip(source) {
                if let Some(to) = column.get_mut(position) {
                    *to = x.into();
                }
            }
        }
    }
}

/// The sum of the products of a unit's weights with the input.
pub fn dot(unit: Filter, input: &[i8]) -> i32 {
    let product = |(tap, weight): (usize, i8)| {
        let x = input.get(tap).copied().unwrap_or_default();
        i32::from(x) * i32::from(weight)
    };
    unit.taps()
        .map(product)
        .fold(0, |sum, product| sum.wrapping_add(product))
}

/// The bias as a sparse layer has it: less what the input's zero point adds to the
/// sum over the weights of its filter.
pub fn bias(bias: i32, weights: impl IntoIterator<Item = i8>, zero_point: i32) -> Option<i32> {
    let sum: i64 = weights.into_iter().map(i64::from).sum();
    i32::try_from(i64::from(bias) - sum * i64::from(zero_point)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two filters of 300 taps: the first has taps 2 and 299, the second none.
    const TWO: [u8; 12] = [3, 0, 0, 0, 5, 2, 0, 255, 0xFD, 42, 0, 0];

    #[test]
    fn entries_are_weights_and_steps() {
        let sparse = Sparse::parse(&TWO, 2, 300).unwrap();
        let filters: Vec<Vec<_>> = sparse.filters().map(|f| f.taps().collect()).collect();
        assert_eq!(filters, [vec![(2, 5), (257, 0), (299, -3)], vec![]]);
        let input: Vec<i8> = (0..300).map(|i| (i % 100) as i8).collect();
        assert_eq!(dot(sparse.filters().next().unwrap(), &input), 10 - 3 * 99);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let wrong = |change: &[(usize, u8)], filters, fan_in| {
            let mut bytes = TWO;
            change.iter().for_each(|&(at, byte)| bytes[at] = byte);
            Sparse::parse(&bytes, filters, fan_in).err()
        };
        assert_eq!(wrong(&[], 2, 299), Some(0), "a tap behind the last");
        assert_eq!(wrong(&[(0, 5)], 2, 300), Some(0), "too many entries");
        assert_eq!(wrong(&[(0, 2)], 2, 300), Some(2), "entries left over");
        assert_eq!(wrong(&[(7, 0)], 2, 300), Some(0), "a tap twice");
        assert_eq!(wrong(&[(10, 1)], 2, 300), Some(0), "padding that is not 0");
        assert_eq!(
            wrong(&[(0, 2), (2, 1)], 1, 300),
            Some(1),
            "a filter too many"
        );
        assert_eq!(wrong(&[(0, 2), (2, 1)], 2, 300), None);
    }
}
