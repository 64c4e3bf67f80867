//! The int8 arithmetic of TensorFlow Lite, to the bit.
//!
//! The reference kernels scale an accumulator in two ways, and each kernel must
//! use its own (`tests/vectors/README.md` tells how that was found out):
//!
//! * Convolutions and additions store the real factor as `mantissa * 2^(shift -
//!   31)` with a 31-bit mantissa and round twice, after the high multiplication
//!   and after the right shift: [`Multiplier::apply`].
//! * Fully connected layers multiply by the factor as an `f64` and round once,
//!   ties away from zero: [`scale`].

/// Largest size of a bias, see [`crate::layer::MAX_FAN_IN`].
pub const MAX_BIAS: i32 = 1 << 30;

/// A factor `mantissa * 2^(shift - 31)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multiplier {
    mantissa: i32,
    shift: i8,
}

impl Multiplier {
    /// `None` unless mantissa is 0 or in 2^30..2^31 and shift in -31..=31.
    pub const fn new(mantissa: i32, shift: i32) -> Option<Self> {
        let normal = mantissa == 0 || mantissa >= 1 << 30;
        if normal && shift >= -31 && shift <= 31 {
            Some(Self {
                mantissa,
                shift: shift as i8,
            })
        } else {
            None
        }
    }

    /// Behind [`crate::Model::parse`], which has called [`Multiplier::new`].
    pub(crate) const fn trusted(mantissa: i32, shift: i8) -> Self {
        Self { mantissa, shift }
    }

    /// The 31-bit mantissa.
    pub const fn mantissa(self) -> i32 {
        self.mantissa
    }

    /// The power of two.
    pub const fn shift(self) -> i8 {
        self.shift
    }

    /// The same factor as a floating-point number, exactly.
    pub const fn to_f64(self) -> f64 {
        if self.mantissa == 0 {
            return 0.0;
        }
        // 1.fraction x 2^(shift - 1)
        let exponent = (1022 + self.shift as i64) as u64;
        let fraction = self.mantissa as u64 & ((1 << 30) - 1);
        f64::from_bits(exponent << 52 | fraction << 22)
    }

    /// `x` times the factor, rounded twice (gemmlowp's
    /// `SaturatingRoundingDoublingHighMul`, then its `RoundingDivideByPOT`).
    /// `x * 2^shift` wraps where it leaves 32 bits, which no accumulator of a
    /// sensible model does.
    pub const fn apply(self, x: i32) -> i32 {
        let (left, right) = if self.shift > 0 {
            (self.shift as u32, 0)
        } else {
            (0, -self.shift as u32)
        };
        let high = doubling_high_mul(x.wrapping_shl(left), self.mantissa);
        rounding_shift_right(high, right)
    }
}

/// round(x * factor) for a finite factor that is not below 0: the product is
/// rounded to an `f64`, then to the nearest integer, ties away from zero,
/// saturating. Computed in integers: a chip without an `f64` unit needs a
/// fraction of the code and of the instructions for it.
pub const fn scale(x: i32, factor: f64) -> i32 {
    let bits = factor.to_bits();
    let exponent = (bits >> 52 & 0x7FF) as i32;
    if x == 0 || exponent == 0 {
        return 0; // a factor below 2^-1022 leaves nothing of any x
    }
    let mantissa = 1 << 52 | bits & ((1 << 52) - 1);
    let size = match scaled_far_from_a_tie(x.unsigned_abs(), mantissa, 1022 - exponent) {
        Some(size) => size,
        None => scaled(x.unsigned_abs(), mantissa, 1075 - exponent),
    };
    let sign = x >> 31;
    let limit = i32::MAX as u64 + (sign & 1) as u64;
    let size = if size < limit { size } else { limit };
    (size as i32 ^ sign).wrapping_sub(sign)
}

/// round(x * mantissa / 2^(53 + right)) from 32 bits of each, where what is left out
/// can not change it: less than 2 in units of 2^-right.
const fn scaled_far_from_a_tie(x: u32, mantissa: u64, right: i32) -> Option<u64> {
    if right < 2 || right > 31 {
        return None;
    }
    let high = ((x as u64 * (mantissa >> 21)) >> 32) as u32;
    let up = high + (1 << (right - 1));
    let mask = (1 << right) - 1;
    if (up & mask) + 2 <= mask {
        Some((up >> right) as u64)
    } else {
        None
    }
}

/// round(x * mantissa / 2^right) of the product rounded to 53 bits, ties upwards.
const fn scaled(x: u32, mantissa: u64, right: i32) -> u64 {
    let (product, dropped) = multiply_53_bits(x, mantissa);
    match right - dropped {
        55.. => 0,
        right @ 1..=54 => (product + (1 << (right - 1))) >> right,
        _ => u64::MAX,
    }
}

/// `x * mantissa` for a mantissa of 53 bits, rounded to 53 bits, ties to even,
/// and how many bits were dropped behind them.
const fn multiply_53_bits(x: u32, mantissa: u64) -> (u64, i32) {
    const LOW: u64 = u32::MAX as u64;
    let low = x as u64 * (mantissa & LOW);
    let high = x as u64 * (mantissa >> 32) + (low >> 32);
    let low = low & LOW;
    let dropped = (64 - 21u32).saturating_sub(high.leading_zeros());
    let product = high << (32 - dropped) | low >> dropped;
    let rest = low & ((1 << dropped) - 1);
    let up = 2 * rest + (product & 1) > 1 << dropped;
    (product + up as u64, dropped as i32)
}

