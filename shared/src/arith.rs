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
    pub(crate) const fn trusted(mantissa: [u8; 4], shift: i8) -> Self {
        Self {
            mantissa: i32::from_le_bytes(mantissa),
            shift,
        }
    }

    /// The 31-bit mantissa.
    pub const fn mantissa(self) -> i32 {
        self.mantissa
    }

    /// The power of two.
    pub const fn shift(self) -> i8 {
        self.shift
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

/// round(x * factor), ties away from zero, saturating, for a finite factor of at
/// least 0. The product is one of `f64`, rounded to 53 bits with ties to even, but
/// computed in integers: few microcontrollers have an `f64` unit.
pub fn scale(x: i32, factor: f64) -> i32 {
    const FRACTION: u32 = f64::MANTISSA_DIGITS - 1;
    let bits = factor.to_bits();
    let exponent = (bits >> FRACTION) as i32;
    let fraction = bits & ((1 << FRACTION) - 1);
    // Below the normal numbers the first bit is 0.
    let mantissa = fraction | u64::from(exponent > 0) << FRACTION;
    let (product, dropped) = round_to_f64(x.unsigned_abs(), mantissa);
    // 1023 is the exponent of 1.
    let shift = 1023 + FRACTION as i32 - exponent.max(1) - dropped as i32;
    let magnitude = match u32::try_from(shift) {
        Ok(0) => product,
        Ok(right @ 1..=63) => (product + (1 << (right - 1))) >> right,
        Ok(_) => 0,
        Err(_) if shift > -32 => product << shift.unsigned_abs().min(10),
        Err(_) if product == 0 => 0,
        Err(_) => u64::MAX,
    };
    if x < 0 {
        0i32.saturating_sub_unsigned(magnitude.min(1 << 31) as u32)
    } else {
        magnitude.min(i32::MAX as u64) as i32
    }
}

/// The product `p` of `x` and a mantissa of 53 bits, as `f64` has it: the rounded
/// `p / 2^d` and `d`, 0 where `p` has no more than 53 bits.
fn round_to_f64(x: u32, mantissa: u64) -> (u64, u32) {
    let low = u64::from(x) * (mantissa & 0xFFFF_FFFF);
    let high = u64::from(x) * (mantissa >> 32) + (low >> 32);
    let low = low & 0xFFFF_FFFF;
    let bits = 32 + (u64::BITS - high.leading_zeros());
    let dropped = bits.saturating_sub(f64::MANTISSA_DIGITS);
    if dropped == 0 {
        return (high << 32 | low, 0);
    }
    let kept = high << (32 - dropped) | low >> dropped;
    let rest = low & ((1 << dropped) - 1);
    let half = 1 << (dropped - 1);
    let up = rest > half || rest == half && kept & 1 == 1;
    (kept + u64::from(up), dropped)
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
    }

    #[test]
    fn only_normal_factors_exist() {
        assert_eq!(Multiplier::new(1, 0), None);
        assert_eq!(Multiplier::new(-1, 0), None);
        assert_eq!(Multiplier::new(1 << 30, 32), None);
        assert_eq!(Multiplier::new(1 << 30, -32), None);
    }

    #[test]
    fn shift_right_rounds_ties_away_from_zero() {
        assert_eq!(rounding_shift_right(3, 1), 2);
        assert_eq!(rounding_shift_right(-3, 1), -2);
        assert_eq!(rounding_shift_right(i32::MIN, 31), -1);
        assert_eq!(rounding_shift_right(i32::MAX, 31), 1);
    }
}
