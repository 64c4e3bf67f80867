//! Fully connected layer.

use super::{DenseParams, Input, Output, dot};
use crate::arith::scale;

/// `out[o] = clamp(zp + round(m_o * (bias_o + sum (in_i - zp_in) * w[o, i])))`,
/// rounded once as TensorFlow Lite's reference does for fully connected layers.
pub fn dense(input: Input, params: DenseParams, output: Output) {
    let rows = params
        .weights
        .chunks_exact(input.shape.len())
        .zip(params.units());
    for (out, (row, (bias, factor))) in output.data.iter_mut().zip(rows) {
        let sum = bias + dot(input.data, input.zero_point as i16, row);
        *out = output
            .clamp
            .apply(scale(sum, factor).saturating_add(output.zero_point));
    }
}
