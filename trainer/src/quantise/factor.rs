//! Real factors and ranges as the integers that the kernels use.

use shared::arith::Multiplier;
use shared::kernels::add::{AddFactors, LEFT_SHIFT};
use shared::kernels::channels::MANTISSA_BITS;
use shared::kernels::softmax::SoftmaxFactor;
use shared::model::Quant;

/// `real` as mantissa and shift, as TensorFlow Lite's `QuantizeMultiplier`
/// does: a 31-bit mantissa rounded half away from zero; below 2^-32 it is 0.
/// `None` for a negative, infinite or too large factor.
pub fn multiplier(real: f64) -> Option<Multiplier> {
    if real == 0.0 {
        return Multiplier::new(0, 0);
    }
    if !(real.is_finite() && real > 0.0) {
        return None;
    }
    // real = fraction * 2^exponent with fraction in [1/2, 1).
    let mut exponent = real.log2().floor() as i32 + 1;
    let mut fraction = real / 2f64.powi(exponent);
    if fraction >= 1.0 {
        fraction /= 2.0;
        exponent += 1;
    } else if fraction < 0.5 {
        fraction *= 2.0;
        exponent -= 1;
    }
    let mut mantissa = (fraction * f64::from(1u32 << 31)).round() as i64;
    if mantissa == 1 << 31 {
        mantissa /= 2;
        exponent += 1;
    }
    if exponent < -31 {
        return Multiplier::new(0, 0);
    }
    Multiplier::new(mantissa as i32, exponent)
}

/// The factor that brings an accumulator to the output's scale. The order of
/// the operations is TensorFlow Lite's, so that the last bit is too.
pub fn real(input: f32, weight: f32, output: f32) -> f64 {
    f64::from(input) * f64::from(weight) / f64::from(output)
}

/// A finite factor rounded to the [`MANTISSA_BITS`] of a compact one, by 2^-12 of it at
/// the most.
pub fn compact(real: f64) -> f64 {
    let dropped = f64::MANTISSA_DIGITS - MANTISSA_BITS;
    let half = 1 << (dropped - 1);
    // A carry out of the mantissa goes to the exponent, as it should.
    f64::from_bits((real.to_bits() + half) >> dropped << dropped)
}

/// Factors of an addition, see [`AddFactors`].
pub fn add(a: f32, b: f32, output: f32) -> Option<AddFactors> {
    let twice_max = 2.0 * f64::from(a.max(b));
    Some(AddFactors {
        a: multiplier(f64::from(a) / twice_max)?,
        b: multiplier(f64::from(b) / twice_max)?,
        output: multiplier(twice_max / (f64::from(1u32 << LEFT_SHIFT) * f64::from(output)))?,
    })
}

/// Factor of a softmax: input scale x 2^(31 - 5), at least 1.
pub fn softmax(input: f32) -> Option<SoftmaxFactor> {
    let largest = f64::from(i32::MAX);
    let real = (f64::from(input) * f64::from(1 << 26)).min(largest);
    multiplier(real)
        .filter(|m| m.shift() >= 0)
        .map(SoftmaxFactor)
}

/// Scale and zero point that cover `min..=max` and hold 0 exactly.
pub fn activation(min: f32, max: f32) -> Quant {
    let (min, max) = (min.min(0.0), max.max(0.0));
    let span = f64::from(max) - f64::from(min);
    if span <= 0.0 {
        return Quant {
            scale: 1.0,
            zero_point: 0,
        };
    }
    let scale = (span / 255.0) as f32;
    let zero_point = (-128.0 - f64::from(min) / f64::from(scale)).round();
    Quant {
        scale,
        zero_point: zero_point.clamp(-128.0, 127.0) as i8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(m: Multiplier) -> f64 {
        f64::from(m.mantissa()) * 2f64.powi(i32::from(m.shift()) - 31)
    }

    #[test]
    fn multipliers_keep_31_bits() {
        for exponent in -30..30 {
            for fraction in [0.5, 0.500_000_1, 0.75, 0.999_999_999_9] {
                let wanted = fraction * 2f64.powi(exponent);
                let got = real(multiplier(wanted).unwrap());
                assert!((got / wanted - 1.0).abs() < 1e-9, "{wanted} {got}");
            }
        }
    }

    #[test]
    fn what_has_no_multiplier_is_refused() {
        assert_eq!(multiplier(-1.0), None);
        assert_eq!(multiplier(f64::NAN), None);
        assert_eq!(multiplier(f64::INFINITY), None);
        assert_eq!(multiplier(1e30), None);
        assert_eq!(real(multiplier(1e-30).unwrap()), 0.0);
    }

    #[test]
    fn compact_factors_have_few_bits() {
        let unit = 2f64.powi(-20);
        for (units, rounded) in [
            (2048.0, 2048.0),
            (2048.49, 2048.0),
            (3000.5, 3001.0),
            (4095.7, 4096.0),
        ] {
            assert_eq!(compact(units * unit), rounded * unit);
        }
        assert_eq!(compact(0.0), 0.0);
    }

    #[test]
    fn activations_hold_zero_and_both_ends() {
        let quant = activation(-1.0, 3.0);
        let q = |x: f32| (x / quant.scale).round() as i32 + i32::from(quant.zero_point);
        assert_eq!((q(-1.0), q(3.0)), (-128, 127));
        assert_eq!(activation(0.5, 2.55).zero_point, -128);
        assert_eq!(activation(-2.0, -1.0).zero_point, 127);
    }
}
