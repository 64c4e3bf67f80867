//! Fully connected layer.

use core::arch::{asm, naked_asm};

use super::{arch, pair};
use crate::kernels::dense;
use crate::kernels::lanes::{Lanes, SEGMENT, words};

/// As [`crate::kernels::dense::widen_all`].
pub fn widen_all(fours: &[[i8; 4]], zero_point: i32, wide: &mut [[u32; 2]]) {
    let count = fours.len().min(wide.len());
    if count == 0 {
        return;
    }
    // SAFETY: `count`, at least one, are in both slices.
    unsafe {
        asm!(
            "2:",
            "ldr {odd}, [{from}], #4",
            "sxtb16 {even}, {odd}",
            "sxtb16 {odd}, {odd}, ror #8",
            "ssub16 {even}, {even}, {zero_points}",
            "ssub16 {odd}, {odd}, {zero_points}",
            "subs {count}, {count}, #1",
            "strd {even}, {odd}, [{to}], #8",
            "bne 2b",
            even = out(reg) _,
            odd = out(reg) _,
            from = inout(reg) fours.as_ptr() => _,
            to = inout(reg) wide.as_mut_ptr() => _,
            count = inout(reg) count => _,
            zero_points = in(reg) pair(zero_point),
            options(nostack),
        );
    }
}

/// As [`crate::kernels::dense::dot_pairs`].
pub fn dot_pairs(wide: &[u32], lanes: Lanes, start: usize, sums: &mut [[i32; 2]]) {
    let row = words(lanes.fan_in());
    let all: Result<&[u32], _> = bytemuck::try_cast_slice(lanes.bytes());
    let whole = all.is_ok_and(|all| all.len() >= sums.len() * row)
        && wide.len() <= SEGMENT
        && start + wide.len() <= row;
    if !whole {
        return dense::dot_pairs(wide, lanes, start, sums);
    }
    if wide.is_empty() || sums.is_empty() {
        return;
    }
    // SAFETY: of each pair of units as many words as inputs are there, and all are
    // aligned; there is at least one of each.
    unsafe {
        let lanes: *const u32 = lanes.bytes().as_ptr().cast();
        dot(
            wide.as_ptr(),
            lanes.wrapping_add(start),
            wide.len(),
            sums.as_mut_ptr(),
            sums.len(),
            4 * (row - wide.len()),
        );
    }
}

/// Adds the products of words with inputs to the sums of pairs of units, whose words
/// lie `gap` bytes apart.
#[unsafe(naked)]
unsafe extern "C" fn dot(
    wide: *const u32,
    lanes: *const u32,
    words: usize,
    sums: *mut [i32; 2],
    pairs: usize,
    gap: usize,
) {
    naked_asm!(
        arch!(),
        // r10 the first unit's sum, r11 the mixed one.
        ".macro WORD lanes, x",
        "sxtb16 r12, \\lanes",
        "smlad r11, \\lanes, \\x, r11",
        "smlad r10, r12, \\x, r10",
        ".endm",
        ".macro FOUR",
        "ldmia r0!, {{r3-r5, lr}}",
        "ldmia r1!, {{r6-r9}}",
        "WORD r6, r3",
        "WORD r7, r4",
        "WORD r8, r5",
        "WORD r9, lr",
        ".endm",
        "push {{r0-r11, lr}}", // [sp] inputs, [sp, #8] words, [sp, #12] sums
        "0:",
        "ldr r0, [sp]",
        "ldr r2, [sp, #8]",
        "mov r10, #0",
        "mov r11, #0",
        "subs r2, #16",
        "blo 2f",
        "1:",
        "FOUR",
        "FOUR",
        "FOUR",
        "FOUR",
        "subs r2, #16",
        "bhs 1b",
        "2:",
        "adds r2, #16",
        "beq 4f",
        "3:",
        "ldr r3, [r0], #4",
        "ldr r6, [r1], #4",
        "WORD r6, r3",
        "subs r2, #1",
        "bne 3b",
        "4:",
        "ldr r2, [sp, #12]",
        "ldrd r3, r4, [r2]",
        "subs r11, r11, r10",
        "add r3, r3, r10",
        "add r4, r4, r11, asr #8",
        "strd r3, r4, [r2], #8",
        "str r2, [sp, #12]",
        "ldrd r2, r3, [sp, #52]",
        "add r1, r1, r3",
        "subs r2, #1",
        "str r2, [sp, #52]",
        "bne 0b",
        "add sp, #16",
        "pop {{r4-r11, pc}}",
        ".purgem FOUR",
        ".purgem WORD",
    )
}
