//! Kernels for Armv7E-M and Armv8-M with the DSP extension. The portable ones
//! define what they compute, to the bit.
//!
//! `SMLAD` multiplies two pairs of 16-bit numbers and adds both products to an
//! accumulator. `SXTB16` widens bytes 0 and 2 of a word to such a pair, or 1 and
//! 3 where it rotates first: of a word of [`super::lanes`] it gives the first
//! filter's weights.
#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};

use super::add::{AddFactors, LEFT_SHIFT};
use super::depthwise_conv2d::{Filter, Plane};
use super::lanes::{Lanes, SEGMENT, words};
use super::tile::{Columns, POSITIONS, Runs, Taps, Target};
use super::{Channels, ConvParams, Input, Output, View};
use crate::arith::{Clamp, Multiplier};
use crate::layer::{Size2, Window};

/// Lets the assembler of a naked function, which does not know the CPU, take
/// the instructions. Armv7E-M always has them.
#[cfg(espalier_armv8m)]
macro_rules! arch {
    () => {
        ".cpu cortex-m33"
    };
}
#[cfg(not(espalier_armv8m))]
macro_rules! arch {
    () => {
        ""
    };
}

/// The filters of a convolution, as [`super::tile::Filters`].
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    params: ConvParams<'a>,
    /// Whether [`tile`] may be called, and gives what [`super::tile::finish`] gives.
    fast: bool,
}

impl<'a> Filters<'a> {
    /// Of these parameters.
    pub fn new(params: ConvParams<'a>) -> Self {
        let Channels {
            bias,
            mantissas,
            shifts,
        } = params.channels;
        let fan_in = params.weights.fan_in();
        let lanes: Result<&[u32], _> = bytemuck::try_cast_slice(params.weights.bytes());
        let whole = lanes.is_ok_and(|lanes| lanes.len() == words(fan_in) * (bias.len() / 2))
            && bias.len() >= 2
            && bias.len().is_multiple_of(2)
            && mantissas.len() == bias.len()
            && shifts.len() == bias.len();
        // Accumulators stay below 2^30, and all shifts go right, but the one behind
        // an odd number of filters, whose output nobody reads.
        let in_range = |&bias: &[u8; 4]| i32::from_le_bytes(bias).unsigned_abs() < 1 << 29;
        let in_range = fan_in <= 1 << 14 && bias.iter().all(in_range);
        let right = |(&shift, mantissa): (&i8, &[u8; 4])| shift < 0 || *mantissa == [0; 4];
        Self {
            params,
            fast: whole && in_range && shifts.iter().zip(mantissas).all(right),
        }
    }

    /// As [`super::tile::Filters::multiply`].
    pub fn multiply(&self, columns: &[Columns], target: Target) {
        let ConvParams { weights, channels } = self.params;
        let filters = channels.bias.len();
        let rows = if target.pooled { 1 } else { POSITIONS };
        let whole = columns.len() == words(weights.fan_in())
            && target.stride == filters
            && target.rows.len() == rows * filters;
        if !(self.fast && whole) {
            return super::tile::Filters::new(self.params).multiply(columns, target);
        }
        // SAFETY: here and in `new` the lengths have been checked to be those that
        // `tile` reads and writes, and the lanes to be aligned.
        unsafe {
            tile(
                weights.bytes().as_ptr().cast(),
                columns.as_ptr(),
                columns.len(),
                filters / 2,
                channels.bias.as_ptr(),
                channels.mantissas.as_ptr(),
                channels.shifts.as_ptr(),
                target.rows.as_mut_ptr(),
                filters,
                target.zero_point,
                target.pooled.into(),
            );
        }
    }
}

