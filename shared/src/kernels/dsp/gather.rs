//! Windows into columns.

use core::arch::naked_asm;

use super::{arch, pair};
use crate::kernels::tile::{self, Columns, POSITIONS, Runs, Taps};

/// As [`crate::kernels::tile::scatter`].
pub fn scatter(
    from: &[i8],
    runs: Runs,
    starts: &[usize],
    zero_point: i32,
    to: &mut [Columns],
    first: usize,
    taps: Taps,
) {
    let places = taps.places();
    // Four taps take two words of each position.
    let room = places.len() <= 2 * to.len() && first + starts.len() <= POSITIONS;
    if !(room && runs.fit(starts, from.len(), places.len())) {
        return tile::scatter(from, runs, starts, zero_point, to, first, taps);
    }
    // SAFETY: all bytes and taps that are read have been checked to be there, at
    // least one row of at least one byte; the places of so many taps are in `to`.
    unsafe {
        scatter_rows(
            from.as_ptr(),
            starts.as_ptr(),
            places.as_ptr().wrapping_add(runs.to),
            to.as_flattened_mut().as_mut_ptr().wrapping_add(first),
            starts.len(),
            runs.count,
            runs.bytes,
            runs.from_step.wrapping_sub(runs.bytes),
            runs.to_step.wrapping_sub(runs.bytes).wrapping_mul(2),
            zero_point,
        );
    }
}

#[unsafe(naked)]
unsafe extern "C" fn scatter_rows(
    from: *const i8,
    starts: *const usize,
    places: *const u16,
    to: *mut u32,
    positions: usize,
    rows: usize,
    bytes: usize,
    from_gap: usize,
    places_gap: usize,
    zero_point: i32,
) {
    naked_asm!(
        arch!(),
        "push {{r0-r11, lr}}",
        "ldr lr, [sp, #60]",        // bytes
        "ldr r0, [sp, #72]",        // zero point
        "ldrd r11, r12, [sp, #64]", // gaps
        "1:",                       // a position
        "ldr r4, [sp]",
        "ldr r5, [r1], #4",
        "add r4, r4, r5",
        "mov r5, r2",
        "ldr r6, [sp, #56]",
        "2:", // a row
        "mov r7, lr",
        "3:",
        "ldrsb r8, [r4], #1",
        "ldrh r9, [r5], #2",
        "subs r7, r7, #1",
        "sub r8, r8, r0",
        "strh r8, [r3, r9, lsl #1]",
        "bne 3b",
        "add r4, r4, r11",
        "add r5, r5, r12",
        "subs r6, r6, #1",
        "bne 2b",
        "add r3, r3, #4",
        "ldr r6, [sp, #52]",
        "subs r6, r6, #1",
        "str r6, [sp, #52]",
        "bne 1b",
        "add sp, #16",
        "pop {{r4-r11, pc}}",
    )
}

/// As [`crate::kernels::tile::widen_rows`].
pub fn widen_rows(
    from: &[i8],
    runs: Runs,
    starts: &[usize],
    zero_point: i32,
    to: &mut [Columns],
    first: usize,
) {
    let fours = (runs.bytes | runs.to | runs.to_step).is_multiple_of(4);
    // Four bytes become two words of a position.
    let room = fours && first + starts.len() <= POSITIONS;
    if !(room && runs.fit(starts, from.len(), 2 * to.len())) {
        return;
    }
    // SAFETY: all bytes that are read and words that are written have been checked
    // to be there; there is at least one row of at least four bytes.
    unsafe {
        let to = to.as_flattened_mut().as_mut_ptr();
        widen_words(
            from.as_ptr(),
            starts.as_ptr(),
            to.wrapping_add(2 * runs.to + first),
            pair(zero_point),
            starts.len(),
            runs.count,
            runs.bytes,
            runs.from_step.wrapping_sub(runs.bytes),
            runs.to_step.wrapping_sub(runs.bytes).wrapping_mul(8),
        );
    }
}

#[unsafe(naked)]
unsafe extern "C" fn widen_words(
    from: *const i8,
    starts: *const usize,
    to: *mut u32,
    zero_points: u32,
    positions: usize,
    rows: usize,
    bytes: usize,
    from_gap: usize,
    to_gap: usize,
) {
    naked_asm!(
        arch!(),
        ".macro WORD",
        "ldr r9, [r4], #4",
        "sxtb16 r8, r9",
        "sxtb16 r9, r9, ror #8",
        "ssub16 r8, r8, r3",
        "ssub16 r9, r9, r3",
        "str r8, [r5], #16",
        "str r9, [r5], #16",
        ".endm",
        "push {{r4-r11, lr}}",
        "ldr lr, [sp, #44]",        // bytes
        "ldrd r11, r12, [sp, #48]", // gaps
        "1:",                       // a position
        "ldr r4, [r1], #4",
        "add r4, r4, r0",
        "mov r5, r2",
        "ldr r6, [sp, #40]",
        "2:", // a row
        "subs r7, lr, #16",
        "blo 4f",
        "3:",
        "WORD",
        "WORD",
        "WORD",
        "WORD",
        "subs r7, r7, #16",
        "bhs 3b",
        "4:",
        "adds r7, r7, #16",
        "beq 6f",
        "5:",
        "WORD",
        "subs r7, r7, #4",
        "bne 5b",
        "6:",
        "add r4, r4, r11",
        "add r5, r5, r12",
        "subs r6, r6, #1",
        "bne 2b",
        "add r2, r2, #4",
        "ldr r6, [sp, #36]",
        "subs r6, r6, #1",
        "str r6, [sp, #36]",
        "bne 1b",
        "pop {{r4-r11, pc}}",
        ".purgem WORD",
    )
}
