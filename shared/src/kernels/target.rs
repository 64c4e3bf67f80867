//! The fastest kernels that the target has, under the same names everywhere.

#[cfg(espalier_dsp)]
pub use super::dsp::{
    Filters, add, copy_plane, dot_pairs, filter_plane, max_pool2d, scatter, widen_all, widen_rows,
};
#[cfg(not(espalier_dsp))]
pub use super::{
    add::add,
    dense::{dot_pairs, widen_all},
    depthwise_conv2d::{copy_plane, filter_plane},
    pool2d::max_pool2d,
    tile::{Filters, scatter, widen_rows},
};
