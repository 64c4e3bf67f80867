//! Portable reference kernels: plain Rust, compiled for every target, and the
//! definition of what every faster kernel must compute. [`target`] names the
//! fastest ones that this target has.
//!
//! The caller, [`crate::Engine`], passes slices whose lengths fit the shapes;
//! [`crate::Model::parse`] has proved that they do.

pub mod add;
pub mod conv2d;
pub mod dense;
pub mod depthwise_conv2d;
#[cfg(espalier_dsp)]
mod dsp;
pub mod pool2d;
pub mod softmax;
pub mod target;

use core::ops::Range;

use crate::arith::{Clamp, Multiplier};
use crate::layer::{Shape, Window};

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Shape; `data` has `shape.len()` elements in NHWC order.
    pub shape: Shape,
    /// The int8 value that stands for 0, -128 to 127.
    pub zero_point: i32,
    /// Elements.
    pub data: &'a [i8],
}

/// A tensor to write.
#[derive(Debug)]
pub struct Output<'a> {
    /// Shape; `data` has `shape.len()` elements in NHWC order.
    pub shape: Shape,
    /// The int8 value that stands for 0, -128 to 127.
    pub zero_point: i32,
    /// Range of the fused activation.
    pub clamp: Clamp,
    /// Elements.
    pub data: &'a mut [i8],
}

/// Parameters of a convolution, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct ConvParams<'a> {
    /// Weights, in the order of [`crate::layer::ParamShape`].
    pub weights: &'a [i8],
    /// The weights and the rest of their block, at least 9 bytes, for kernels
    /// that read whole words.
    pub readable: &'a [i8],
    /// One per output channel, in units of input scale x weight scale.
    pub bias: &'a [[u8; 4]],
    /// One mantissa per output channel.
    pub mantissas: &'a [[u8; 4]],
    /// One shift per output channel.
    pub shifts: &'a [i8],
}

impl<'a> ConvParams<'a> {
    /// Bias of an output channel; 0 for one that does not exist.
    pub fn bias(&self, channel: usize) -> i32 {
        self.bias
            .get(channel)
            .map_or(0, |&bias| i32::from_le_bytes(bias))
    }

    /// Factor of an output channel; 0 for one that does not exist.
    pub fn factor(&self, channel: usize) -> Multiplier {
        let mantissa = self.mantissas.get(channel).copied().unwrap_or_default();
        let shift = self.shifts.get(channel).copied().unwrap_or_default();
        Multiplier::trusted(mantissa, shift)
    }

    /// Bias and factor of each output channel, in order.
    pub fn channels(self) -> impl Iterator<Item = (i32, Multiplier)> + use<'a> {
        self.bias
            .iter()
            .zip(self.mantissas)
            .zip(self.shifts)
            .map(|((&bias, &mantissa), &shift)| {
                (
                    i32::from_le_bytes(bias),
                    Multiplier::trusted(mantissa, shift),
                )
            })
    }
}

/// Parameters of a dense layer, in place in the model file.
#[derive(Clone, Copy, Debug)]
pub struct DenseParams<'a> {
    /// Weights, unit by unit.
    pub weights: &'a [i8],
    /// One per unit, in units of input scale x weight scale.
    pub bias: &'a [[u8; 4]],
    /// One `f64` factor per unit.
    pub factors: &'a [[u8; 8]],
}

impl<'a> DenseParams<'a> {
    /// Bias and factor of each unit, in order.
    pub fn units(self) -> impl Iterator<Item = (i32, f64)> + use<'a> {
        self.bias
            .iter()
            .zip(self.factors)
            .map(|(&bias, &factor)| (i32::from_le_bytes(bias), f64::from_le_bytes(factor)))
    }
}

/// Sum of `(x - zero_point) * w` over two slices of one length.
#[inline]
fn dot(input: &[i8], zero_point: i16, weights: &[i8]) -> i32 {
    input
        .iter()
        .zip(weights)
        .map(|(&x, &w)| i32::from(i16::from(x) - zero_point) * i32::from(w))
        .sum()
}

/// The part of a window that lies inside the input, along one side: which rows
/// of the input, and from which row of the kernel on.
#[derive(Clone, Debug)]
struct Overlap {
    input: Range<usize>,
    kernel_start: usize,
}

/// Window number `index` along a side of `input` elements.
fn overlap(index: usize, stride: usize, before: usize, kernel: usize, input: usize) -> Overlap {
    let start = index * stride;
    let first = start.max(before);
    let last = (start + kernel).min(input + before).max(first);
    Overlap {
        input: first - before..last - before,
        kernel_start: first - start,
    }
}

/// Slides a window over an input: `each` gets the output's channels at one
/// position, and the rows and columns of the input that its window covers.
#[inline]
fn slide(
    window: Window,
    input: Shape,
    output: &mut [i8],
    output_shape: Shape,
    mut each: impl FnMut(&mut [i8], &Overlap, &Overlap),
) {
    let (kernel, stride) = (window.kernel, window.stride);
    let (top, left) = window.padding_before(input);
    let mut pixels = output.chunks_exact_mut(output_shape.channels());
    for y in 0..output_shape.height() {
        let rows = overlap(y, stride.height(), top, kernel.height(), input.height());
        for x in 0..output_shape.width() {
            let columns = overlap(x, stride.width(), left, kernel.width(), input.width());
            let Some(pixel) = pixels.next() else { return };
            each(pixel, &rows, &columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_at_both_borders() {
        // 4 elements, kernel 3, stride 1, one zero on each side.
        let cut: Vec<_> = (0..4).map(|i| overlap(i, 1, 1, 3, 4)).collect();
        let ranges: Vec<_> = cut
            .iter()
            .map(|o| (o.input.clone(), o.kernel_start))
            .collect();
        assert_eq!(ranges, [(0..2, 1), (0..3, 0), (1..4, 0), (2..4, 0)]);
    }

    #[test]
    fn dot_centres_the_input() {
        assert_eq!(dot(&[-128, 127], -128, &[5, -127]), -127 * 255);
        assert_eq!(dot(&[-128, 127], 127, &[-128, 1]), 255 * 128);
    }
}