/// All filters at four positions. `words` are those of one pair of filters, of
/// which there is at least one.
#[unsafe(naked)]
unsafe extern "C" fn tile(
    weights: *const u32,
    columns: *const Columns,
    words: usize,
    pairs: usize,
    bias: *const [u8; 4],
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
        ".equ SUMS, 0",    // twice the sums of the second filter
        ".equ COUNT, 16",  // blocks of 16 words that are left of the segment
        ".equ LEFT, 20",   // and behind it
        ".equ ENTRY, 24",  // where in the block the first words start
        ".equ BLOCKS, 28", // COUNT and LEFT of the first segment
        ".equ FINISH, 36", // what is done with the sums
        ".equ WEIGHTS, 76",
        ".equ COLUMNS, 80",
        ".equ WORDS, 84",
        ".equ PAIRS, 88",
        ".equ BIAS, 92",
        ".equ MANTISSAS, 96", // and shifts
        ".equ OUTPUT, 104",
        ".equ STRIDE, 108",
        ".equ ZERO_POINT, 112",
        ".equ POOLED, 116",
        // One word of weights at four positions: r4-r7 sums of the first filter,
        // r8-r11 mixed sums.
        ".macro WORD",
        "ldr r2, [r0], #4",
        "ldmia.w r1!, {{r12, lr}}",
        "sxtb16 r3, r2",
        "smlad r8, r2, r12, r8",
        "smlad r4, r3, r12, r4",
        "smlad r9, r2, lr, r9",
        "smlad r5, r3, lr, r5",
        "ldmia.w r1!, {{r12, lr}}",
        "smlad r10, r2, r12, r10",
        "smlad r6, r3, r12, r6",
        "smlad r11, r2, lr, r11",
        "smlad r7, r3, lr, r7",
        ".endm",
        ".macro ADD_HIGH sum, mixed, low",
        "subs \\mixed, \\mixed, \\low",
        "add \\mixed, \\sum, \\mixed, asr #7",
        ".endm",
        // The larger one of two sums.
        ".macro LARGER a, b",
        "cmp \\a, \\b",
        "it lt",
        "movlt \\a, \\b",
        ".endm",
        // The rounded high product of a doubled sum; 1 is taken from what is below
        // zero, so that ties of the second rounding go away from it.
        ".macro SCALE x, mantissa",
        "smmulr \\x, \\x, \\mantissa",
        "add \\x, \\x, \\x, asr #31",
        ".endm",
        // The carry of the shift rounds; r3 is the zero point.
        ".macro SHIFT x, right",
        "asrs \\x, \\x, \\right",
        "adc \\x, \\x, r3",
        "ssat \\x, #8, \\x",
        ".endm",
        "push {{r0-r3}}",
        "push {{r4-r11, lr}}",
        "sub sp, #40",
        "and r4, r2, #15",
        // The first segment has up to 15 words and 7 blocks.
        "lsr r2, r2, #4",
        "subs r3, r2, #7",
        "ite hi",
        "movhi r2, #7",
        "movls r3, #0",
        "strd r2, r3, [sp, #BLOCKS]",
        // A word of weights takes 48 bytes of code.
        "add r4, r4, r4, lsl #1",
        "adr.w r5, 3f",
        "sub r5, r5, r4, lsl #4",
        "orr r5, r5, #1",
        "str r5, [sp, #ENTRY]",
        "ldr r4, [sp, #POOLED]",
        "adr.w r5, 7f",
        "cmp r4, #0",
        "beq 8f",
        "adr.w r5, 5f",
        "8:",
        "orr r5, r5, #1",
        "str r5, [sp, #FINISH]",
        "1:", // a pair of filters
        "ldr r1, [sp, #BIAS]",
        "ldmia r1!, {{r4, r12}}",
        "str r1, [sp, #BIAS]",
        "mov r5, r4",
        "mov r6, r4",
        "mov r7, r4",
        "mov r8, r4",
        "mov r9, r4",
        "mov r10, r4",
        "mov r11, r4",
        "lsl r12, r12, #1",
        "strd r12, r12, [sp, #SUMS]",
        "strd r12, r12, [sp, #SUMS + 8]",
        "ldr r1, [sp, #COLUMNS]",
        "ldrd r2, r3, [sp, #BLOCKS]",
        "strd r2, r3, [sp, #COUNT]",
        "ldr pc, [sp, #ENTRY]",
        "2:",
        ".rept 16",
        "WORD",
        ".endr",
        "3:",
        "ldr r2, [sp, #COUNT]",
        "subs r2, r2, #1",
        "str r2, [sp, #COUNT]",
        "bpl 2b",
        "add r12, sp, #SUMS",
        "ldmia r12, {{r2, r3, r12, lr}}",
        "ADD_HIGH r2, r8, r4",
        "ADD_HIGH r3, r9, r5",
        "ADD_HIGH r12, r10, r6",
        "ADD_HIGH lr, r11, r7",
        "ldr r2, [sp, #LEFT]",
        "cbz r2, 4f",
        // Another segment.
        "add r12, sp, #SUMS",
        "stmia r12, {{r8-r11}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "subs r3, r2, #7",
        "ite hi",
        "movhi r2, #7",
        "movls r3, #0",
        "subs r2, r2, #1",
        "strd r2, r3, [sp, #COUNT]",
        "b 2b",
        "4:",
        "str r0, [sp, #WEIGHTS]",
        "ldrd r0, r3, [sp, #MANTISSAS]",
        "ldmia r0!, {{r1, r2}}",
        "ldrsb r12, [r3], #1",
        "ldrsb lr, [r3], #1",
        "strd r0, r3, [sp, #MANTISSAS]",
        "rsb r12, r12, #0",
        "rsb lr, lr, #0",
        "ldr r3, [sp, #ZERO_POINT]",
        "ldr r0, [sp, #OUTPUT]",
        "ldr pc, [sp, #FINISH]",
        "7:",
        "lsl r4, r4, #1",
        "lsl r5, r5, #1",
        "lsl r6, r6, #1",
        "lsl r7, r7, #1",
        "SCALE r4, r1",
        "SCALE r5, r1",
        "SCALE r6, r1",
        "SCALE r7, r1",
        "SCALE r8, r2",
        "SCALE r9, r2",
        "SCALE r10, r2",
        "SCALE r11, r2",
        "ldr r2, [sp, #STRIDE]",
        "SHIFT r4, r12",
        "SHIFT r5, r12",
        "SHIFT r6, r12",
        "SHIFT r7, r12",
        "SHIFT r8, lr",
        "SHIFT r9, lr",
        "SHIFT r10, lr",
        "SHIFT r11, lr",
        "add r1, r0, r2",
        "strb r4, [r0]",
        "strb r8, [r0, #1]",
        "strb r5, [r1]",
        "strb r9, [r1, #1]",
        "add r3, r1, r2",
        "strb r6, [r3]",
        "strb r10, [r3, #1]",
        "add r3, r3, r2",
        "strb r7, [r3]",
        "strb r11, [r3, #1]",
        "b 6f",
        "5:",
        "LARGER r4, r5",
        "LARGER r6, r7",
        "LARGER r8, r9",
        "LARGER r10, r11",
        "LARGER r4, r6",
        "LARGER r8, r10",
        "lsl r4, r4, #1",
        "SCALE r4, r1",
        "SCALE r8, r2",
        "SHIFT r4, r12",
        "SHIFT r8, lr",
        "strb r4, [r0]",
        "strb r8, [r0, #1]",
        "6:",
        "adds r0, r0, #2",
        "str r0, [sp, #OUTPUT]",
        "ldr r0, [sp, #WEIGHTS]",
        "ldr r2, [sp, #PAIRS]",
        "subs r2, r2, #1",
        "str r2, [sp, #PAIRS]",
        "bne 1b",
        "add sp, #40",
        "pop {{r4-r11, lr}}",
        "add sp, #16",
        "bx lr",
        ".purgem WORD",
        ".purgem ADD_HIGH",
        ".purgem LARGER",
        ".purgem SCALE",
        ".purgem SHIFT",
    )
}