/// round(a * b / 2^31), ties upwards; not for a = b = -2^31. gemmlowp's `SaturatingRoundingDoublingHighMul`.
pub const fn doubling_high_mul(a: i32, b: i32) -> i32 {
    // gemmlowp divides, with a nudge by sign; rounding half up is the same.
    ((a as i64 * b as i64 + (1 << 30)) >> 31) as i32
}

/// round(x / 2^exponent), ties away from zero; exponent in 0..=31.
/// gemmlowp's `RoundingDivideByPOT`.
pub const fn rounding_shift_right(x: i32, exponent: u32) -> i32 {
    let mask = ((1u32 << exponent) - 1) as i32;
    let remainder = x & mask;
    let threshold = (mask >> 1) + (x < 0) as i32;
    (x >> exponent) + (remainder > threshold) as i32
}

/// The values an output may take: the int8 range cut to the fused activation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clamp {
    /// Smallest.
    pub min: i8,
    /// Largest, not below `min`.
    pub max: i8,
}

impl Clamp {
    /// `x` cut to the range.
    pub fn apply(self, x: i32) -> i8 {
        x.max(i32::from(self.min)).min(i32::from(self.max)) as i8
    }

    /// Cuts values in place.
    pub fn cut(self, values: &mut [i8]) {
        if (self.min, self.max) != (i8::MIN, i8::MAX) {
            for value in values {
                *value = self.apply((*value).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiplier(mantissa: i32, shift: i32) -> Multiplier {
        Multiplier::new(mantissa, shift).unwrap()
    }

    #[test]
    fn the_two_ways_part_at_ties_below_zero() {
        let half = multiplier(1 << 30, 0);
        assert_eq!([half.apply(10), scale(10, 0.5)], [5, 5]);
        assert_eq!([half.apply(3), scale(3, 0.5)], [2, 2]);
        assert_eq!([half.apply(-3), scale(-3, 0.5)], [-1, -2]);
    }

    #[test]
    fn a_shift_rounds_a_second_time() {
        // 5 / 8 = 0.625: 2.5 becomes 3 first, then 3 / 4 becomes 1.
        let eighth = multiplier(1 << 30, -2);
        assert_eq!([eighth.apply(5), scale(5, 0.125)], [1, 1]);
        // 3 / 8 = 0.375: 1.5 becomes 2 first, then 2 / 4 becomes 1.
        assert_eq!([eighth.apply(3), scale(3, 0.125)], [1, 0]);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let xs = [i32::MIN, -1, 0, 1, i32::MAX];
        for shift in -31..=31 {
            for mantissa in [0, 1 << 30, i32::MAX] {
                let scaled = xs.map(|x| multiplier(mantissa, shift).apply(x));
                assert_eq!(scaled[2], 0);
            }
        }
        assert_eq!(scale(i32::MAX, 1e300), i32::MAX);
        assert_eq!(scale(i32::MIN, 1e300), i32::MIN);
        assert_eq!(scale(1, 0.499_999_999_999_999_94), 0);
        assert_eq!([scale(1, f64::MIN_POSITIVE / 2.0), scale(0, 1e300)], [0, 0]);
    }

    /// What TensorFlow Lite's reference computes, as it is written there.
    fn scale_in_f64(x: i32, factor: f64) -> i32 {
        (f64::from(x) * factor).round() as i32
    }

    #[test]
    fn scaling_in_integers_is_scaling_in_f64() {
        let mut state = 1u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..1_000_000 {
            let x = (random() as i32) >> (random() % 32);
            // From 2^-63 to 2^32, where products go from nothing to saturation.
            let exponent = 960 + random() % 96;
            let fraction = (random() >> 12) & (u64::MAX << (random() % 53));
            let factor = f64::from_bits(exponent << 52 | fraction);
            assert_eq!(scale(x, factor), scale_in_f64(x, factor), "{x} {factor:e}");
        }
    }

    #[test]
    fn products_next_to_a_tie_round_twice() {
        // Factors around (n + 1/2) / x, whose products lie around a tie.
        for x in [-7, 3, 1000, 65_537, 123_456_789, i32::MAX, i32::MIN] {
            for n in 0..200 {
                let near = (f64::from(n) + 0.5) / f64::from(x).abs();
                for factor in [near.next_down(), near, near.next_up()] {
                    assert_eq!(scale(x, factor), scale_in_f64(x, factor), "{x} {factor:e}");
                }
            }
        }
    }

    #[test]
    fn only_normal_factors_exist() {
        assert_eq!(Multiplier::new(1, 0), None);
        assert_eq!(Multiplier::new(-1, 0), None);
        assert_eq!(Multiplier::new(1 << 30, 32), None);
        assert_eq!(Multiplier::new(1 << 30, -32), None);
    }

    #[test]
    fn a_multiplier_is_a_number() {
        for mantissa in [0, 1 << 30, 0x5555_5555, i32::MAX] {
            for shift in [-31, -1, 0, 1, 31] {
                let number = f64::from(mantissa) * 2f64.powi(shift - 31);
                assert_eq!(multiplier(mantissa, shift).to_f64(), number);
            }
        }
    }

    #[test]
    fn shift_right_rounds_ties_away_from_zero() {
        assert_eq!(rounding_shift_right(3, 1), 2);
        assert_eq!(rounding_shift_right(-3, 1), -2);
        assert_eq!(rounding_shift_right(i32::MIN, 31), -1);
        assert_eq!(rounding_shift_right(i32::MAX, 31), 1);
    }
}
