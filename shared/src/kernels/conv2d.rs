//! Convolution.

use super::{ConvParams, Input, Output, dot, slide};
use crate::layer::Window;

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in - zp_in) * w[o, ky, kx, i]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions.
///
/// Padding stands for real 0, so it adds nothing and is skipped.
pub fn conv2d(window: Window, input: Input, params: ConvParams, output: Output) {
    let channels = input.shape.channels();
    let row = input.shape.width() * channels;
    let kernel_row = window.kernel.width() * channels;
    let fan_in = window.kernel.height() * kernel_row;
    let zero_point = input.zero_point as i16;

    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            let run = columns.input.len() * channels;
            let input_start = rows.input.start * row + columns.input.start * channels;
            let weight_start = rows.kernel_start * kernel_row + columns.kernel_start * channels;
            let filters = params.weights.chunks_exact(fan_in).zip(params.channels());
            for (out, (filter, (bias, multiplier))) in pixel.iter_mut().zip(filters) {
                let mut sum = bias;
                for ky in 0..rows.input.len() {
                    let from = input_start + ky * row;
                    let weights = weight_start + ky * kernel_row;
                    sum += dot(
                        &input.data[from..from + run],
                        zero_point,
                        &filter[weights..weights + run],
                    );
                }
                let scaled = multiplier.apply(sum).saturating_add(output.zero_point);
                *out = output.clamp.apply(scaled);
            }
        },
    );
}