/// As [`super::tile::scatter`].
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
        return super::tile::scatter(from, runs, starts, zero_point, to, first, taps);
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

/// As [`super::tile::widen_rows`].
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

/// The same number in both halves.
fn pair(number: i32) -> u32 {
    (number as u32 & 0xFFFF) * 0x1_0001
}

/// As [`super::dense::widen_all`].
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

/// As [`super::dense::dot_pairs`].
pub fn dot_pairs(wide: &[u32], lanes: Lanes, start: usize, sums: &mut [[i32; 2]]) {
    let row = words(lanes.fan_in());
    let all: Result<&[u32], _> = bytemuck::try_cast_slice(lanes.bytes());
    let whole = all.is_ok_and(|all| all.len() >= sums.len() * row)
        && wide.len() <= SEGMENT
        && start + wide.len() <= row;
    if !whole {
        return super::dense::dot_pairs(wide, lanes, start, sums);
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

/// As [`super::depthwise_conv2d::filter_plane`].
pub fn filter_plane(cells: &[u32], plane: Plane, filter: Filter, outputs: &mut [i8]) {
    match Plane3x3::new(cells, plane, filter, outputs) {
        // SAFETY: `new` has checked that all it reads and writes is there.
        Some(mut job) => unsafe { plane_3x3(&mut job) },
        None => super::depthwise_conv2d::filter_plane(cells, plane, filter, outputs),
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
    /// `None` for another filter, or where [`super::tile::finish`] has to scale.
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

/// As [`super::depthwise_conv2d::copy_plane`].
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

/// As [`super::add::add`].
pub fn add(memory: &mut [i8], a: View, b: View, factors: AddFactors, output: View, clamp: Clamp) {
    let rounding = [factors.a, factors.b, factors.output].map(Rounding::new);
    let [Some(by_a), Some(by_b), Some(by_output)] = rounding else {
        return super::add::add(memory, a, b, factors, output, clamp);
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

/// As [`super::pool2d::max_pool2d`], four channels at a time.
pub fn max_pool2d(window: Window, input: Input, output: Output) {
    let channels = input.shape.channels();
    if !channels.is_multiple_of(4) {
        return super::pool2d::max_pool2d(window, input, output);
    }
    let width = input.shape.width();
    super::slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            pixel.fill(i8::MIN);
            for iy in rows.input.clone() {
                for ix in columns.input.clone() {
                    let from = (iy * width + ix) * channels;
                    let taps = input.data.get(from..from + channels).unwrap_or_default();
                    let words = taps.as_chunks::<4>().0.iter();
                    for (largest, tap) in pixel.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                        *largest = max4(*largest, *tap);
                    }
                }
            }
            for value in pixel {
                *value = output.clamp.apply((*value).into());
            }
        },
    );
}

/// The larger one of each pair of bytes.
fn max4(a: [i8; 4], b: [i8; 4]) -> [i8; 4] {
    let (a, b): (u32, u32) = (bytemuck::cast(a), bytemuck::cast(b));
    let max: u32;
    // SAFETY: register arithmetic only; the GE flags that SSUB8 sets and SEL
    // reads are nobody else's.
    unsafe {
        asm!(
            "ssub8 {max}, {a}, {b}",
            "sel {max}, {a}, {b}",
            a = in(reg) a,
            b = in(reg) b,
            max = out(reg) max,
            options(pure, nomem, nostack),
        );
    }
    bytemuck::cast(max)
}
