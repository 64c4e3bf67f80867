//! Depthwise convolution.

use super::{ConvParams, Input, Output, overlap};
use crate::layer::Window;

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in[.., o / multiplier] - zp_in) * w[ky, kx, o]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions.
pub fn depthwise_conv2d(window: Window, input: Input, params: ConvParams, output: Output) {
    let channels = input.shape.channels();
    let outputs = output.shape.channels();
    let multiplier = outputs / channels;
    let (top, left) = window.padding_before(input.shape);
    let mut pixels = output.data.chunks_exact_mut(outputs);

    for y in 0..output.shape.height() {
        let rows = overlap(
            y,
            window.stride.height(),
            top,
            window.kernel.height(),
            input.shape.height(),
        );
        for x in 0..output.shape.width() {
            let columns = overlap(
                x,
                window.stride.width(),
                left,
                window.kernel.width(),
                input.shape.width(),
            );
            let Some(pixel) = pixels.next() else { return };
            for (o, (out, (bias, factor))) in pixel.iter_mut().zip(params.channels()).enumerate() {
                let mut sum = bias;
                for (ky, iy) in (rows.kernel_start..).zip(rows.input.clone()) {
                    for (kx, ix) in (columns.kernel_start..).zip(columns.input.clone()) {
                        let at = (iy * input.shape.width() + ix) * channels + o / multiplier;
                        let weight = (ky * window.kernel.width() + kx) * outputs + o;
                        sum += (i32::from(input.data[at]) - input.zero_point)
                            * i32::from(params.weights[weight]);
                    }
                }
                *out = output
                    .clamp
                    .apply(factor.apply(sum).saturating_add(output.zero_point));
            }
        }
    }
}
