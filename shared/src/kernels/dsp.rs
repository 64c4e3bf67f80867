//! Kernels for Armv7E-M and Armv8-M with the DSP extension. The portable ones
//! define what they compute, to the bit.
//!
//! `SMLAD` multiplies two pairs of 16-bit numbers and adds both products to an
//! accumulator. `SXTB16` widens bytes 0 and 2 of a word to such a pair, or 1 and
//! 3 where it rotates first. Inputs and weights are widened in the same order,
//! so pairs meet their partners without being re-ordered.
#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};

use super::conv2d::POOL;
use super::{ConvParams, DenseParams, Input, Output, Overlap, dot, overlap};
use crate::arith::{Clamp, scale};
use crate::layer::{Shape, Window};

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

/// Four accumulators: filter 0 at positions 0 and 1, then filter 1 at both.
type Tile = [i32; 4];

/// Sixteen-bit inputs of four products at two positions: position 0 bytes 0
/// and 2, bytes 1 and 3, then position 1.
type Columns = [u32; 4];

/// As [`super::conv2d::conv2d`]. Two output positions at a time are gathered
/// into `scratch` as 16-bit numbers and meet two filters at a time.
pub fn conv2d(
    window: Window,
    input: Input,
    params: ConvParams,
    output: Output,
    scratch: &mut [u32],
) {
    let fan_in = window.kernel.area() * input.shape.channels();
    let blocks = fan_in.div_ceil(4);
    let filters = output.shape.channels();
    let Some(rows) = Rows::new(params, fan_in, filters) else {
        return super::conv2d::conv2d(window, input, params, output);
    };
    // The plan has room for the scratch of every layer.
    let (patch, columns) = scratch.split_at_mut_checked(blocks).unwrap_or_default();
    let columns = columns.as_chunks_mut().0;
    let Some(columns) = columns.get_mut(..blocks) else {
        return;
    };
    let width = output.shape.width();
    // What lies between the fan-in and the last word stays real 0.
    bytemuck::cast_slice_mut(patch).fill(input.zero_point as i8);
    let (mut y, mut x) = (0, 0);
    for pixels in output.data.chunks_mut(2 * filters) {
        let (first, second) = pixels.split_at_mut_checked(filters).unwrap_or_default();
        let positions = if second.is_empty() { 1 } else { 2 };
        for position in 0..positions {
            gather(window, input, (y, x), bytemuck::cast_slice_mut(patch));
            widen(patch, input.zero_point, columns, position);
            x += 1;
            if x == width {
                (y, x) = (y + 1, 0);
            }
        }
        rows.multiply(columns, output.zero_point, first, second);
    }
    clamp(output.clamp, output.data);
}

/// As [`super::conv2d::conv2d_max_pool2d`]. The largest of four accumulators is
/// found before it is scaled: scaling keeps the order.
pub fn conv2d_max_pool2d(
    window: Window,
    input: Input,
    params: ConvParams,
    unpooled: Shape,
    output: Output,
    scratch: &mut [u32],
) {
    let fan_in = window.kernel.area() * input.shape.channels();
    let blocks = fan_in.div_ceil(4);
    let filters = unpooled.channels();
    let Some(rows) = Rows::new(params, fan_in, filters) else {
        return super::conv2d::conv2d_max_pool2d(window, input, params, unpooled, output);
    };
    let (patch, columns) = scratch.split_at_mut_checked(blocks).unwrap_or_default();
    let (upper, lower) = columns
        .as_chunks_mut()
        .0
        .split_at_mut_checked(blocks)
        .unwrap_or_default();
    let Some(lower) = lower.get_mut(..blocks) else {
        return;
    };
    bytemuck::cast_slice_mut(patch).fill(input.zero_point as i8);
    let (mut y, mut x) = (0, 0);
    for pixel in output.data.chunks_exact_mut(filters) {
        for (columns, y) in [(&mut *upper, y), (&mut *lower, y + 1)] {
            for position in 0..POOL {
                let at = (y, x + position);
                gather(window, input, at, bytemuck::cast_slice_mut(patch));
                widen(patch, input.zero_point, columns, position);
            }
        }
        rows.multiply_max(upper, lower, output.zero_point, pixel);
        x += POOL;
        if x == POOL * output.shape.width() {
            (y, x) = (y + POOL, 0);
        }
    }
    clamp(output.clamp, output.data);
}

/// Cuts outputs to the range of a fused activation, where it is not all of int8.
fn clamp(range: Clamp, data: &mut [i8]) {
    if (range.min, range.max) != (i8::MIN, i8::MAX) {
        for value in data {
            *value = range.apply((*value).into());
        }
    }
}

