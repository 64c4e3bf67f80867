//! Element-wise addition.

use super::View;
use crate::arith::{Clamp, Multiplier};

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
/// each product rounded twice, as TensorFlow Lite's reference does. Elements are
/// written in order, so that the output may start at an input or before it.
pub fn add(memory: &mut [i8], a: View, b: View, factors: AddFactors, output: View, clamp: Clamp) {
    let scaled = |value: i8, zero_point: i32, factor: Multiplier| {
        factor.apply((i32::from(value) - zero_point) << LEFT_SHIFT)
    };
    for index in 0..output.shape.len() {
        let read = |view: View| memory.get(view.start + index).copied().unwrap_or_default();
        let sum =
            scaled(read(a), a.zero_point, factors.a) + scaled(read(b), b.zero_point, factors.b);
        let shifted = factors.output.apply(sum).saturating_add(output.zero_point);
        if let Some(out) = memory.get_mut(output.start + index) {
            *out = clamp.apply(shifted);
        }
    }
}
