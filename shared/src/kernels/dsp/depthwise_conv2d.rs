//! Depthwise convolution.

use core::arch::{asm, naked_asm};

use super::arch;
use crate::kernels::depthwise_conv2d::{self, Filter, Plane};
use crate::kernels::tile::Runs;
use crate::layer::Size2;

/// As [`crate::kernels::depthwise_conv2d::filter_plane`].
pub fn filter_plane(cells: &[u32], plane: Plane, filter: Filter, outputs: &mut [i8]) {
    match Plane3x3::new(cells, plane, filter, outputs) {
        // SAFETY: `new` has checked that all it reads and writes is there.
        Some(mut job) => unsafe { plane_3x3(&mut job) },
        None => depthwise_conv2d::filter_plane(cells, plane, filter, outputs),
    }
}

/// A 3x3 filter with a stride of 1 over one plane, for [`plane_3x3`].
#[repr(C)]
struct Plane3x3 {
    /// Twice the weights: of each row the first and second, the second and third.
    weights: [u32; 6],
    /// Twice the bias.
    bias: i32,
    mantissa: i32,
    right_shift: i32,
    zero_point: i32,
    output: *mut i8,
    output_step: usize,
    row: *const u32,
    row_bytes: usize,
    rows: usize,
    /// Bytes of a row of which two outputs at a time are computed.
    pair_bytes: usize,
    /// Whether one more follows.
    odd: usize,
    /// End of the pairs of the present row.
    end: *const u32,
}

impl Plane3x3 {
    /// `None` for another filter, or where [`crate::kernels::tile::finish`] has to scale.
    fn new(cells: &[u32], plane: Plane, filter: Filter, outputs: &mut [i8]) -> Option<Self> {
        let (height, width) = (filter.output.height(), filter.output.width());
        let channels = filter.output.channels();
        let three = Size2::new(3, 3)?;
        let whole = filter.window.kernel == three
            && filter.window.stride == Size2::ONE
            && plane.stride.is_multiple_of(2)
            && plane.stride >= width + 2
            && cells.len() >= (height + 2) * plane.stride / 2
            && outputs.len() > (height * width - 1) * channels;
        let in_range = filter.bias.unsigned_abs() < 1 << 29 && filter.factor.shift() < 0;
        let (rows, _) = filter.weights.as_chunks::<3>();
        let (&[top, middle, bottom], true) = (rows.first_chunk()?, whole && in_range) else {
            return None;
        };
        let twice = |w: i8| (2 * i16::from(w)) as u16;
        let pair = |a: i8, b: i8| u32::from(twice(a)) | u32::from(twice(b)) << 16;
        let pairs = |[a, b, c]: [i8; 3]| [pair(a, b), pair(b, c)];
        let [[a, b], [c, d], [e, f]] = [top, middle, bottom].map(pairs);
        Some(Self {
            weights: [a, b, c, d, e, f],
            bias: 2 * filter.bias,
            mantissa: filter.factor.mantissa(),
            right_shift: -i32::from(filter.factor.shift()),
            zero_point: filter.zero_point,
            output: outputs.as_mut_ptr(),
            output_step: channels,
            row: cells.as_ptr(),
            row_bytes: 2 * plane.stride,
            rows: height,
            pair_bytes: 2 * (width & !1),
            odd: width & 1,
            end: core::ptr::null(),
        })
    }
}

