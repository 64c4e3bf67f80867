//! The fastest kernels that the target has, under the same names everywhere.

#[cfg(espalier_dsp)]
pub use super::dsp::{
    Filters, SparseFilters, add, copy_plane, dot, dot_pairs, filter_plane, max_pool2d, scatter,
    spread, widen_all, widen_rows,
};
#[cfg(not(espalier_dsp))]
pub use super::{
    add::add,
    dense::{dot_pairs, widen_all},
    depthwise_conv2d::{copy_plane, filter_plane},
    pool2d::max_pool2d,
    sparse::{SparseFilters, dot, spread},
    tile::{Filters, scatter, widen_rows},
};
