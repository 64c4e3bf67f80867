//! How the weights of convolutions and dense layers lie in the model file.
//!
//! Two filters (or units) share 16-bit lanes: `lane = 256 w1 + w0`. A processor
//! that multiplies 16-bit numbers gets `256 d1 + d0`, the sums of both filters,
//! from the lanes as they are, and `d0` from their low bytes, so that a weight
//! takes one byte of flash and no instruction to unpack. `d1` is exact as long as
//! it fits 24 bits, hence [`SEGMENT`].
//!
//! A word has two lanes. Of each four taps, in the order of
//! [`crate::layer::ParamShape`], the first word has taps 0 and 2 and the second
//! 1 and 3: the order in which `SXTB16` widens four bytes. Of fewer taps at the
//! end, missing ones are 0, and a word of missing ones only is left out. An odd
//! last filter shares its lanes with zeroes.

/// Words after which `d0` and `d1` have to be told apart: two products of at most
/// 128 x 255 in each, so that the sum stays below 2^23.
pub const SEGMENT: usize = 128;

/// Words that hold `fan_in` taps of two filters.
pub const fn words(fan_in: usize) -> usize {
    let rest = fan_in % 4;
    2 * (fan_in / 4) + if rest < 2 { rest } else { 2 }
}

/// Bytes of the lanes of all filters.
pub const fn bytes(fan_in: usize, filters: usize) -> usize {
    4 * words(fan_in) * filters.div_ceil(2)
}

/// Which of the lanes of a pair of filters has tap `k`.
pub const fn lane_of(k: usize) -> usize {
    2 * (2 * (k / 4) + k % 2) + k % 4 / 2
}

/// The lane of two weights, neither of them -128.
pub const fn pack(w0: i8, w1: i8) -> i16 {
    256 * w1 as i16 + w0 as i16
}

/// The two weights of a lane, -128 to 128.
pub const fn unpack(lane: i16) -> [i16; 2] {
    let low = lane as i8 as i16;
    [low, ((lane as i32 - low as i32) >> 8) as i16]
}

/// The weights of all filters, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<'a> {
    bytes: &'a [u8],
    fan_in: usize,
}

impl<'a> Lanes<'a> {
    /// `bytes` are as many as [`bytes`] says.
    pub fn new(bytes: &'a [u8], fan_in: usize) -> Self {
        Self { bytes, fan_in }
    }

    /// Taps of one filter.
    pub fn fan_in(&self) -> usize {
        self.fan_in
    }

    /// The bytes of all words.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The words of each pair of filters, in order.
    pub fn pairs(&self) -> impl Iterator<Item = &'a [[u8; 4]]> + use<'a> {
        let words = self.bytes.as_chunks().0;
        words.chunks(self::words(self.fan_in).max(1))
    }

    /// Tap `k` of a filter; 0 where there is none.
    pub fn weight(&self, filter: usize, k: usize) -> i16 {
        let lane = 2 * words(self.fan_in) * (filter / 2) + lane_of(k);
        let bytes = self.bytes.as_chunks::<2>().0.get(lane);
        let lane = i16::from_le_bytes(bytes.copied().unwrap_or_default());
        unpack(lane)[filter % 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_hold_two_weights() {
        for w0 in -127..=127 {
            for w1 in [-127, -1, 0, 1, 127] {
                let [a, b] = unpack(pack(w0, w1));
                assert_eq!([a, b], [w0.into(), w1.into()]);
            }
        }
    }

    #[test]
    fn every_tap_has_a_lane_of_its_own() {
        for fan_in in 1..40 {
            let mut lanes: Vec<_> = (0..fan_in).map(lane_of).collect();
            assert!(lanes.iter().all(|&lane| lane < 2 * words(fan_in)));
            lanes.sort_unstable();
            lanes.dedup();
            assert_eq!(lanes.len(), fan_in);
        }
    }

    #[test]
    fn a_segment_fits_24_bits() {
        const { assert!(2 * SEGMENT * 128 * 255 < 1 << 23) };
    }
}
