//! Two filters at four positions.

use core::arch::naked_asm;
use core::ptr;

use super::{arch, forget_requantise, requantise, unpack};
use crate::kernels::ConvParams;
use crate::kernels::channels::Channels;
use crate::kernels::lanes::{Lanes, words};
use crate::kernels::tile::{self, Columns, POSITIONS, Target};

/// The filters of a convolution, as [`crate::kernels::tile::Filters`].
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    params: ConvParams<'a, Lanes<'a>>,
    /// Whether [`tile`] may be called, and gives what [`crate::kernels::tile::finish`] gives.
    fast: bool,
}

impl<'a> Filters<'a> {
    /// Of these parameters.
    pub fn new(params: ConvParams<'a, Lanes<'a>>) -> Self {
        let filters = params.channels.count();
        let fan_in = params.weights.fan_in();
        let lanes: Result<&[u32], _> = bytemuck::try_cast_slice(params.weights.bytes());
        let whole = lanes.is_ok_and(|lanes| lanes.len() == words(fan_in) * (filters / 2))
            && filters >= 2
            && filters.is_multiple_of(2);
        Self {
            params,
            fast: whole && in_range(fan_in, params.channels),
        }
    }

    /// As [`crate::kernels::tile::Filters::multiply`].
    pub fn multiply(&self, columns: &[Columns], target: Target) {
        let ConvParams { weights, channels } = self.params;
        let filters = channels.count();
        let Pointers {
            first,
            mantissas,
            shifts,
        } = Pointers::new(channels);
        let rows = if target.pooled { 1 } else { POSITIONS };
        let whole = columns.len() == words(weights.fan_in())
            && target.stride == filters
            && target.rows.len() == rows * filters;
        if !(self.fast && whole) {
            return tile::Filters::new(self.params).multiply(columns, target);
        }
        // SAFETY: here and in `new` the lengths have been checked to be those that
        // `tile` reads and writes, and the lanes to be aligned.
        unsafe {
            tile(
                weights.bytes().as_ptr().cast(),
                columns.as_ptr(),
                columns.len(),
                filters / 2,
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

/// Whether each channel has a factor, doubled accumulators fit 32 bits, and all
/// shifts go right, but the one behind an odd number of filters, whose output nobody
/// reads.
pub fn in_range(fan_in: usize, channels: Channels) -> bool {
    let aligned = Pointers::new(channels).first.is_aligned();
    let in_range = match channels {
        Channels::Wide {
            bias,
            mantissas,
            shifts,
        } => {
            let small = |&bias: &[u8; 4]| i32::from_le_bytes(bias).unsigned_abs() < 1 << 29;
            let right = |(&shift, mantissa): (&i8, &[u8; 4])| shift < 0 || *mantissa == [0; 4];
            let complete = mantissas.len() == bias.len() && shifts.len() == bias.len();
            complete && bias.iter().all(small) && shifts.iter().zip(mantissas).all(right)
        }
        Channels::Compact(_) => true,
    };
    aligned && in_range && fan_in <= 1 << 14
}

/// Where a function in assembler finds the channels.
pub struct Pointers {
    /// Biases, or compact words.
    pub first: *const u32,
    /// Null where all is in compact words.
    pub mantissas: *const [u8; 4],
    pub shifts: *const i8,
}

impl Pointers {
    pub fn new(channels: Channels) -> Self {
        match channels {
            Channels::Wide {
                bias,
                mantissas,
                shifts,
            } => Self {
                first: bias.as_ptr().cast(),
                mantissas: mantissas.as_ptr(),
                shifts: shifts.as_ptr(),
            },
            Channels::Compact(words) => Self {
                first: words.as_ptr().cast(),
                mantissas: ptr::null(),
                shifts: ptr::null(),
            },
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
        ".equ CHANNELS, 92",  // biases or compact words
        ".equ MANTISSAS, 96", // and shifts; 0 where the words are compact
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
        requantise!(),
        unpack!(),
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
        "ldrd r1, r2, [sp, #CHANNELS]",
        "ldmia r1!, {{r4, r12}}",
        "str r1, [sp, #CHANNELS]",
        "cbnz r2, 9f",
        "sxth r4, r4",
        "sxth r12, r12",
        "9:",
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
        "cbz r0, 9f",
        "ldmia r0!, {{r1, r2}}",
        "ldrsb r12, [r3], #1",
        "ldrsb lr, [r3], #1",
        "strd r0, r3, [sp, #MANTISSAS]",
        "rsb r12, r12, #0",
        "rsb lr, lr, #0",
        "ldr r3, [sp, #ZERO_POINT]",
        "ldr r0, [sp, #OUTPUT]",
        "ldr pc, [sp, #FINISH]",
        "9:", // two compact channels
        "ldr r0, [sp, #CHANNELS]",
        "ldrd r1, r2, [r0, #-8]",
        "UNPACK r1, r12",
        "UNPACK r2, lr",
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
        ".purgem UNPACK",
        forget_requantise!(),
    )
}
