//! Weights that are coded: a codebook of the values that occur, and a stream of bits
//! in which each value has a code of its own.
//!
//! The code is canonical: codes of one length are consecutive numbers, and longer ones
//! go on where shorter ones end, so that the number of codes of each length says all.
//! Where lengths follow how often a value occurs, it is Huffman's code; where all are
//! the same, a packed codebook of shared values; with 15 or 16 of these, int4.
//!
//! The code is complete: whatever the bits are, a code is next. So decoding cannot
//! fail, and a check of the table once is a check for good.

use super::lanes::{Lanes, lane_of, pack, words};
use crate::layer::ParamShape;

/// Longest code in bits. How many codes have length 1, 2 and so on up to this are the
/// first bytes of coded weights.
pub const MAX_LENGTH: usize = 15;

/// Fewest bytes of this many bits of codes of `values` values.
pub const fn bytes(values: usize, bits: u64) -> u64 {
    let whole = (MAX_LENGTH + values) as u64 + bits.div_ceil(8);
    whole.next_multiple_of(4)
}

/// What is wrong with coded weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The code is not complete, or a value is not there, there twice, or -128.
    Codebook,
    /// The stream does not hold the weights of the layer and 0 behind them, up to a
    /// multiple of 4 bytes.
    Stream,
}

/// Weights that have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    counts: &'a [u8],
    values: &'a [i8],
    stream: &'a [u8],
    shape: ParamShape,
}

impl<'a> Coded<'a> {
    /// The weights of a layer of this shape, with nothing left over.
    pub fn parse(bytes: &'a [u8], shape: ParamShape) -> Result<Self, Damage> {
        let all = Self::trusted(bytes, shape);
        if !(all.is_complete() && all.has_distinct_values()) {
            return Err(Damage::Codebook);
        }
        // A weight takes a bit at the least, so that the time is that of the stream.
        let weights = shape.weights();
        if weights.div_ceil(8) > all.stream.len() {
            return Err(Damage::Stream);
        }
        let mut decoder = all.decoder();
        let bits = (0..weights).map(|_| u64::from(decoder.step().1)).sum();
        if self::bytes(all.values.len(), bits) != bytes.len() as u64 || !all.ends_in_zeros(bits) {
            return Err(Damage::Stream);
        }
        Ok(all)
    }

    /// Weights that [`Coded::parse`] has accepted before.
    pub(crate) fn trusted(bytes: &'a [u8], shape: ParamShape) -> Self {
        let (counts, rest) = bytes.split_at_checked(MAX_LENGTH).unwrap_or_default();
        let values = counts.iter().map(|&count| usize::from(count)).sum();
        let (values, stream) = rest.split_at_checked(values).unwrap_or_default();
        Self {
            counts,
            values: bytemuck::cast_slice(values),
            stream,
            shape,
        }
    }

    /// Whether each string of bits starts with one code: 2^-length of all codes add up
    /// to 1 (Kraft, 1949).
    fn is_complete(&self) -> bool {
        let parts = (1..=MAX_LENGTH).zip(self.counts);
        let parts = parts.map(|(length, &count)| u32::from(count) << (MAX_LENGTH - length));
        !self.values.is_empty() && parts.sum::<u32>() == 1 << MAX_LENGTH
    }

    fn has_distinct_values(&self) -> bool {
        let again = |(index, value): (usize, &i8)| {
            let before = self.values.get(..index).unwrap_or_default();
            before.contains(value) || *value == i8::MIN
        };
        !self.values.iter().enumerate().any(again)
    }

    /// Whether all is 0 behind this many bits.
    fn ends_in_zeros(&self, bits: u64) -> bool {
        let whole = usize::try_from(bits / 8).unwrap_or(usize::MAX);
        let behind = self.stream.get(whole..).unwrap_or_default();
        behind.split_first().is_none_or(|(&first, rest)| {
            first << (bits % 8) == 0 && rest.iter().all(|&byte| byte == 0)
        })
    }

    /// Channels and taps of the weights.
    pub fn shape(&self) -> ParamShape {
        self.shape
    }

