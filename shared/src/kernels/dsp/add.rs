//! Element-wise addition.

use core::arch::asm;

use crate::arith::{Clamp, Multiplier};
use crate::kernels::View;
use crate::kernels::add::{self, AddFactors, LEFT_SHIFT};

/// As [`crate::kernels::add::add`].
#[inline(never)] // beside other layers its loop would not keep its numbers in registers
pub fn add(memory: &mut [i8], a: View, b: View, factors: AddFactors, output: View, clamp: Clamp) {
    let rounding = [factors.a, factors.b, factors.output].map(Rounding::new);
    let [Some(by_a), Some(by_b), Some(by_output)] = rounding else {
        return add::add(memory, a, b, factors, output, clamp);
    };
    for index in 0..output.shape.len() {
        let read = |view: View| memory.get(view.start + index).copied().unwrap_or_default();
        let twice = |view: View| (i32::from(read(view)) - view.zero_point) << (LEFT_SHIFT + 1);
        let sum = by_a.apply(twice(a)) + by_b.apply(twice(b));
        let shifted = by_output.apply(2 * sum) + output.zero_point;
        if let Some(out) = memory.get_mut(output.start + index) {
            *out = clamp.apply(shifted);
        }
    }
}

/// A factor that does not shift to the left.
#[derive(Clone, Copy)]
struct Rounding {
    mantissa: i32,
    right_shift: u32,
    /// Half of what is shifted out.
    half: i32,
    /// All ones where there is a half, which is 1 less for numbers below 0.
    mask: i32,
}

impl Rounding {
    fn new(factor: Multiplier) -> Option<Self> {
        let right_shift = u32::try_from(-i32::from(factor.shift())).ok()?;
        Some(Self {
            mantissa: factor.mantissa(),
            right_shift,
            half: 1i32
                .checked_shl(right_shift.checked_sub(1).unwrap_or(u32::MAX))
                .unwrap_or(0),
            mask: -i32::from(right_shift > 0),
        })
    }

    /// [`Multiplier::apply`] of half of `twice`.
    #[inline(always)]
    fn apply(self, twice: i32) -> i32 {
        let high: i32;
        // SAFETY: register arithmetic only.
        unsafe {
            asm!(
                "smmulr {high}, {twice}, {mantissa}",
                twice = in(reg) twice,
                mantissa = in(reg) self.mantissa,
                high = lateout(reg) high,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        (high + (high >> 31 & self.mask) + self.half) >> self.right_shift
    }
}
