//! The fastest kernels that the target has, under the same names everywhere.

#[cfg(espalier_dsp)]
pub use super::dsp::{dot_pair, filter_plane, max_pool2d, multiply, widen, widen_row};
#[cfg(not(espalier_dsp))]
pub use super::{
    dense::{dot_pair, widen_row},
    depthwise_conv2d::filter_plane,
    pool2d::max_pool2d,
    tile::{multiply, widen},
};
