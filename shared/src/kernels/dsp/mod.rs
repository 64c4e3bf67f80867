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

/// The same number in both halves.
fn pair(number: i32) -> u32 {
    (number as u32 & 0xFFFF) * 0x1_0001
}