    /// How many codes have length 1, 2 and so on.
    pub fn counts(&self) -> &'a [u8] {
        self.counts
    }

    /// The values that occur, those of the shortest codes first.
    pub fn values(&self) -> &'a [i8] {
        self.values
    }

    /// Reads the weights from the first one on.
    pub fn decoder(&self) -> Decoder<'a> {
        Decoder::new(self.counts, self.values, self.stream)
    }

    /// Words that [`Coded::lanes`] writes.
    pub fn lane_words(&self) -> usize {
        words(self.shape.fan_in) * self.shape.channels.div_ceil(2)
    }

    /// Writes the weights of a convolution or a dense layer as [`super::lanes`] to
    /// [`Coded::lane_words`] words.
    pub fn lanes<'s>(&self, to: &'s mut [u32]) -> Lanes<'s> {
        let ParamShape { channels, fan_in } = self.shape;
        let mut decoder = self.decoder();
        let pairs = to.chunks_mut(words(fan_in).max(1));
        for (words, first) in pairs.zip((0..channels).step_by(2)) {
            decoder.lanes(fan_in, channels - first, words);
        }
        Lanes::new(bytemuck::cast_slice(to), fan_in)
    }
}

/// The codes of one length.
#[derive(Clone, Copy, Debug)]
struct Codes {
    /// The last of them, with ones behind it up to 16 bits.
    last: u16,
    /// Bits of each.
    length: u8,
    /// What a code is less than the number of its value, modulo 256.
    offset: u8,
}

/// Reads one weight after the other; behind the last one, 0 bits go on without end.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    codes: heapless::Vec<Codes, MAX_LENGTH>,
    values: &'a [i8],
    stream: core::slice::Iter<'a, u8>,
    /// The next bits, the first one on top, and 0 behind them.
    buffer: u32,
    /// How many they are: at least 16.
    bits: u32,
}

impl<'a> Decoder<'a> {
    fn new(counts: &[u8], values: &'a [i8], stream: &'a [u8]) -> Self {
        let mut codes = heapless::Vec::new();
        // The first code of the next length, and the number of its value.
        let (mut first, mut value) = (0u32, 0u8);
        for (length, &count) in (1..).zip(counts) {
            let end = first + u32::from(count);
            if count > 0 {
                let last = (end << (16 - length)).wrapping_sub(1) as u16;
                let offset = value.wrapping_sub(first as u8);
                // There is room for all lengths.
                let _ = codes.push(Codes {
                    last,
                    length,
                    offset,
                });
            }
            first = 2 * end;
            value = value.wrapping_add(count);
        }
        let mut decoder = Self {
            codes,
            values,
            stream: stream.iter(),
            buffer: 0,
            bits: 0,
        };
        decoder.refill();
        decoder
    }

    /// The next weight.
    #[inline]
    pub fn weight(&mut self) -> i8 {
        self.step().0
    }

    /// The next weight, and how many bits it took.
    #[inline]
    fn step(&mut self) -> (i8, u8) {
        let next = (self.buffer >> 16) as u16;
        // One is found, as the code is complete.
        let found = self.codes.iter().find(|codes| next <= codes.last);
        let Some(&Codes { length, offset, .. }) = found else {
            return (0, 1);
        };
        let index = (next >> (16 - length)) as u8;
        let value = self.values.get(usize::from(index.wrapping_add(offset)));
        self.buffer <<= length;
        self.bits -= u32::from(length);
        if self.bits < 16 {
            self.refill();
        }
        (value.copied().unwrap_or_default(), length)
    }

    /// Takes bytes into the buffer while there is room.
    fn refill(&mut self) {
        while self.bits <= 24 {
            let byte = self.stream.next().copied().unwrap_or_default();
            self.buffer |= u32::from(byte) << (24 - self.bits);
            self.bits += 8;
        }
    }

