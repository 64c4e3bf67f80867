//! Depthwise convolution.

use super::{ConvParams, Input, Output, slide};
use crate::layer::Window;

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in[.., o / multiplier] - zp_in) * w[ky, kx, o]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions.
pub fn depthwise_conv2d(window: Window, input: Input, params: ConvParams, output: Output) {
    let (width, channels) = (input.shape.width(), input.shape.channels());
    let outputs = output.shape.channels();
    let multiplier = outputs / channels;

    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            for (o, (out, (bias, factor))) in pixel.iter_mut().zip(params.channels()).enumerate() {
                let mut sum = bias;
                for (ky, iy) in (rows.kernel_start..).zip(rows.input.clone()) {
                    for (kx, ix) in (columns.kernel_start..).zip(columns.input.clone()) {
                        let at = (iy * width + ix) * channels + o / multiplier;
                        let weight = (ky * window.kernel.width() + kx) * outputs + o;
                        sum += (i32::from(input.data[at]) - input.zero_point)
                            * i32::from(params.weights[weight]);
                    }
                }
                let scaled = factor.apply(sum).saturating_add(output.zero_point);
                *out = output.clamp.apply(scaled);
            }
        },
    );
}
