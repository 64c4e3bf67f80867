//! The fastest kernels that the target has, under the same names everywhere.

use crate::layer::{Layer, Shape};

#[cfg(not(espalier_dsp))]
pub use self::portable::{conv2d, conv2d_max_pool2d};
#[cfg(espalier_dsp)]
pub use super::dsp::{conv2d, conv2d_max_pool2d, dense, max_pool2d};
#[cfg(not(espalier_dsp))]
pub use super::{dense::dense, pool2d::max_pool2d};

/// Bytes of scratch that a layer's kernel may use. The same for every target,
/// so that a model needs the same arena everywhere: a convolution gathers one
/// window as bytes, and two as 16-bit numbers or four where it is fused with a
/// pool, in words that may have to be aligned first.
pub fn scratch_bytes(layer: &Layer, input: Shape, fused: bool) -> u32 {
    match (layer, layer.params(input)) {
        (Layer::Conv2d(_), Some(params)) => {
            let windows = if fused { 4 } else { 2 };
            let words = params.fan_in.div_ceil(4) as u32;
            4 * (words + windows * 2 * words) + 3
        }
        _ => 0,
    }
}

#[cfg(not(espalier_dsp))]
mod portable {
    use crate::kernels::{ConvParams, Input, Output, conv2d as kernels};
    use crate::layer::{Shape, Window};

    /// [`kernels::conv2d`], which needs no scratch.
    pub fn conv2d(
        window: Window,
        input: Input,
        params: ConvParams,
        output: Output,
        _scratch: &mut [u32],
    ) {
        kernels::conv2d(window, input, params, output);
    }

    /// [`kernels::conv2d_max_pool2d`], which needs no scratch.
    pub fn conv2d_max_pool2d(
        window: Window,
        input: Input,
        params: ConvParams,
        unpooled: Shape,
        output: Output,
        _scratch: &mut [u32],
    ) {
        kernels::conv2d_max_pool2d(window, input, params, unpooled, output);
    }
}
