//! Max pooling.

use core::arch::asm;

use crate::kernels::{Input, Output, pool2d, slide};
use crate::layer::Window;

/// As [`crate::kernels::pool2d::max_pool2d`], four channels at a time.
pub fn max_pool2d(window: Window, input: Input, output: Output) {
    let channels = input.shape.channels();
    if !channels.is_multiple_of(4) {
        return pool2d::max_pool2d(window, input, output);
    }
    let width = input.shape.width();
    slide(
        window,
        input.shape,
        output.data,
        output.shape,
        |pixel, rows, columns| {
            pixel.fill(i8::MIN);
            for iy in rows.input.clone() {
                for ix in columns.input.clone() {
                    let from = (iy * width + ix) * channels;
                    let taps = input.data.get(from..from + channels).unwrap_or_default();
                    let words = taps.as_chunks::<4>().0.iter();
                    for (largest, tap) in pixel.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                        *largest = max4(*largest, *tap);
                    }
                }
            }
            for value in pixel {
                *value = output.clamp.apply((*value).into());
            }
        },
    );
}

/// The larger one of each pair of bytes.
fn max4(a: [i8; 4], b: [i8; 4]) -> [i8; 4] {
    let (a, b): (u32, u32) = (bytemuck::cast(a), bytemuck::cast(b));
    let max: u32;
    // SAFETY: register arithmetic only; the GE flags that SSUB8 sets and SEL
    // reads are nobody else's.
    unsafe {
        asm!(
            "ssub8 {max}, {a}, {b}",
            "sel {max}, {a}, {b}",
            a = in(reg) a,
            b = in(reg) b,
            max = out(reg) max,
            options(pure, nomem, nostack),
        );
    }
    bytemuck::cast(max)
}
