//! Depthwise convolution.

use super::{ConvParams, Input, Output, slide};
use crate::layer::Window;

/// Output channels whose accumulators are kept at once.
const GROUP: usize = 8;

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in[.., o / multiplier] - zp_in) * w[ky, kx, o]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions.
pub fn depthwise_conv2d(window: Window, input: Input, params: ConvParams, output: Output) {
    let (width, channels) = (input.shape.width(), input.shape.channels());
    let outputs = output.shape.channels();
    let multiplier = outputs / channels;
    let zero_point = input.zero_point;

    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            for (group, outs) in pixel.chunks_mut(GROUP).enumerate() {
                let first = group * GROUP;
                let mut sums = [0; GROUP];
                for (ky, iy) in (rows.kernel_start..).zip(rows.input.clone()) {
                    for (kx, ix) in (columns.kernel_start..).zip(columns.input.clone()) {
                        let at = (iy * width + ix) * channels;
                        let weight = (ky * window.kernel.width() + kx) * outputs + first;
                        let weights = &params.weights[weight..weight + outs.len()];
                        let products = sums.iter_mut().zip(weights);
                        if multiplier == 1 {
                            let xs = &input.data[at + first..at + first + outs.len()];
                            for ((sum, &w), &x) in products.zip(xs) {
                                *sum += (i32::from(x) - zero_point) * i32::from(w);
                            }
                        } else {
                            for ((sum, &w), o) in products.zip(first..) {
                                let x = input.data[at + o / multiplier];
                                *sum += (i32::from(x) - zero_point) * i32::from(w);
                            }
                        }
                    }
                }
                for ((out, o), sum) in outs.iter_mut().zip(first..).zip(sums) {
                    let scaled = params.factor(o).apply(params.bias(o) + sum);
                    *out = output.clamp.apply(scaled.saturating_add(output.zero_point));
                }
            }
        },
    );
}
