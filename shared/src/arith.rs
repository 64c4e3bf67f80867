//! The int8 arithmetic of TensorFlow Lite, to the bit.
//!
//! A real factor `m` in (0, 2^31) is stored as `mantissa * 2^(shift - 31)` with
//! a 31-bit mantissa. Two ways of rounding are in use, and each kernel must use
//! its own (see `tests/vectors/README.md` for how that was found out):
//!
//! * [`Multiplier::twice`] rounds after the high multiplication and again after
//!   the right shift (gemmlowp's `SaturatingRoundingDoublingHighMul` and
//!   `RoundingDivideByPOT`).
//! * [`Multiplier::once`] keeps 64 bits and rounds a single time, ties upwards.

/// Largest size of a bias, see [`crate::layer::MAX_FAN_IN`].
pub const MAX_BIAS: i32 = 1 << 30;

/// A factor `mantissa * 2^(shift - 31)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multiplier {
    mantissa: i32,
    shift: i8,
}

impl Multiplier {
    /// `None` unless mantissa is 0 or in 2^30..2^31 and shift in -31..=30.
    pub const fn new(mantissa: i32, shift: i32) -> Option<Self> {
        let normal = mantissa == 0 || mantissa >= 1 << 30;
        if normal && shift >= -31 && shift <= 30 {
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

    /// `x` times the factor, rounded twice.
    pub const fn twice(self, x: i32) -> i32 {
        let (left, right) = if self.shift > 0 {
            (self.shift as u32, 0)
        } else {
            (0, -self.shift as u32)
        };
        let high = doubling_high_mul(x.wrapping_shl(left), self.mantissa);
        rounding_shift_right(high, right)
    }

    /// `x` times the factor, rounded once, ties upwards.
    pub const fn once(self, x: i32) -> i32 {
        let shift = (31 - self.shift as i32) as u32;
        let product = x as i64 * self.mantissa as i64;
        ((product + (1 << (shift - 1))) >> shift) as i32
    }
}

/// round(a * b / 2^31), ties upwards; not for a = b = -2^31. gemmlowp's `SaturatingRoundingDoublingHighMul`.
pub const fn doubling_high_mul(a: i32, b: i32) -> i32 {
    let product = a as i64 * b as i64;
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    ((product + nudge) / (1 << 31)) as i32
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiplier(mantissa: i32, shift: i32) -> Multiplier {
        Multiplier::new(mantissa, shift).unwrap()
    }

    #[test]
    fn a_half_scales_by_a_half() {
        let half = multiplier(1 << 30, 0);
        assert_eq!([half.twice(10), half.once(10)], [5, 5]);
        assert_eq!([half.twice(3), half.once(3)], [2, 2]);
        assert_eq!([half.twice(-3), half.once(-3)], [-1, -1]);
    }

    #[test]
    fn ties_below_zero_part_once_there_is_a_right_shift() {
        let quarter = multiplier(1 << 30, -1);
        assert_eq!([quarter.twice(-6), quarter.once(-6)], [-2, -1]);
    }

    #[test]
    fn rounding_twice_can_differ_from_once_by_one() {
        let m = multiplier((1 << 30) + 1, -1);
        let differing = (0..100_000).filter(|&x| m.twice(x) != m.once(x)).count();
        assert!(differing > 0);
    }

    #[test]
    fn extremes_do_not_overflow() {
        for shift in -31..=30 {
            for mantissa in [0, 1 << 30, i32::MAX] {
                let m = multiplier(mantissa, shift);
                for x in [i32::MIN, -1, 0, 1, i32::MAX] {
                    m.twice(x);
                    m.once(x);
                }
            }
        }
    }

    #[test]
    fn only_normal_factors_exist() {
        assert_eq!(Multiplier::new(1, 0), None);
        assert_eq!(Multiplier::new(-1, 0), None);
        assert_eq!(Multiplier::new(1 << 30, 31), None);
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