    /// Writes the next weights as the lanes of that many `taps` of a pair of filters, or
    /// of a single one that is the last: of each tap the weight of the first and that
    /// of the second.
    pub fn lanes(&mut self, taps: usize, filters: usize, to: &mut [u32]) {
        to.fill(0);
        let lanes: &mut [i16] = bytemuck::cast_slice_mut(to);
        for tap in 0..taps {
            let low = self.weight();
            let high = if filters > 1 { self.weight() } else { 0 };
            if let Some(lane) = lanes.get_mut(lane_of(tap)) {
                *lane = pack(low, high).to_le();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two filters of three taps. Codes: 5 is 0, -1 is 10, 7 is 110, 0 is 111.
    const WEIGHTS: [i8; 6] = [5, 7, -1, 5, 0, 5];
    const CODED: [u8; 24] = [
        1,
        1,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0, // lengths
        5,
        0xFF,
        7,
        0, // values
        0b0110_1001,
        0b1100_0000,
        0,
        0,
        0,
    ];
    const SHAPE: ParamShape = ParamShape {
        channels: 2,
        fan_in: 3,
    };

    #[test]
    fn codes_become_weights() {
        let coded = Coded::parse(&CODED, SHAPE).unwrap();
        let mut decoder = coded.decoder();
        assert_eq!(WEIGHTS.map(|_| decoder.weight()), WEIGHTS);
        let mut words = [u32::MAX; 2];
        assert_eq!(coded.lane_words(), words.len());
        let lanes = coded.lanes(&mut words);
        for (index, weight) in WEIGHTS.into_iter().enumerate() {
            assert_eq!(lanes.weight(index % 2, index / 2), weight.into());
        }
        assert_eq!(lanes.weight(0, 3), 0);
    }

    #[test]
    fn a_last_filter_is_alone() {
        let shape = ParamShape {
            channels: 3,
            fan_in: 2,
        };
        let coded = Coded::parse(&CODED, shape).unwrap();
        let mut words = [u32::MAX; 4];
        let lanes = coded.lanes(&mut words);
        let filter = |filter| [0, 1].map(|tap| lanes.weight(filter, tap));
        assert_eq!([0, 1, 2, 3].map(filter), [[5, -1], [7, 5], [0, 5], [0, 0]]);
    }

    #[test]
    fn all_lengths_are_decoded() {
        let mut bytes = [0; 68];
        bytes[..15].copy_from_slice(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        (0..16).for_each(|value| bytes[15 + value as usize] = value);
        // Each value once: codes of 1 bit, 10, 110 and so on.
        let mut at = 8 * 31;
        for value in 0..16 {
            for _ in 0..value.min(15) {
                bytes[at / 8] |= 0x80 >> (at % 8);
                at += 1;
            }
            at += usize::from(value < 15);
        }
        let used = at.div_ceil(8).next_multiple_of(4);
        let shape = ParamShape {
            channels: 16,
            fan_in: 1,
        };
        let coded = Coded::parse(&bytes[..used], shape).unwrap();
        let mut decoder = coded.decoder();
        assert!((0..16).all(|value| decoder.weight() == value));
        assert_eq!(decoder.weight(), 0, "bits of 0 without end");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let wrong = |change: &[(usize, u8)]| {
            let mut bytes = CODED;
            change.iter().for_each(|&(at, byte)| bytes[at] = byte);
            Coded::parse(&bytes, SHAPE).err()
        };
        assert_eq!(wrong(&[]), None);
        let codebook = Some(Damage::Codebook);
        assert_eq!(wrong(&[(2, 1)]), codebook, "a code that is none");
        assert_eq!(wrong(&[(1, 2)]), codebook, "a code too many");
        assert_eq!(wrong(&[(2, 200)]), codebook, "values that are not there");
        assert_eq!(wrong(&[(17, 5)]), codebook, "a value twice");
        assert_eq!(wrong(&[(17, 0x80)]), codebook, "-128");
        let stream = Some(Damage::Stream);
        assert_eq!(wrong(&[(20, 0b1101_0000)]), stream, "a bit behind the last");
        assert_eq!(wrong(&[(23, 1)]), stream, "a byte behind the last");
        let short = Coded::parse(&CODED[..14], SHAPE).err();
        assert_eq!(short, codebook);
        assert_eq!(Coded::parse(&CODED[..20], SHAPE).err(), stream, "cut off");
        assert_eq!(Coded::parse(&CODED[..23], SHAPE).err(), stream, "not whole");
        let shape = |fan_in| ParamShape {
            channels: 2,
            fan_in,
        };
        assert_eq!(Coded::parse(&CODED, shape(2)).err(), stream, "weights over");
        let many = shape(1 << 20);
        assert_eq!(Coded::parse(&CODED, many).err(), stream, "weights missing");
    }
}