/// The filters of a convolution, each a row of `fan_in` weights that may be
/// read up to the end of its last word, with factors below 1/2 and accumulators
/// that fit 31 bits.
struct Rows<'a> {
    params: ConvParams<'a>,
    fan_in: usize,
}

impl<'a> Rows<'a> {
    /// Fan-in from which products could leave 29 bits.
    const MAX_FAN_IN: usize = 1 << 14;
    /// Bias from which an accumulator could leave 30 bits.
    const MAX_BIAS: u32 = 1 << 29;

    /// `None` where a filter is beyond these limits, which few networks reach.
    fn new(params: ConvParams<'a>, fan_in: usize, filters: usize) -> Option<Self> {
        let whole = params.readable.len() >= filters * fan_in + 3;
        let biases = params.bias.iter().map(|&bias| i32::from_le_bytes(bias));
        let fits = whole
            && fan_in <= Self::MAX_FAN_IN
            && biases
                .map(i32::unsigned_abs)
                .all(|bias| bias < Self::MAX_BIAS)
            && params.shifts.iter().all(|&shift| shift < 0);
        fits.then_some(Self { params, fan_in })
    }

    /// Writes all filters' outputs at one or two positions, not clamped yet.
    #[inline(never)]
    fn multiply(&self, columns: &[Columns], zero_point: i32, first: &mut [i8], second: &mut [i8]) {
        let ConvParams {
            readable,
            bias,
            mantissas,
            shifts,
            ..
        } = self.params;
        let filters = bias.as_chunks().0.iter().zip(mantissas.as_chunks().0);
        let filters = filters.zip(shifts.as_chunks().0);
        let rows = readable.chunks(2 * self.fan_in);
        let outputs = first.as_chunks_mut().0.iter_mut();
        let mut more = second.as_chunks_mut().0.iter_mut();
        for (((([b0, b1], [m0, m1]), [s0, s1]), row), [y0, y1]) in filters.zip(rows).zip(outputs) {
            let (bias0, bias1) = (i32::from_le_bytes(*b0), i32::from_le_bytes(*b1));
            let mut tile = [bias0, bias0, bias1, bias1];
            self.dot(columns, row, self.fan_in, &mut tile);
            let (m0, m1) = (i32::from_le_bytes(*m0), i32::from_le_bytes(*m1));
            *y0 = scaled(tile[0], m0, *s0, zero_point);
            *y1 = scaled(tile[2], m1, *s1, zero_point);
            if let Some([z0, z1]) = more.next() {
                *z0 = scaled(tile[1], m0, *s0, zero_point);
                *z1 = scaled(tile[3], m1, *s1, zero_point);
            }
        }
        if !bias.len().is_multiple_of(2) {
            self.multiply_last(columns, zero_point, first, second);
        }
    }

    /// Writes the largest of four positions' outputs of every filter, not
    /// clamped yet.
    #[inline(never)]
    fn multiply_max(
        &self,
        upper: &[Columns],
        lower: &[Columns],
        zero_point: i32,
        output: &mut [i8],
    ) {
        let ConvParams {
            readable,
            bias,
            mantissas,
            shifts,
            ..
        } = self.params;
        let largest = |row: &[i8], next| {
            let mut tiles = [[0; 4]; 2];
            self.dot(upper, row, next, &mut tiles[0]);
            self.dot(lower, row, next, &mut tiles[1]);
            let [[a, b, c, d], [e, f, g, h]] = tiles;
            [a.max(b).max(e).max(f), c.max(d).max(g).max(h)]
        };
        let filters = bias.as_chunks().0.iter().zip(mantissas.as_chunks().0);
        let filters = filters.zip(shifts.as_chunks().0);
        let rows = readable.chunks(2 * self.fan_in);
        let outputs = output.as_chunks_mut().0.iter_mut();
        for (((([b0, b1], [m0, m1]), [s0, s1]), row), [y0, y1]) in filters.zip(rows).zip(outputs) {
            let [sum0, sum1] = largest(row, self.fan_in);
            let (sum0, sum1) = (
                sum0 + i32::from_le_bytes(*b0),
                sum1 + i32::from_le_bytes(*b1),
            );
            *y0 = scaled(sum0, i32::from_le_bytes(*m0), *s0, zero_point);
            *y1 = scaled(sum1, i32::from_le_bytes(*m1), *s1, zero_point);
        }
        if let ([.., last], false) = (output, bias.len().is_multiple_of(2)) {
            let filter = bias.len() - 1;
            let row = readable.get(filter * self.fan_in..).unwrap_or_default();
            let sum = largest(row, 0)[0] + self.params.bias(filter);
            let factor = self.params.factor(filter);
            *last = scaled(sum, factor.mantissa(), factor.shift(), zero_point);
        }
    }

