//! Element-wise addition.

use super::{Input, Output};
use crate::arith::Multiplier;

/// Bits that both inputs are scaled up by before they are brought to one scale.
pub const LEFT_SHIFT: u32 = 20;

/// Factors of an addition, with `s = 2 max(s_a, s_b)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddFactors {
    /// s_a / s, below 1.
    pub a: Multiplier,
    /// s_b / s, below 1.
    pub b: Multiplier,
    /// s / (2^20 s_out).
    pub output: Multiplier,
}

/// `out = clamp(zp + m_out * (m_a * 2^20 (a - zp_a) + m_b * 2^20 (b - zp_b)))`,
/// each product rounded twice, as TensorFlow Lite's reference does.
pub fn add(a: Input, b: Input, factors: AddFactors, output: Output) {
    let scaled = |value: i8, zero_point: i32, factor: Multiplier| {
        factor.apply((i32::from(value) - zero_point) << LEFT_SHIFT)
    };
    for ((out, &x), &y) in output.data.iter_mut().zip(a.data).zip(b.data) {
        let sum = scaled(x, a.zero_point, factors.a) + scaled(y, b.zero_point, factors.b);
        *out = output
            .clamp
            .apply(factors.output.apply(sum).saturating_add(output.zero_point));
    }
}