/// Computes all outputs of a plane, two neighbours at a time.
#[unsafe(naked)]
unsafe extern "C" fn plane_3x3(job: *mut Plane3x3) {
    naked_asm!(
        arch!(),
        ".equ P_BIAS, 24",
        ".equ P_MANTISSA, 28",
        ".equ P_SHIFT, 32",
        ".equ P_OUTPUT, 40",
        ".equ P_ROW, 48",
        ".equ P_ROWS, 56",
        ".equ P_PAIR_BYTES, 60",
        ".equ P_ODD, 64",
        ".equ P_END, 68",
        // Four inputs of one row: r10 is the sum of the left output, r11 of the
        // right one.
        ".macro ROW_OF_TWO row, first, last",
        "ldrd r12, lr, [\\row], #4",
        "smlad r10, r12, \\first, r10",
        "smlatb r11, r12, \\first, r11",
        "smlabt r10, lr, \\last, r10",
        "smlad r11, lr, \\last, r11",
        ".endm",
        ".macro ROW_OF_ONE row, first, last",
        "ldrd r12, lr, [\\row]",
        "smlad r10, r12, \\first, r10",
        "smlabt r10, lr, \\last, r10",
        ".endm",
        // 1 is taken from what is below zero; the carry of the shift rounds.
        ".macro SCALE_AND_SHIFT x",
        "add \\x, \\x, \\x, asr #31",
        "asrs \\x, \\x, r12",
        "adc \\x, \\x, lr",
        "ssat \\x, #8, \\x",
        ".endm",
        "push {{r4-r11, lr}}",
        "ldmia r0, {{r4-r9}}",
        "1:", // a row of outputs
        "ldrd r1, r2, [r0, #P_ROW]",
        "add r12, r1, r2",
        "str r12, [r0, #P_ROW]",
        "add r3, r12, r2",
        "mov r2, r12",
        "ldr r12, [r0, #P_PAIR_BYTES]",
        "add r12, r12, r1",
        "str r12, [r0, #P_END]",
        "cmp r1, r12",
        "beq 3f",
        "2:", // two outputs
        "ldr r10, [r0, #P_BIAS]",
        "mov r11, r10",
        "ROW_OF_TWO r1, r4, r5",
        "ROW_OF_TWO r2, r6, r7",
        "ROW_OF_TWO r3, r8, r9",
        "ldr r12, [r0, #P_MANTISSA]",
        "smmulr r10, r10, r12",
        "smmulr r11, r11, r12",
        "ldrd r12, lr, [r0, #P_SHIFT]",
        "SCALE_AND_SHIFT r10",
        "SCALE_AND_SHIFT r11",
        "ldrd r12, lr, [r0, #P_OUTPUT]",
        "strb r10, [r12]",
        "strb r11, [r12, lr]",
        "add r12, r12, lr, lsl #1",
        "ldr lr, [r0, #P_END]",
        "str r12, [r0, #P_OUTPUT]",
        "cmp r1, lr",
        "bne 2b",
        "3:",
        "ldr r12, [r0, #P_ODD]",
        "cmp r12, #0",
        "beq 4f",
        "ldr r10, [r0, #P_BIAS]",
        "ROW_OF_ONE r1, r4, r5",
        "ROW_OF_ONE r2, r6, r7",
        "ROW_OF_ONE r3, r8, r9",
        "ldr r12, [r0, #P_MANTISSA]",
        "smmulr r10, r10, r12",
        "ldrd r12, lr, [r0, #P_SHIFT]",
        "SCALE_AND_SHIFT r10",
        "ldrd r12, lr, [r0, #P_OUTPUT]",
        "strb r10, [r12]",
        "add r12, r12, lr",
        "str r12, [r0, #P_OUTPUT]",
        "4:",
        "ldr r12, [r0, #P_ROWS]",
        "subs r12, r12, #1",
        "str r12, [r0, #P_ROWS]",
        "bne 1b",
        "pop {{r4-r11, pc}}",
        ".purgem ROW_OF_TWO",
        ".purgem ROW_OF_ONE",
        ".purgem SCALE_AND_SHIFT",
    )
}

/// As [`crate::kernels::depthwise_conv2d::copy_plane`].
pub fn copy_plane(
    from: &[i8],
    runs: Runs,
    start: usize,
    step: usize,
    zero_point: i32,
    to: &mut [i16],
) {
    // A row ends with its last byte, not a step behind it.
    let covered = Runs {
        bytes: runs.bytes.saturating_sub(1) * step + 1,
        ..runs
    };
    let fit = covered.fit(&[start], from.len(), usize::MAX) && runs.fit(&[0], usize::MAX, to.len());
    if runs.bytes == 0 || !fit {
        return;
    }
    // SAFETY: all that is read and written has been checked to be there; there is
    // at least one row of at least one byte.
    unsafe {
        asm!(
            "2:",
            "mov {left}, {bytes}",
            "3:",
            "ldrsb {x}, [{from}]",
            "add {from}, {from}, {step}",
            "sub {x}, {x}, {zero_point}",
            "subs {left}, {left}, #1",
            "strh {x}, [{to}], #2",
            "bne 3b",
            "add {from}, {from}, {from_gap}",
            "add {to}, {to}, {to_gap}",
            "subs {count}, {count}, #1",
            "bne 2b",
            left = out(reg) _,
            x = out(reg) _,
            count = inout(reg) runs.count => _,
            from = inout(reg) from.as_ptr().wrapping_add(start) => _,
            to = inout(reg) to.as_mut_ptr().wrapping_add(runs.to) => _,
            bytes = in(reg) runs.bytes,
            step = in(reg) step,
            zero_point = in(reg) zero_point,
            from_gap = in(reg) runs.from_step.wrapping_sub(runs.bytes * step),
            to_gap = in(reg) runs.to_step.wrapping_sub(runs.bytes).wrapping_mul(2),
            options(nostack),
        );
    }
}
