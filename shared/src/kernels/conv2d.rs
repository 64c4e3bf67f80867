//! Convolution.

use super::{ConvParams, Input, Output, Overlap, dot, overlap, slide};
use crate::layer::{Shape, Window};

/// `out[y, x, o] = clamp(zp + m_o * (bias_o + sum (in - zp_in) * w[o, ky, kx, i]))`,
/// rounded twice as TensorFlow Lite's reference does for convolutions.
///
/// Padding stands for real 0, so it adds nothing and is skipped.
pub fn conv2d(window: Window, input: Input, params: ConvParams, output: Output) {
    let (zero_point, clamp) = (output.zero_point, output.clamp);
    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            let sums = sums(window, input, params, rows, columns);
            for (out, (sum, multiplier)) in pixel.iter_mut().zip(sums) {
                *out = clamp.apply(multiplier.apply(sum).saturating_add(zero_point));
            }
        },
    );
}

/// [`conv2d`] whose output, of the shape `unpooled`, is never stored: of each
/// 2x2 window of it only the largest element is, per channel.
pub fn conv2d_max_pool2d(
    window: Window,
    input: Input,
    params: ConvParams,
    unpooled: Shape,
    output: Output,
) {
    let width = output.shape.width();
    let (kernel, stride) = (window.kernel, window.stride);
    let (top, left) = window.padding_before(input.shape);
    let (height_in, width_in) = (input.shape.height(), input.shape.width());
    let pixels = output.data.chunks_exact_mut(unpooled.channels());
    for (index, pixel) in pixels.enumerate() {
        pixel.fill(i8::MIN);
        for at in 0..POOL * POOL {
            let y = index / width * POOL + at / POOL;
            let x = index % width * POOL + at % POOL;
            let rows = overlap(y, stride.height(), top, kernel.height(), height_in);
            let columns = overlap(x, stride.width(), left, kernel.width(), width_in);
            let sums = sums(window, input, params, &rows, &columns);
            for (out, (sum, multiplier)) in pixel.iter_mut().zip(sums) {
                let scaled = multiplier.apply(sum).saturating_add(output.zero_point);
                *out = output.clamp.apply(scaled).max(*out);
            }
        }
    }
}

/// Side and step of the pooling window that a convolution can be fused with.
pub const POOL: usize = 2;

/// Accumulator and factor of each filter, for one position of the window.
fn sums<'a>(
    window: Window,
    input: Input<'a>,
    params: ConvParams<'a>,
    rows: &Overlap,
    columns: &Overlap,
) -> impl Iterator<Item = (i32, crate::arith::Multiplier)> + use<'a> {
    let channels = input.shape.channels();
    let row = input.shape.width() * channels;
    let kernel_row = window.kernel.width() * channels;
    let fan_in = window.kernel.height() * kernel_row;
    let zero_point = input.zero_point as i16;
    let run = columns.input.len() * channels;
    let input_start = rows.input.start * row + columns.input.start * channels;
    let weight_start = rows.kernel_start * kernel_row + columns.kernel_start * channels;
    let height = rows.input.len();
    let filters = params.weights.chunks_exact(fan_in).zip(params.channels());
    filters.map(move |(filter, (bias, multiplier))| {
        let mut sum = bias;
        for ky in 0..height {
            let from = input_start + ky * row;
            let weights = weight_start + ky * kernel_row;
            sum += dot(
                &input.data[from..from + run],
                zero_point,
                &filter[weights..weights + run],
            );
        }
        (sum, multiplier)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arith::Clamp;
    use crate::kernels::pool2d::max_pool2d;
    use crate::layer::{Padding, Size2};

    fn output(shape: Shape, clamp: Clamp, data: &mut [i8]) -> Output<'_> {
        Output {
            shape,
            zero_point: -5,
            clamp,
            data,
        }
    }

    #[test]
    fn fused_with_a_pool_it_gives_what_both_give() {
        let shape = |h, w, c| Shape::new(h, w, c).unwrap();
        let two = Size2::new(2, 2).unwrap();
        let cases = [
            (shape(7, 8, 3), 3, 2, Padding::Valid),
            (shape(6, 9, 2), 5, 3, Padding::Same),
        ];
        for (input_shape, filters, side, padding) in cases {
            let window = Window {
                kernel: Size2::new(side, side).unwrap(),
                stride: Size2::ONE,
                padding,
            };
            let mut data = vec![0; input_shape.len()];
            crate::golden::fill(1, 0, &mut data);
            let mut weights = vec![0; filters * window.kernel.area() * input_shape.channels()];
            crate::golden::fill(2, 0, &mut weights);
            let params = ConvParams {
                weights: &weights,
                readable: &weights,
                bias: &vec![7i32.to_le_bytes(); filters],
                mantissas: &vec![0x5432_1000i32.to_le_bytes(); filters],
                shifts: &vec![-9; filters],
            };
            let (height, width) = window.output(input_shape).unwrap();
            let unpooled = shape(height, width, filters);
            let pooled = shape(height / 2, width / 2, filters);
            let input = Input {
                shape: input_shape,
                zero_point: 3,
                data: &data,
            };
            let (mut between, mut apart) = (vec![0; unpooled.len()], vec![0; pooled.len()]);
            let mut fused = apart.clone();
            let clamp = Clamp { min: -5, max: 90 };
            let all = Clamp {
                min: -128,
                max: 127,
            };
            conv2d(window, input, params, output(unpooled, clamp, &mut between));
            let stored = Input {
                shape: unpooled,
                zero_point: -5,
                data: &between,
            };
            let pool = Window {
                kernel: two,
                stride: two,
                padding: Padding::Valid,
            };
            max_pool2d(pool, stored, output(pooled, all, &mut apart));
            let to = output(pooled, clamp, &mut fused);
            conv2d_max_pool2d(window, input, params, unpooled, to);
            assert_eq!(fused, apart);
            assert!(fused.iter().any(|value| (-4..90).contains(value)));
        }
    }
}
