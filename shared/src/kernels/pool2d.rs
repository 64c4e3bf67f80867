//! Pooling. Input and output have one scale and zero point, so values pass
//! through unscaled.

use super::{Input, Output, slide};
use crate::layer::Window;

/// Largest element of each window.
pub fn max_pool2d(window: Window, input: Input, output: Output) {
    pool2d(window, input, output, Kind::Max);
}

/// Mean of each window over the elements inside the input, ties away from
/// zero: (sum + count / 2) / count above zero, (sum - count / 2) / count below.
pub fn avg_pool2d(window: Window, input: Input, output: Output) {
    pool2d(window, input, output, Kind::Mean);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Max,
    Mean,
}

/// One function for both, not one for each: flash is scarcer than the
/// instructions of a pool.
#[inline(never)]
fn pool2d(window: Window, input: Input, output: Output, kind: Kind) {
    let (width, channels) = (input.shape.width(), input.shape.channels());
    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            let count = (rows.input.len() * columns.input.len()).max(1) as i32;
            for (channel, out) in pixel.iter_mut().enumerate() {
                let (mut max, mut sum) = (i32::from(i8::MIN), 0);
                for iy in rows.input.clone() {
                    for ix in columns.input.clone() {
                        let at = (iy * width + ix) * channels + channel;
                        let value = input.data.get(at).copied().map_or(0, i32::from);
                        max = max.max(value);
                        sum += value;
                    }
                }
                *out = output.clamp.apply(match kind {
                    Kind::Max => max,
                    Kind::Mean => mean(sum, count),
                });
            }
        },
    );
}

/// sum / count, ties away from zero, for a count of at least 1.
fn mean(sum: i32, count: i32) -> i32 {
    let half = if sum > 0 { count / 2 } else { -(count / 2) };
    (sum + half).checked_div(count).unwrap_or(0)
}
