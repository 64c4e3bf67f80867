//! Weights that are not 0.

use core::arch::naked_asm;

use super::tile::{Pointers, in_range};
use super::{arch, forget_requantise, requantise, unpack};
use crate::kernels::ConvParams;
use crate::kernels::sparse::{self, Column, Entry, Filter, POSITIONS, QUAD, Sparse};
use crate::kernels::tile::{Runs, Target};

/// The filters of a convolution, as [`crate::kernels::sparse::SparseFilters`].
#[derive(Clone, Copy, Debug)]
pub struct SparseFilters<'a> {
    params: ConvParams<'a, Sparse<'a>>,
    /// Whether [`tile`] may be called, and gives what [`crate::kernels::tile::finish`] gives.
    fast: bool,
}

impl<'a> SparseFilters<'a> {
    /// Of these parameters.
    pub fn new(params: ConvParams<'a, Sparse<'a>>) -> Self {
        let whole = params.weights.counts().len() == params.channels.count();
        let aligned = params.weights.counts().as_ptr().cast::<u32>().is_aligned();
        Self {
            params,
            fast: whole && aligned && in_range(params.weights.fan_in(), params.channels),
        }
    }

    /// As [`crate::kernels::sparse::SparseFilters::multiply`].
    pub fn multiply(&self, columns: &[Column], target: Target) {
        let ConvParams { weights, channels } = self.params;
        let rows = if target.pooled {
            POSITIONS / QUAD
        } else {
            POSITIONS
        };
        let filters = target.stride;
        let Pointers {
            first,
            mantissas,
            shifts,
        } = Pointers::new(channels);
        let whole = columns.len() == weights.fan_in()
            && columns.as_ptr().cast::<u32>().is_aligned()
            && (1..=channels.count()).contains(&filters)
            && target.rows.len() == rows * filters;
        if !(self.fast && whole) {
            return sparse::SparseFilters::new(self.params).multiply(columns, target);
        }
        // SAFETY: here and in `new` the lengths have been checked to be those that
        // `tile` reads and writes, and words to be aligned; `Sparse` says that the
        // entries are there and that their taps are below the fan-in.
        unsafe {
            tile(
                weights.entries().as_ptr(),
                columns.as_ptr(),
                weights.counts().as_ptr(),
                filters,
                first,
                mantissas,
                shifts,
                target.rows.as_mut_ptr(),
                filters,
                target.zero_point,
                target.pooled.into(),
            );
        }
    }
}

