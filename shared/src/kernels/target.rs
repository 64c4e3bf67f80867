//! The fastest kernels that the target has, under the same names everywhere.

#[cfg(espalier_dsp)]
pub use super::dsp::{Filters, copy_runs, dot_pair, filter_plane, max_pool2d, widen, widen_runs};
#[cfg(not(espalier_dsp))]
pub use super::{
    dense::dot_pair,
    depthwise_conv2d::filter_plane,
    pool2d::max_pool2d,
    tile::{Filters, copy_runs, widen, widen_runs},
};