    /// The last one of an odd number of filters.
    fn multiply_last(
        &self,
        columns: &[Columns],
        zero_point: i32,
        first: &mut [i8],
        second: &mut [i8],
    ) {
        let last = self.params.bias.len() - 1;
        let bias = self.params.bias(last);
        let mut tile = [bias; 4];
        let row = self.params.readable.get(last * self.fan_in..);
        self.dot(columns, row.unwrap_or_default(), 0, &mut tile);
        let factor = self.params.factor(last);
        for (sum, output) in tile.into_iter().zip([first, second]) {
            if let Some(y) = output.get_mut(last) {
                *y = scaled(sum, factor.mantissa(), factor.shift(), zero_point);
            }
        }
    }

    /// Adds to `tile` the products of the row at the start of `rows` and the one
    /// `next` bytes behind it.
    fn dot(&self, columns: &[Columns], rows: &[i8], next: usize, tile: &mut Tile) {
        // SAFETY: `new` has checked that every row may be read to the end of
        // its last word, and `rows` is a part of the same bytes. What is read
        // past the fan-in meets zeroes in `columns`.
        unsafe {
            let row = rows.as_ptr();
            dot_2x2(
                columns.as_ptr(),
                row,
                row.wrapping_add(next),
                columns.len(),
                tile,
            );
        }
    }
}

/// Copies what the window covers at an output position; padding is real 0.
fn gather(window: Window, input: Input, (y, x): (usize, usize), patch: &mut [i8]) {
    let (kernel, stride) = (window.kernel, window.stride);
    let (top, left) = window.padding_before(input.shape);
    let (height, width) = (input.shape.height(), input.shape.width());
    let rows: Overlap = overlap(y, stride.height(), top, kernel.height(), height);
    let columns = overlap(x, stride.width(), left, kernel.width(), width);
    let channels = input.shape.channels();
    let kernel_row = kernel.width() * channels;
    let run = columns.input.len() * channels;
    if rows.input.len() * run != kernel.height() * kernel_row {
        patch.fill(input.zero_point as i8);
    }
    for (ky, iy) in (rows.kernel_start..).zip(rows.input) {
        let to = ky * kernel_row + columns.kernel_start * channels;
        let from = (iy * width + columns.input.start) * channels;
        if let Some((to, from)) = patch
            .get_mut(to..to + run)
            .zip(input.data.get(from..from + run))
        {
            to.copy_from_slice(from);
        }
    }
}

