//! How biases and factors of output channels lie in the model file: wide, as exact as
//! the arithmetic is, or compact, a word for each channel.
//!
//! The lower half of a word is the bias, an `i16`. The upper half is the factor, 5 bits
//! of `shift` above 11 bits of `fraction`: (2^11 + fraction) x 2^(-12 - shift), which is
//! below 1/2, because no shift is 0.

use crate::arith::Multiplier;

/// A compact channel.
pub type Packed = [u8; 4];

/// Bits of a compact factor's mantissa, with the first one, which is not stored.
pub const MANTISSA_BITS: u32 = 12;
/// Bits of the fraction.
const FRACTION_BITS: u32 = MANTISSA_BITS - 1;
/// The last bit of a compact mantissa in one of 31 bits.
const UNIT_SHIFT: u32 = 31 - MANTISSA_BITS;

/// A channel as a word; `None` where that would change its bias or its factor.
pub const fn pack(bias: i32, factor: Multiplier) -> Option<Packed> {
    let units = factor.mantissa() >> UNIT_SHIFT;
    let exact = bias as i16 as i32 == bias && units << UNIT_SHIFT == factor.mantissa();
    if !exact || units == 0 || factor.shift() >= 0 {
        return None;
    }
    let fraction = units as u32 & ((1 << FRACTION_BITS) - 1);
    let shift = -factor.shift() as u32;
    let word = shift << (16 + FRACTION_BITS) | fraction << 16 | bias as u16 as u32;
    Some(word.to_le_bytes())
}

/// Bias and factor of a word.
pub const fn unpack(word: Packed) -> (i32, Multiplier) {
    let [a, b, c, d] = word;
    let (bias, factor) = (i16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    let fraction = factor & ((1 << FRACTION_BITS) - 1);
    let mantissa = ((1 << FRACTION_BITS | fraction) as i32) << UNIT_SHIFT;
    let shift = -((factor >> FRACTION_BITS) as i8);
    (bias as i32, Multiplier::trusted(mantissa, shift))
}

/// Whether [`pack`] gives this word for some channel.
pub const fn is_packed(word: Packed) -> bool {
    word[3] >> 3 != 0
}

/// Biases and factors of the channels of a convolution, in place in the model file.
/// There is an even number of each: the last may belong to no channel.
#[derive(Clone, Copy, Debug)]
pub enum Channels<'a> {
    /// A number each.
    Wide {
        /// Biases, in units of input scale x weight scale.
        bias: &'a [[u8; 4]],
        /// Mantissas of the factors.
        mantissas: &'a [[u8; 4]],
        /// Shifts of the factors.
        shifts: &'a [i8],
    },
    /// A word for each channel.
    Compact(&'a [Packed]),
}

impl<'a> Channels<'a> {
    /// How many there are, an even number.
    pub fn count(self) -> usize {
        match self {
            Self::Wide { bias, .. } => bias.len(),
            Self::Compact(words) => words.len(),
        }
    }

    /// Bias and factor of each channel, in order. The factor of a compact one that
    /// belongs to no channel is any.
    pub fn iter(self) -> impl Iterator<Item = (i32, Multiplier)> + use<'a> {
        (0..self.count()).map(move |index| self.get(index))
    }

    #[inline(never)] // many loops share it
    fn get(self, index: usize) -> (i32, Multiplier) {
        match self {
            Self::Wide {
                bias,
                mantissas,
                shifts,
            } => {
                let mantissa = i32::from_le_bytes(at(mantissas, index));
                let factor = Multiplier::trusted(mantissa, at(shifts, index));
                (i32::from_le_bytes(at(bias, index)), factor)
            }
            Self::Compact(words) => unpack(at(words, index)),
        }
    }
}

/// Biases and factors of the units of a dense layer, in place in the model file; an even
/// number of each, as of [`Channels`].
#[derive(Clone, Copy, Debug)]
pub enum Units<'a> {
    /// A number each.
    Wide {
        /// Biases, in units of input scale x weight scale.
        bias: &'a [[u8; 4]],
        /// `f64` factors.
        factors: &'a [[u8; 8]],
    },
    /// A word for each unit.
    Compact(&'a [Packed]),
}

impl<'a> Units<'a> {
    /// How many there are, an even number.
    pub fn count(self) -> usize {
        match self {
            Self::Wide { bias, .. } => bias.len(),
            Self::Compact(words) => words.len(),
        }
    }

    /// Bias and factor of each unit, in order. The factor of a compact one that belongs
    /// to no unit is any.
    pub fn iter(self) -> impl Iterator<Item = (i32, f64)> + use<'a> {
        (0..self.count()).map(move |index| self.get(index))
    }

    #[inline(never)] // many loops share it
    fn get(self, index: usize) -> (i32, f64) {
        match self {
            Self::Wide { bias, factors } => {
                let factor = f64::from_le_bytes(at(factors, index));
                (i32::from_le_bytes(at(bias, index)), factor)
            }
            Self::Compact(words) => {
                let (bias, factor) = unpack(at(words, index));
                (bias, factor.to_f64())
            }
        }
    }
}

/// An element that is there.
fn at<T: Copy + Default>(all: &[T], index: usize) -> T {
    all.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_channels() {
        let channel = |bias, units: i32, shift| {
            let factor = Multiplier::new(units << UNIT_SHIFT, shift).unwrap();
            (bias, factor)
        };
        for (bias, factor) in [
            channel(0, 1 << 11, -1),
            channel(-1, (1 << 12) - 1, -31),
            channel(i16::MAX.into(), 0xABC, -8),
            channel(i16::MIN.into(), 0x801, -9),
        ] {
            let word = pack(bias, factor).unwrap();
            assert!(is_packed(word));
            assert_eq!(unpack(word), (bias, factor));
        }
        let (bias, factor) = channel(-2, 0xABC, -8);
        assert_eq!(pack(bias, factor), Some([0xFE, 0xFF, 0xBC, 0x42]));
        assert!(!is_packed([0xFF, 0xFF, 0xFF, 0x07]));
    }

    #[test]
    fn what_would_change_is_no_word() {
        let half = |shift| Multiplier::new(1 << 30, shift).unwrap();
        assert_eq!(pack(0, half(0)), None);
        assert_eq!(pack(1 << 15, half(-1)), None);
        assert_eq!(pack(-(1 << 15) - 1, half(-1)), None);
        let (zero, fine) = (Multiplier::new(0, -1), Multiplier::new((1 << 30) + 1, -1));
        assert_eq!(pack(0, zero.unwrap()), None);
        assert_eq!(pack(0, fine.unwrap()), None);
    }
}
