//! Fully connected layer.

use super::{Input, Output, Params, dot};

/// `out[o] = clamp(zp + m_o * (bias_o + sum (in_i - zp_in) * w[o, i]))`, rounded
/// once as TensorFlow Lite's reference does for fully connected layers.
pub fn dense(input: Input, params: Params, output: Output) {
    let rows = params
        .weights
        .chunks_exact(input.shape.len())
        .zip(params.channels());
    for (out, (row, (bias, multiplier))) in output.data.iter_mut().zip(rows) {
        let sum = bias + dot(input.data, input.zero_point as i16, row);
        *out = output
            .clamp
            .apply(multiplier.once(sum).saturating_add(output.zero_point));
    }
}