/// Widens a patch to 16 bits and takes its zero point off.
fn widen(patch: &[u32], zero_point: i32, columns: &mut [Columns], position: usize) {
    let zero_points = (zero_point as u32 & 0xFFFF) * 0x1_0001;
    for (columns, &word) in columns.iter_mut().zip(patch) {
        let (even, odd): (u32, u32);
        // SAFETY: register arithmetic only.
        unsafe {
            asm!(
                "sxtb16 {even}, {word}",
                "sxtb16 {odd}, {word}, ror #8",
                "ssub16 {even}, {even}, {zero_points}",
                "ssub16 {odd}, {odd}, {zero_points}",
                word = in(reg) word,
                zero_points = in(reg) zero_points,
                even = out(reg) even,
                odd = out(reg) odd,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        let [a, b, c, d] = columns;
        let (to_even, to_odd) = if position == 0 { (a, b) } else { (c, d) };
        (*to_even, *to_odd) = (even, odd);
    }
}

/// Adds to `tile` the products of two rows of `4 * blocks` weights with the
/// columns of two positions.
#[unsafe(naked)]
unsafe extern "C" fn dot_2x2(
    columns: *const Columns,
    first: *const i8,
    second: *const i8,
    blocks: usize,
    tile: *mut Tile,
) {
    naked_asm!(
        arch!(),
        ".macro BLOCK_2X2",
        "ldmia r0!, {{r8-r11}}",
        "ldr r12, [r1], #4",
        "sxtb16 lr, r12",
        "sxtb16 r12, r12, ror #8",
        "smlad r4, lr, r8, r4",
        "smlad r5, lr, r10, r5",
        "smlad r4, r12, r9, r4",
        "smlad r5, r12, r11, r5",
        "ldr r12, [r2], #4",
        "sxtb16 lr, r12",
        "sxtb16 r12, r12, ror #8",
        "smlad r6, lr, r8, r6",
        "smlad r7, lr, r10, r7",
        "smlad r6, r12, r9, r6",
        "smlad r7, r12, r11, r7",
        ".endm",
        "push {{r4-r11, lr}}",
        "ldr r12, [sp, #36]",
        "ldmia r12, {{r4-r7}}",
        "subs r3, #4",
        "blo 3f",
        "2:",
        "BLOCK_2X2",
        "BLOCK_2X2",
        "BLOCK_2X2",
        "BLOCK_2X2",
        "subs r3, #4",
        "bhs 2b",
        "3:",
        "adds r3, #4",
        "beq 5f",
        "4:",
        "BLOCK_2X2",
        "subs r3, #1",
        "bne 4b",
        "5:",
        "ldr r12, [sp, #36]",
        "stmia r12, {{r4-r7}}",
        "pop {{r4-r11, pc}}",
        ".purgem BLOCK_2X2",
    )
}

/// As [`super::dense::dense`], two units at a time.
pub fn dense(input: Input, params: DenseParams, output: Output) {
    let fan_in = input.shape.len();
    let whole = fan_in - fan_in % 4;
    let zero_points = (input.zero_point as u32 & 0xFFFF) * 0x1_0001;
    let (head, tail) = input.data.split_at_checked(whole).unwrap_or_default();
    let mut units = params.units();
    let rows = params.weights.chunks(2 * fan_in);
    for (out, rows) in output.data.chunks_mut(2).zip(rows) {
        let (first, second) = rows.split_at_checked(fan_in).unwrap_or_default();
        // An odd last unit meets itself.
        let second = if second.is_empty() { first } else { second };
        let mut sums = [0; 2];
        if second.len() == fan_in {
            // SAFETY: both rows and the input have `whole` bytes.
            unsafe {
                dot_1x2(
                    head.as_ptr(),
                    first.as_ptr(),
                    second.as_ptr(),
                    whole / 4,
                    zero_points,
                    &mut sums,
                );
            }
        }
        for (out, (row, sum)) in out.iter_mut().zip([first, second].into_iter().zip(sums)) {
            let Some((bias, factor)) = units.next() else {
                return;
            };
            let rest = dot(
                tail,
                input.zero_point as i16,
                row.get(whole..).unwrap_or_default(),
            );
            let scaled = scale(bias + sum + rest, factor);
            *out = output.clamp.apply(scaled.saturating_add(output.zero_point));
        }
    }
}

/// Adds to `sums` the products of two rows of `4 * blocks` weights with as many
/// inputs, from each of which the zero point is taken.
#[unsafe(naked)]
unsafe extern "C" fn dot_1x2(
    input: *const i8,
    first: *const i8,
    second: *const i8,
    blocks: usize,
    zero_points: u32,
    sums: *mut [i32; 2],
) {
    naked_asm!(
        arch!(),
        ".macro BLOCK_1X2",
        "ldr r7, [r0], #4",
        "sxtb16 r6, r7",
        "sxtb16 r7, r7, ror #8",
        "ssub16 r6, r6, r8",
        "ssub16 r7, r7, r8",
        "ldr r9, [r1], #4",
        "ldr r11, [r2], #4",
        "sxtb16 r10, r9",
        "sxtb16 r9, r9, ror #8",
        "smlad r4, r10, r6, r4",
        "smlad r4, r9, r7, r4",
        "sxtb16 r10, r11",
        "sxtb16 r11, r11, ror #8",
        "smlad r5, r10, r6, r5",
        "smlad r5, r11, r7, r5",
        ".endm",
        "push {{r4-r11, lr}}",
        "ldr r8, [sp, #36]",
        "ldr r12, [sp, #40]",
        "ldrd r4, r5, [r12]",
        "subs r3, #4",
        "blo 3f",
        "2:",
        "BLOCK_1X2",
        "BLOCK_1X2",
        "BLOCK_1X2",
        "BLOCK_1X2",
        "subs r3, #4",
        "bhs 2b",
        "3:",
        "adds r3, #4",
        "beq 5f",
        "4:",
        "BLOCK_1X2",
        "subs r3, #1",
        "bne 4b",
        "5:",
        "strd r4, r5, [r12]",
        "pop {{r4-r11, pc}}",
        ".purgem BLOCK_1X2",
    )
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

/// [`crate::arith::Multiplier::apply`] of an accumulator below 2^30 in size
/// with a shift below 0, plus the zero point, cut to int8. `SMMULR` of twice the
/// accumulator is the rounded high product; the carry of `ASRS` then rounds the
/// shift, after 1 was taken from what is below zero so that ties go away from it.
fn scaled(sum: i32, mantissa: i32, shift: i8, zero_point: i32) -> i8 {
    let scaled: i32;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "smmulr {x}, {x}, {mantissa}",
            "add {x}, {x}, {x}, asr #31",
            "asrs {x}, {x}, {right}",
            "adc {x}, {x}, {zero_point}",
            "ssat {x}, #8, {x}",
            x = inout(reg) sum << 1 => scaled,
            mantissa = in(reg) mantissa,
            right = in(reg) -i32::from(shift),
            zero_point = in(reg) zero_point,
            options(pure, nomem, nostack),
        );
    }
    scaled as i8
}
