//! Softmax in fixed point.
//!
//! A fixed-point number with `n` integer bits is an `i32` that stands for
//! `raw / 2^(31 - n)`; the names below carry `n` as Qn. The method is
//! gemmlowp's, which TensorFlow Lite's reference uses: the exponential is a
//! polynomial on [-1/4, 0) times a product of stored powers exp(-2^k), and the
//! reciprocal takes three Newton steps.

use super::{Input, Output};
use crate::arith::{Multiplier, doubling_high_mul, rounding_shift_right};

/// Integer bits of a difference of two inputs.
const DIFF_BITS: u32 = 5;
/// Integer bits of the sum of exponentials.
const SUM_BITS: u32 = 12;
/// 1 in Q0, as near as it gets.
const ONE_Q0: i32 = i32::MAX;
/// 1 in Q2.
const ONE_Q2: i32 = 1 << 29;

/// Input scale x 2^(31 - 5) with a shift of at least 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftmaxFactor(pub Multiplier);

impl SoftmaxFactor {
    /// Differences below this one would leave Q5; their exponential counts as 0:
    /// -floor((2^5 - 1) 2^26 / 2^shift).
    fn smallest_difference(self) -> i32 {
        -((31 << 26) >> self.0.shift())
    }

    /// exp(scale * difference) in Q0, or `None` where it counts as 0.
    fn exp(self, difference: i32) -> Option<i32> {
        (difference >= self.smallest_difference()).then(|| {
            let shifted = difference.wrapping_shl(self.0.shift() as u32);
            exp_of_negative(doubling_high_mul(shifted, self.0.mantissa()))
        })
    }
}

/// For each position: `out_c = clamp(-128 + round(256 exp(s (x_c - max)) / sum))`.
pub fn softmax(input: Input, factor: SoftmaxFactor, output: Output) {
    let channels = input.shape.channels();
    let positions = input.data.chunks_exact(channels);
    for (xs, outs) in positions.zip(output.data.chunks_exact_mut(channels)) {
        let max = xs.iter().copied().max().map_or(0, i32::from);
        let exp = |&x: &i8| factor.exp(i32::from(x) - max);
        let sum: i32 = xs
            .iter()
            .filter_map(exp)
            .map(|e| rounding_shift_right(e, SUM_BITS))
            .fold(0, i32::wrapping_add);
        let (reciprocal, bits_over_unit) = reciprocal(sum);
        for (out, x) in outs.iter_mut().zip(xs) {
            let probability = exp(x).map_or(0, |e| {
                let product = doubling_high_mul_signed(reciprocal, e);
                // A product is below 1, so 32 bits or more leave nothing of it.
                match bits_over_unit + 31 - 8 {
                    bits @ 0..=31 => rounding_shift_right(product, bits as u32),
                    _ => 0,
                }
            });
            *out = output
                .clamp
                .apply(probability.saturating_add(output.zero_point));
        }
    }
}

/// 1 / sum for a sum of at least 1 in Q12, as a Q0 number in (1/2, 1] and the
/// power of two by which it must be divided further, 0 to 12. The largest sum,
/// [`crate::layer::MAX_SOFTMAX`], wraps to -2^31, whose bits are still right.
fn reciprocal(sum: i32) -> (i32, i32) {
    let headroom = sum.leading_zeros();
    let minus_one = sum.wrapping_shl(headroom).wrapping_sub(i32::MIN);
    (
        one_over_one_plus(minus_one),
        SUM_BITS as i32 - headroom as i32,
    )
}

/// exp(a) in Q0 for a in Q5, -32 < a <= 0.
fn exp_of_negative(a: i32) -> i32 {
    const FRACTION_BITS: i32 = 31 - DIFF_BITS as i32;
    const QUARTER: i32 = 1 << (FRACTION_BITS - 2);
    /// (k, exp(-2^k) in Q0).
    const POWERS: [(i32, i32); 7] = [
        (-2, 1_672_461_947),
        (-1, 1_302_514_674),
        (0, 790_015_084),
        (1, 290_630_308),
        (2, 39_332_535),
        (3, 720_401),
        (4, 242),
    ];
    if a == 0 {
        return ONE_Q0;
    }
    let fraction = (a & (QUARTER - 1)) - QUARTER;
    let rest = fraction.wrapping_sub(a);
    let start = exp_between_minus_quarter_and_0(fraction << DIFF_BITS);
    POWERS.iter().fold(start, |product, &(k, power)| {
        if rest & (1 << (FRACTION_BITS + k)) != 0 {
            doubling_high_mul(product, power)
        } else {
            product
        }
    })
}