/// All filters, of which there is at least one, at eight positions.
#[unsafe(naked)]
unsafe extern "C" fn tile(
    entries: *const Entry,
    columns: *const Column,
    counts: *const [u8; 2],
    filters: usize,
    channels: *const u32,
    mantissas: *const [u8; 4],
    shifts: *const i8,
    output: *mut i8,
    stride: usize,
    zero_point: i32,
    pooled: usize,
) {
    naked_asm!(
        arch!(),
        // What lies where from sp on.
        ".equ ENTRIES, 0",
        ".equ COLUMNS, 4",
        ".equ COUNTS, 8",
        ".equ FILTERS, 12",
        ".equ CHANNELS, 52",   // biases or compact words
        ".equ MANTISSAS, 56",  // and shifts; 0 where the words are compact
        ".equ OUTPUT, 64",     // and stride
        ".equ ZERO_POINT, 72", // and whether it is pooled
        // An entry at eight positions, 52 bytes of code: r4-r11 sums.
        ".macro ENTRY",
        "ldrb.w r12, [r0, #1]",
        "ldrsb.w r3, [r0], #2",
        "add.w r1, r1, r12, lsl #4",
        "ldrd r12, lr, [r1]",
        "smlabb r4, r12, r3, r4",
        "smlatb r5, r12, r3, r5",
        "smlabb r6, lr, r3, r6",
        "smlatb r7, lr, r3, r7",
        "ldrd r12, lr, [r1, #8]",
        "smlabb r8, r12, r3, r8",
        "smlatb r9, r12, r3, r9",
        "smlabb r10, lr, r3, r10",
        "smlatb r11, lr, r3, r11",
        ".endm",
        requantise!(),
        unpack!(),
        ".macro FINISH x",
        "lsl \\x, \\x, #1",
        "SCALE \\x, r1",
        "SHIFT \\x, r12",
        ".endm",
        "push {{r4-r11, lr}}",
        "push {{r0-r3}}",
        "1:", // a filter
        "ldr r12, [sp, #COUNTS]",
        "ldrh r3, [r12], #2",
        "str r12, [sp, #COUNTS]",
        "ldrd r12, r2, [sp, #CHANNELS]",
        "ldr r4, [r12], #4",
        "str r12, [sp, #CHANNELS]",
        "cbnz r2, 9f",
        "sxth r4, r4",
        "9:",
        "ldr r1, [sp, #COLUMNS]",
        "add r2, r0, r3, lsl #1",
        // Eight entries at a time, the first time those that are over.
        "and r3, r3, #7",
        "mov r12, #52",
        "mul r3, r3, r12",
        "adr.w r12, 3f",
        "sub r12, r12, r3",
        "orr r12, r12, #1",
        "mov r5, r4",
        "mov r6, r4",
        "mov r7, r4",
        "mov r8, r4",
        "mov r9, r4",
        "mov r10, r4",
        "mov r11, r4",
        "bx r12",
        "2:",
        ".rept 8",
        "ENTRY",
        ".endr",
        "3:",
        "cmp r0, r2",
        "bne 2b",
        "adds r0, #2",
        "bic r0, r0, #3",
        "str r0, [sp, #ENTRIES]",
        "ldrd r2, r3, [sp, #MANTISSAS]",
        "cbnz r2, 9f",
        "ldr r2, [sp, #CHANNELS]",
        "ldr r1, [r2, #-4]",
        "UNPACK r1, r12",
        "b 8f",
        "9:", // wide
        "ldr r1, [r2], #4",
        "ldrsb r12, [r3], #1",
        "strd r2, r3, [sp, #MANTISSAS]",
        "rsb r12, r12, #0",
        "8:",
        "ldrd r3, lr, [sp, #ZERO_POINT]",
        "ldrd r0, r2, [sp, #OUTPUT]",
        "cmp lr, #0",
        "bne 5f",
        "FINISH r4",
        "FINISH r5",
        "FINISH r6",
        "FINISH r7",
        "FINISH r8",
        "FINISH r9",
        "FINISH r10",
        "FINISH r11",
        "add r1, r2, r2, lsl #1",
        "add r3, r0, r1",
        "strb r4, [r0]",
        "strb r5, [r0, r2]",
        "strb r6, [r0, r2, lsl #1]",
        "strb r7, [r0, r1]",
        "strb r8, [r0, r2, lsl #2]",
        "strb r9, [r3, r2, lsl #1]",
        "strb r10, [r0, r1, lsl #1]",
        "strb r11, [r3, r2, lsl #2]",
        "b 6f",
        "5:",
        "LARGER r4, r5",
        "LARGER r6, r7",
        "LARGER r8, r9",
        "LARGER r10, r11",
        "LARGER r4, r6",
        "LARGER r8, r10",
        "FINISH r4",
        "FINISH r8",
        "strb r4, [r0]",
        "strb r8, [r0, r2]",
        "6:",
        "adds r0, #1",
        "str r0, [sp, #OUTPUT]",
        "ldr r0, [sp, #ENTRIES]",
        "ldr r2, [sp, #FILTERS]",
        "subs r2, #1",
        "str r2, [sp, #FILTERS]",
        "bne 1b",
        "add sp, #16",
        "pop {{r4-r11, pc}}",
        ".purgem ENTRY",
        ".purgem FINISH",
        ".purgem UNPACK",
        forget_requantise!(),
    )
}

/// As [`crate::kernels::sparse::spread`].
pub fn spread(from: &[i8], runs: Runs, starts: &[usize], to: &mut [Column], first: usize) {
    let room = first + starts.len() <= POSITIONS && to.as_ptr().cast::<u32>().is_aligned();
    if !(room && runs.fit(starts, from.len(), to.len())) {
        return sparse::spread(from, runs, starts, to, first);
    }
    let together = runs.to_step == runs.bytes && runs.bytes.is_multiple_of(4);
    let from_gap = runs.from_step.wrapping_sub(runs.bytes);
    let to = to.as_flattened_mut().as_mut_ptr();
    let to = to.wrapping_add(runs.to * POSITIONS + first);
    // SAFETY: all bytes that are read and columns that are written have been
    // checked to be there, at least one row of at least one byte. A quad starts at
    // a whole word.
    unsafe {
        match <[usize; QUAD]>::try_from(starts) {
            Ok(starts) if together && first.is_multiple_of(QUAD) => {
                spread_quad(from.as_ptr(), &starts, to, runs.count, runs.bytes, from_gap)
            }
            _ => spread_rows(
                from.as_ptr(),
                starts.as_ptr(),
                to,
                starts.len(),
                runs.count,
                runs.bytes,
                from_gap,
                runs.to_step
                    .wrapping_sub(runs.bytes)
                    .wrapping_mul(size_of::<Column>()),
            ),
        }
    }
}

