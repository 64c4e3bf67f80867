//! Kernels for Armv7E-M and Armv8-M with the DSP extension. The portable ones
//! define what they compute, to the bit.
//!
//! `SMLAD` multiplies two pairs of 16-bit numbers and adds both products to an
//! accumulator. `SXTB16` widens bytes 0 and 2 of a word to such a pair, or 1 and
//! 3 where it rotates first: of a word of [`super::lanes`] it gives the first
//! filter's weights.
#![allow(unsafe_code)]

mod add;
mod dense;
mod depthwise_conv2d;
mod gather;
mod pool2d;
mod sparse;
mod tile;

pub use add::add;
pub use dense::{dot_pairs, widen_all};
pub use depthwise_conv2d::{copy_plane, filter_plane};
pub use gather::{scatter, widen_rows};
pub use pool2d::max_pool2d;
pub use sparse::{SparseFilters, dot, spread};
pub use tile::Filters;

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
use arch;

/// Assembler macros that bring sums to the scale of the output, for
/// [`forget_requantise`] behind the code that uses them.
macro_rules! requantise {
    () => {
        concat!(
            // The larger one of two sums.
            ".macro LARGER a, b\n",
            "cmp \\a, \\b\n",
            "it lt\n",
            "movlt \\a, \\b\n",
            ".endm\n",
            // The rounded high product of a doubled sum; 1 is taken from what is below
            // zero, so that ties of the second rounding go away from it.
            ".macro SCALE x, mantissa\n",
            "smmulr \\x, \\x, \\mantissa\n",
            "add \\x, \\x, \\x, asr #31\n",
            ".endm\n",
            // The carry of the shift rounds; r3 is the zero point.
            ".macro SHIFT x, right\n",
            "asrs \\x, \\x, \\right\n",
            "adc \\x, \\x, r3\n",
            "ssat \\x, #8, \\x\n",
            ".endm",
        )
    };
}
macro_rules! forget_requantise {
    () => {
        ".purgem LARGER\n.purgem SCALE\n.purgem SHIFT"
    };
}
/// An assembler macro that makes mantissa and shift to the right of a compact channel.
macro_rules! unpack {
    () => {
        concat!(
            ".macro UNPACK word, right\n",
            "lsr \\right, \\word, #27\n",
            "ubfx \\word, \\word, #16, #11\n",
            "orr \\word, \\word, #0x800\n",
            "lsl \\word, \\word, #19\n",
            ".endm",
        )
    };
}
use {forget_requantise, requantise, unpack};

/// The same number in both halves.
fn pair(number: i32) -> u32 {
    (number as u32 & 0xFFFF) * 0x1_0001
}
