//! Weights that are coded: a codebook of the values that occur, and a stream of bits
//! in which each value has a code of its own.
//!
//! The code is canonical: codes of one length are consecutive numbers, and longer ones
//! go on where shorter ones end, so that the number of codes of each length says all.
//! Where lengths follow how often a value occurs, it is Huffman's code; where all are
//! the same, a packed codebook of shared values; with 15 or 16 of these, int4.
//!
//! The code is complete: whatever the bits are, a code is next. So decoding cannot
//! fail, and a check of the codebook once is a check for good.

use core::cell::Cell;
use core::slice;

use super::lanes::{Lanes, words};
use crate::layer::ParamShape;

/// Longest code in bits. How many codes have length 1, 2 and so on are the first bytes
/// of coded weights, up to the length with which the code is complete.
pub const MAX_LENGTH: usize = 15;

/// Bytes of a codebook of codes of this many lengths, for this many values.
pub const fn codebook_bytes(lengths: usize, values: usize) -> usize {
    (lengths + values).next_multiple_of(2)
}

/// Bytes of coded weights with such a codebook, in this many bits.
pub const fn bytes(lengths: usize, values: usize, bits: u64) -> u64 {
    (codebook_bytes(lengths, values) as u64 + 2 * bits.div_ceil(16)).next_multiple_of(4)
}

/// How many numbers of codes of length 1, 2 and so on make a complete code, where each
/// string of bits starts with one of them: 2^-length of all add up to 1 (Kraft, 1949).
fn lengths(counts: &[u8]) -> Option<usize> {
    let mut missing = 1u32 << MAX_LENGTH;
    for (length, &count) in (1..=MAX_LENGTH).zip(counts) {
        missing = missing.checked_sub(u32::from(count) << (MAX_LENGTH - length))?;
        if missing == 0 {
            return Some(length);
        }
    }
    None
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
    /// What lies between the values and the stream.
    padding: &'a [u8],
    stream: &'a [[u8; 2]],
    shape: ParamShape,
}

impl<'a> Coded<'a> {
    /// The weights of a layer of this shape, with nothing but zeroes in between and
    /// nothing left over.
    pub fn parse(bytes: &'a [u8], shape: ParamShape) -> Result<Self, Damage> {
        let all = Self::trusted(bytes, shape);
        let zeros = all.padding.iter().all(|&byte| byte == 0);
        if all.values.is_empty() || !all.has_distinct_values() || !zeros {
            return Err(Damage::Codebook);
        }
        // A weight takes a bit at the least, so that the time is that of the stream.
        let weights = shape.weights();
        if weights.div_ceil(16) > all.stream.len() {
            return Err(Damage::Stream);
        }
        let Decoder { book, stream } = &mut all.decoder();
        let mut bits = 0;
        for _ in 0..weights {
            bits += u64::from(book.next(stream).length());
        }
        let needed = self::bytes(all.counts.len(), all.values.len(), bits);
        if needed != bytes.len() as u64 || !all.ends_in_zeros(bits) {
            return Err(Damage::Stream);
        }
        Ok(all)
    }

    /// Weights that [`Coded::parse`] has accepted before, and none of others.
    pub(crate) fn trusted(bytes: &'a [u8], shape: ParamShape) -> Self {
        let lengths = lengths(bytes).unwrap_or_default();
        let (counts, rest) = bytes.split_at_checked(lengths).unwrap_or_default();
        let count = counts.iter().map(|&count| usize::from(count)).sum();
        let (values, rest) = rest.split_at_checked(count).unwrap_or_default();
        let odd = codebook_bytes(lengths, count) - lengths - count;
        let (padding, stream) = rest.split_at_checked(odd).unwrap_or_default();
        Self {
            counts,
            values: bytemuck::cast_slice(values),
            padding,
            stream: stream.as_chunks().0,
            shape,
        }
    }

    fn has_distinct_values(&self) -> bool {
        let again = |(index, value): (usize, &i8)| {
            let before = self.values.get(..index).unwrap_or_default();
            before.iter().any(|old| old == value) || *value == i8::MIN
        };
        !self.values.iter().enumerate().any(again)
    }