/// exp(a) in Q0 for a in Q0, -1/4 <= a < 0: the Taylor polynomial of degree 4
/// around -1/8.
fn exp_between_minus_quarter_and_0(a: i32) -> i32 {
    const EXP_MINUS_EIGHTH: i32 = 1_895_147_668;
    const THIRD: i32 = 715_827_883;
    let mul = doubling_high_mul_signed;
    let x = a + (1 << 28);
    let x2 = mul(x, x);
    let x3 = mul(x2, x);
    let x4 = mul(x2, x2);
    let x4_over_4 = rounding_shift_right(x4, 2);
    let tail = rounding_shift_right(mul(x4_over_4 + x3, THIRD) + x2, 1);
    EXP_MINUS_EIGHTH + mul(EXP_MINUS_EIGHTH, x + tail)
}

/// 1 / (1 + a) in Q0 for a in Q0, 0 <= a <= 1: Newton's division from
/// 48/17 - 32/17 d with d = (1 + a) / 2.
fn one_over_one_plus(a: i32) -> i32 {
    const C48_OVER_17_Q2: i32 = 1_515_870_810;
    const C32_OVER_17_Q2: i32 = 1_010_580_540;
    let mul = doubling_high_mul_signed;
    let half = ((i64::from(a) + i64::from(ONE_Q0) + 1) / 2) as i32;
    let mut x = C48_OVER_17_Q2 + mul(half, -C32_OVER_17_Q2);
    for _ in 0..3 {
        let error = ONE_Q2 - mul(half, x);
        x += saturating_shl(mul(x, error), 2);
    }
    saturating_shl(x, 1)
}

/// [`doubling_high_mul`] for a second factor of any sign.
fn doubling_high_mul_signed(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        i32::MAX
    } else {
        doubling_high_mul(a, b)
    }
}

fn saturating_shl(x: i32, bits: u32) -> i32 {
    let wide = i64::from(x) << bits;
    wide.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_a_millionth() {
        for step in 0..2000 {
            let a = -(step * 40_000_i32);
            let real = f64::from(a) / f64::from(1 << 26);
            let got = f64::from(exp_of_negative(a)) / f64::from(1u32 << 31);
            assert!((got - real.exp()).abs() < 1e-6, "{real}: {got}");
        }
    }

    #[test]
    fn many_equal_channels_share_one() {
        use crate::arith::Clamp;
        use crate::layer::{MAX_SOFTMAX, Shape};
        for channels in [1, 3, 256, 511, 513, 1000, 4095, MAX_SOFTMAX] {
            let shape = Shape::new(1, 1, channels).unwrap();
            let mut data = vec![0; channels];
            let input = Input {
                shape,
                zero_point: 0,
                data: &vec![5; channels],
            };
            let clamp = Clamp {
                min: i8::MIN,
                max: i8::MAX,
            };
            let output = Output {
                shape,
                zero_point: -128,
                clamp,
                data: &mut data,
            };
            softmax(
                input,
                SoftmaxFactor(Multiplier::new(1 << 30, 20).unwrap()),
                output,
            );
            let share = (256.0 / channels as f64).round().min(255.0) as i32;
            assert_eq!(i32::from(data[0]) + 128, share, "{channels}");
        }
    }

    #[test]
    fn reciprocals_are_right_to_a_millionth() {
        for step in 0..1000 {
            let a = step * 2_000_000;
            let real = 1.0 / (1.0 + f64::from(a) / f64::from(1u32 << 31));
            let got = f64::from(one_over_one_plus(a)) / f64::from(1u32 << 31);
            assert!((got - real).abs() < 1e-6, "{real}: {got}");
        }
    }
}
