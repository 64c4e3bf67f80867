//! Pooling. Input and output have one scale and zero point, so values pass
//! through unscaled.

use super::{Input, Output, slide};
use crate::layer::Window;

/// Largest element of each window.
pub fn max_pool2d(window: Window, input: Input, output: Output) {
    let start = i32::from(i8::MIN);
    pool2d(window, input, output, start, i32::max, |max, _| max);
}

/// Mean of each window over the elements inside the input, ties away from
/// zero: (sum + count / 2) / count above zero, (sum - count / 2) / count below.
pub fn avg_pool2d(window: Window, input: Input, output: Output) {
    let add = |sum, value| sum + value;
    pool2d(window, input, output, 0, add, |sum, count| {
        let half = if sum > 0 { count / 2 } else { -(count / 2) };
        (sum + half) / count
    });
}

/// Folds each window of each channel from `start` by `step`; `finish` turns the
/// result and the number of elements, at least 1, into the output.
fn pool2d(
    window: Window,
    input: Input,
    output: Output,
    start: i32,
    step: impl Fn(i32, i32) -> i32,
    finish: impl Fn(i32, i32) -> i32,
) {
    let (width, channels) = (input.shape.width(), input.shape.channels());
    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            let count = (rows.input.len() * columns.input.len()).max(1) as i32;
            for (channel, out) in pixel.iter_mut().enumerate() {
                let mut folded = start;
                for iy in rows.input.clone() {
                    for ix in columns.input.clone() {
                        let at = (iy * width + ix) * channels + channel;
                        folded = step(folded, i32::from(input.data[at]));
                    }
                }
                *out = output.clamp.apply(finish(folded, count));
            }
        },
    );
}