    /// Whether all is 0 behind this many bits.
    fn ends_in_zeros(&self, bits: u64) -> bool {
        let whole = usize::try_from(bits / 16).unwrap_or(usize::MAX);
        let halves = self.stream.get(whole..).unwrap_or_default().iter();
        let mut halves = halves.map(|&half| u16::from_le_bytes(half));
        let first = halves.next().unwrap_or_default();
        first << (bits % 16) == 0 && halves.all(|half| half == 0)
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
        let split = self.counts.split_at_checked(SHORT);
        let (few, long) = split.unwrap_or((self.counts, &[]));
        let mut decoder = Decoder {
            book: Book {
                short: [Code::default(); 1 << SHORT],
                first: 0,
                long,
                values: self.values,
            },
            stream: Stream::new(self.stream),
        };
        // In place: a copy of the table would take as much stack again.
        decoder.book.take_short(few);
        decoder
    }

    /// Words that [`Coded::lanes`] writes.
    pub fn lane_words(&self) -> usize {
        words(self.shape.fan_in) * self.shape.channels.div_ceil(2)
    }

    /// Writes the weights of a convolution or a dense layer as [`super::lanes`] to
    /// [`Coded::lane_words`] words.
    #[inline(never)] // the decoder's table is gone before anything is multiplied
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

/// Reads one weight after the other.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    book: Book<'a>,
    stream: Stream<'a>,
}

impl Decoder<'_> {
    /// Writes the next weights.
    #[inline(never)]
    pub fn weights(&mut self, to: &mut [i8]) {
        let mut stream = self.stream.clone(); // in registers
        for to in to {
            *to = self.book.next(&mut stream).value();
        }
        self.stream = stream;
    }

    /// Writes the next weights as the lanes of that many `taps` of a pair of filters, or
    /// of a single one that is the last: of each tap the weight of the first and that
    /// of the second.
    pub fn lanes(&mut self, taps: usize, filters: usize, to: &mut [u32]) {
        to.fill(0);
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(to);
        let bytes = bytes.get_mut(..2 * taps).unwrap_or_default();
        if filters > 1 {
            self.weights(bytes);
        } else {
            self.weights(bytes.get_mut(taps..).unwrap_or_default());
            spread(bytes);
        }
        // Of each four taps, 0 and 1, 2 and 3 become 0 and 2, 1 and 3.
        let (fours, last) = to.as_chunks_mut();
        for words in fours {
            let [a, b] = words.map(u32::from_le);
            *words = [lane(a) | lane(b) << 16, lane(a >> 16) | lane(b >> 16) << 16].map(u32::to_le);
        }
        for word in last {
            *word = lane(u32::from_le(*word)).to_le();
        }
    }
}

/// Brings each byte of the second half to every other byte, with 0 between.
fn spread(bytes: &mut [i8]) {
    let cells = Cell::from_mut(bytes).as_slice_of_cells();
    let (_, from) = cells.split_at(cells.len() / 2);
    // No byte is written before it was read.
    for ([to, next], from) in cells.as_chunks().0.iter().zip(from) {
        to.set(from.get());
        next.set(0);
    }
}

/// The lane of two weights, the lowest bytes: 256 w1 + w0, as [`super::lanes::pack`]
/// has it.
fn lane(weights: u32) -> u32 {
    let weights = weights & 0xFFFF;
    weights.wrapping_sub((weights & 0x80) << 1) & 0xFFFF
}

/// A value, and how many bits its code has: one number, to be loaded at once.
#[derive(Clone, Copy, Debug, Default)]
struct Code(u16);

impl Code {
    fn new(value: i8, length: u8) -> Self {
        Self(u16::from_le_bytes([length, value as u8]))
    }

    fn value(self) -> i8 {
        (self.0 >> 8) as i8
    }

    fn length(self) -> u32 {
        u32::from(self.0 & 0x1F)
    }
}

/// Longest code that is found in one step.
pub const SHORT: usize = 8;

/// The codes, by the bits that they start with.
#[derive(Clone, Debug)]
struct Book<'a> {
    /// For each 8 bits the code that they start with; of length 0 where it is longer.
    short: [Code; 1 << SHORT],
    /// One behind the last of those.
    first: u32,
    /// How many there are of each greater length, and the values of those.
    long: &'a [u8],
    values: &'a [i8],
}

impl<'a> Book<'a> {
    /// Brings so many values of each length to their places.
    fn take_short(&mut self, counts: &[u8]) {
        let (mut places, mut values) = (self.short.iter_mut(), self.values.iter());
        for (length, &count) in (1..).zip(counts) {
            self.first = 2 * self.first + u32::from(count);
            for &value in values.by_ref().take(count.into()) {
                let same = places.by_ref().take(1 << (SHORT - usize::from(length)));
                same.for_each(|place| *place = Code::new(value, length));
            }
        }
        self.values = values.as_slice();
    }