/// Rows of a multiple of 4 bytes, side by side in the columns, of four positions.
#[unsafe(naked)]
unsafe extern "C" fn spread_quad(
    from: *const i8,
    starts: *const [usize; QUAD],
    to: *mut i16,
    rows: usize,
    bytes: usize,
    from_gap: usize,
) {
    naked_asm!(
        arch!(),
        // Two taps of four positions, in r8-r11, to their columns; lr is lost.
        ".macro STORE tap",
        "pkhbt lr, r8, r9, lsl #16",
        "pkhtb r9, r9, r8, asr #16",
        "pkhbt r8, r10, r11, lsl #16",
        "pkhtb r11, r11, r10, asr #16",
        "strd lr, r8, [r12, #16 * \\tap]",
        "strd r9, r11, [r12, #16 * \\tap + 32]",
        ".endm",
        "push {{r3-r11, lr}}", // [sp] rows, [sp, #40] bytes, [sp, #44] gap
        "sub sp, #8",          // [sp] end of the row
        "mov r12, r2",
        "mov r8, r0",
        "ldmia r1, {{r0-r3}}",
        "add r0, r0, r8",
        "add r1, r1, r8",
        "add r2, r2, r8",
        "add r3, r3, r8",
        "1:", // a row
        "ldr r4, [sp, #48]",
        "add r4, r12, r4, lsl #4",
        "str r4, [sp]",
        "2:",
        "ldr r4, [r0], #4",
        "ldr r5, [r1], #4",
        "ldr r6, [r2], #4",
        "ldr r7, [r3], #4",
        "sxtb16 r8, r4",
        "sxtb16 r9, r5",
        "sxtb16 r10, r6",
        "sxtb16 r11, r7",
        "STORE 0",
        "sxtb16 r8, r4, ror #8",
        "sxtb16 r9, r5, ror #8",
        "sxtb16 r10, r6, ror #8",
        "sxtb16 r11, r7, ror #8",
        "STORE 1",
        "ldr r4, [sp]",
        "add r12, r12, #64",
        "cmp r12, r4",
        "bne 2b",
        "ldr r4, [sp, #52]",
        "add r0, r0, r4",
        "add r1, r1, r4",
        "add r2, r2, r4",
        "add r3, r3, r4",
        "ldr r4, [sp, #8]",
        "subs r4, r4, #1",
        "str r4, [sp, #8]",
        "bne 1b",
        "add sp, #12",
        "pop {{r4-r11, pc}}",
        ".purgem STORE",
    )
}

/// Rows of any number of bytes, position by position.
#[unsafe(naked)]
unsafe extern "C" fn spread_rows(
    from: *const i8,
    starts: *const usize,
    to: *mut i16,
    positions: usize,
    rows: usize,
    bytes: usize,
    from_gap: usize,
    to_gap: usize,
) {
    naked_asm!(
        arch!(),
        "push {{r4-r11, lr}}",
        "ldrd r9, r10, [sp, #36]",  // rows, bytes
        "ldrd r11, r12, [sp, #44]", // gaps
        "1:",                       // a position
        "ldr r4, [r1], #4",
        "add r4, r4, r0",
        "mov r5, r2",
        "mov r6, r9",
        "2:", // a row
        "mov r7, r10",
        "3:",
        "ldrsb r8, [r4], #1",
        "subs r7, r7, #1",
        "strh r8, [r5], #16",
        "bne 3b",
        "add r4, r4, r11",
        "add r5, r5, r12",
        "subs r6, r6, #1",
        "bne 2b",
        "adds r2, #2",
        "subs r3, #1",
        "bne 1b",
        "pop {{r4-r11, pc}}",
    )
}

/// As [`crate::kernels::sparse::dot`].
pub fn dot(unit: Filter, input: &[i8]) -> i32 {
    let entries = unit.entries();
    let aligned = entries.as_ptr().cast::<u32>().is_aligned();
    if !aligned || input.len() < unit.fan_in() {
        return sparse::dot(unit, input);
    }
    // SAFETY: the taps of a `Filter` are below its fan-in, and behind an odd number
    // of entries lies another one.
    unsafe {
        dot_words(
            entries.as_ptr().cast(),
            input.as_ptr(),
            entries.len().div_ceil(2),
        )
    }
}

/// Entries two by two.
#[unsafe(naked)]
unsafe extern "C" fn dot_words(words: *const u32, input: *const i8, count: usize) -> i32 {
    naked_asm!(
        arch!(),
        ".macro WORD entries",
        "uxtab r1, r1, \\entries, ror #8",
        "sxtb16 r7, \\entries",
        "ldrsb r8, [r1]",
        "uxtab r1, r1, \\entries, ror #24",
        "smlabb r9, r8, r7, r9",
        "ldrsb r8, [r1]",
        "smlabt r9, r8, r7, r9",
        ".endm",
        ".macro FOUR",
        "ldmia r0!, {{r3-r6}}",
        "WORD r3",
        "WORD r4",
        "WORD r5",
        "WORD r6",
        ".endm",
        "push {{r4-r9, lr}}",
        "mov r9, #0",
        "subs r2, #8",
        "blo 2f",
        "1:",
        "FOUR",
        "FOUR",
        "subs r2, #8",
        "bhs 1b",
        "2:",
        "adds r2, #8",
        "beq 4f",
        "3:",
        "ldr r3, [r0], #4",
        "WORD r3",
        "subs r2, #1",
        "bne 3b",
        "4:",
        "mov r0, r9",
        "pop {{r4-r9, pc}}",
        ".purgem FOUR",
        ".purgem WORD",
    )
}