    /// The next code.
    #[inline(always)]
    fn next(&self, stream: &mut Stream) -> Code {
        let mut code = self.short[usize::from((stream.buffer >> 24) as u8)];
        if code.length() == 0 {
            code = self.next_long(stream.buffer);
        }
        stream.skip(code.length());
        code
    }

    /// The code on top of these bits, which is not a short one.
    #[inline(never)]
    fn next_long(&self, bits: u32) -> Code {
        let (mut first, mut number) = (self.first, 0);
        for (length, &count) in (SHORT as u8 + 1..).zip(self.long) {
            first *= 2;
            let of_length = (bits >> (32 - length)).wrapping_sub(first);
            if of_length < count.into() {
                let value = self.values.get(number + of_length as usize);
                return Code::new(value.copied().unwrap_or_default(), length);
            }
            first += u32::from(count);
            number += usize::from(count);
        }
        Code::default() // the code is complete, so one was found
    }
}

/// Bits; behind the last one, zeros go on without end.
#[derive(Clone, Debug)]
struct Stream<'a> {
    halves: slice::Iter<'a, [u8; 2]>,
    /// The next bits, the first one on top, and 0 behind them.
    buffer: u32,
    /// How many they are: at least 16.
    bits: u32,
}

impl<'a> Stream<'a> {
    fn new(halves: &'a [[u8; 2]]) -> Self {
        let mut stream = Self {
            halves: halves.iter(),
            buffer: 0,
            bits: 32,
        };
        stream.skip(16);
        stream.skip(16);
        stream
    }

    /// Goes on by at most 16 bits.
    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.bits -= bits;
        if self.bits < 16 {
            if let Some(&half) = self.halves.next() {
                self.buffer |= u32::from(u16::from_le_bytes(half)) << (16 - self.bits);
            }
            self.bits += 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two filters of three taps. Codes: 5 is 0, -1 is 10, 7 is 110, 0 is 111.
    const WEIGHTS: [i8; 6] = [5, 7, -1, 5, 0, 5];
    const CODED: [u8; 12] = [
        1,
        1,
        2, // lengths
        5,
        0xFF,
        7,
        0,
        0, // values, and to a multiple of 2
        0b1100_0000,
        0b0110_1001,
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
        let mut weights = [0; 6];
        coded.decoder().weights(&mut weights);
        assert_eq!(weights, WEIGHTS);
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
        let mut at = 8 * 32;
        for value in 0..16 {
            for _ in 0..value.min(15) {
                bytes[(at / 8) ^ 1] |= 0x80 >> (at % 8);
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
        let mut weights = [1; 20];
        coded.decoder().weights(&mut weights);
        assert!((0..16).eq(weights[..16].iter().copied()));
        assert_eq!(weights[16..], [0; 4], "bits of 0 without end");
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
        assert_eq!(wrong(&[(1, 3)]), codebook, "a code too many");
        assert_eq!(wrong(&[(2, 200)]), codebook, "codes too many");
        assert_eq!(wrong(&[(5, 5)]), codebook, "a value twice");
        assert_eq!(wrong(&[(5, 0x80)]), codebook, "-128");
        let stream = Some(Damage::Stream);
        assert_eq!(wrong(&[(7, 1)]), codebook, "a byte between");
        assert_eq!(wrong(&[(8, 0b1101_0000)]), stream, "a bit behind the last");
        assert_eq!(wrong(&[(11, 1)]), stream, "a byte behind the last");
        let cut_off = |length| Coded::parse(&CODED[..length], SHAPE).err();
        assert_eq!(cut_off(2), codebook, "lengths that are not there");
        assert_eq!(cut_off(6), codebook, "values that are not there");
        assert_eq!(cut_off(8), stream, "cut off");
        assert_eq!(cut_off(11), stream, "not whole");
        let shape = |fan_in| ParamShape {
            channels: 2,
            fan_in,
        };
        assert_eq!(Coded::parse(&CODED, shape(2)).err(), stream, "weights over");
        let many = shape(1 << 20);
        assert_eq!(Coded::parse(&CODED, many).err(), stream, "weights missing");
    }
}
