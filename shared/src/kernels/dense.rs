//! Fully connected layer.

use super::coded::{Coded, Decoder};
use super::lanes::{Lanes, SEGMENT, words};
use super::{DenseParams, Input, Output, Storage, Weights, target, tile};
use crate::arith::scale;

/// Bytes of scratch of [`dense`], a multiple of 4: a segment of the input and a sum for
/// each unit or, of coded weights, the whole input and a segment of lanes.
pub fn scratch_bytes(fan_in: usize, units: usize, storage: Storage) -> usize {
    let wide = wide_words(fan_in);
    match storage {
        Storage::Dense => 4 * (wide.min(SEGMENT) + units.next_multiple_of(2)),
        Storage::Sparse => 0,
        Storage::Coded => 4 * (wide + wide.min(SEGMENT)),
    }
}

/// Words of the input where it is widened.
fn wide_words(fan_in: usize) -> usize {
    2 * fan_in.div_ceil(4)
}

/// `out[o] = clamp(zp + round(m_o * (bias_o + sum (in_i - zp_in) * w[o, i])))`,
/// rounded once as TensorFlow Lite's reference does for fully connected layers.
///
/// A segment of the input is widened to 16 bits and meets all units before the
/// next one is; sparse weights take it as it is. Of coded weights one segment of two
/// units at a time is decoded, and the whole input is widened before.
pub fn dense(input: Input, params: DenseParams, output: Output, scratch: &mut [u32]) {
    match params.weights {
        Weights::Lanes(lanes) => {
            let sums = sums(input, lanes, output.data.len(), scratch);
            finish(sums.iter().copied(), params, output);
        }
        Weights::Sparse(weights) => {
            let dot = |unit| target::dot(unit, input.data);
            finish(weights.filters().map(dot), params, output);
        }
        Weights::Coded(weights) => dense_coded(input, weights, params, output, scratch),
    }
}

/// [`dense`] with coded weights.
#[inline(never)] // the decoder's table is on the stack for no other layer
fn dense_coded(
    input: Input,
    weights: Coded,
    params: DenseParams,
    output: Output,
    scratch: &mut [u32],
) {
    let fan_in = input.data.len();
    let cut = scratch.split_at_mut_checked(wide_words(fan_in));
    let (wide, lanes) = cut.unwrap_or_default();
    widen_row(input.data, input.zero_point, wide);
    let (mut decoder, units) = (weights.decoder(), output.data.len());
    let pairs = (0..units).step_by(2);
    let sums = pairs.flat_map(|unit| pair_sums(&mut decoder, units - unit, fan_in, wide, lanes));
    finish(sums, params, output);
}

/// Brings accumulators to the scale of the output.
fn finish(sums: impl Iterator<Item = i32>, params: DenseParams, output: Output) {
    let sums = sums.zip(params.units.iter());
    for (out, (sum, (bias, factor))) in output.data.iter_mut().zip(sums) {
        let scaled = scale(bias.wrapping_add(sum), factor);
        *out = output.clamp.apply(scaled.saturating_add(output.zero_point));
    }
}

/// The sums of products of each unit.
fn sums<'s>(input: Input, lanes: Lanes, units: usize, scratch: &'s mut [u32]) -> &'s [i32] {
    let fan_in = input.data.len();
    let wide = wide_words(fan_in).min(SEGMENT);
    let (wide, sums) = scratch.split_at_mut_checked(wide).unwrap_or_default();
    let (sums, _) = bytemuck::cast_slice_mut(sums).as_chunks_mut::<2>();
    let sums = sums.get_mut(..units.div_ceil(2)).unwrap_or_default();
    sums.fill([0; 2]);
    for (index, segment) in input.data.chunks(2 * SEGMENT).enumerate() {
        widen_row(segment, input.zero_point, wide);
        let wide = wide.get(..words(segment.len())).unwrap_or_default();
        target::dot_pairs(wide, lanes, index * SEGMENT, sums);
    }
    sums.as_flattened()
}

/// The sums of products of the next two units, or of the last one.
fn pair_sums(
    decoder: &mut Decoder,
    units: usize,
    fan_in: usize,
    wide: &[u32],
    lanes: &mut [u32],
) -> [i32; 2] {
    let mut sums = [[0; 2]];
    let starts = (0..fan_in).step_by(2 * SEGMENT);
    for (wide, start) in wide.chunks(SEGMENT).zip(starts) {
        let taps = (fan_in - start).min(2 * SEGMENT);
        let wide = wide.get(..words(taps)).unwrap_or_default();
        let lanes = lanes.get_mut(..words(taps)).unwrap_or_default();
        decoder.lanes(taps, units, lanes);
        let lanes = Lanes::new(bytemuck::cast_slice(lanes), taps);
        target::dot_pairs(wide, lanes, 0, &mut sums);
    }
    sums[0]
}

/// Widens inputs in the order of [`super::lanes`], less the
/// zero point; those missing from the last four are 0.
pub fn widen_row(input: &[i8], zero_point: i32, wide: &mut [u32]) {
    let (fours, rest) = input.as_chunks();
    let words = wide.as_chunks_mut().0;
    let (words, last) = words.split_at_mut_checked(fours.len()).unwrap_or_default();
    target::widen_all(fours, zero_point, words);
    if let (false, Some(wide)) = (rest.is_empty(), last.first_mut()) {
        let mut bytes = [zero_point as i8; 4];
        bytes
            .iter_mut()
            .zip(rest)
            .for_each(|(to, &from)| *to = from);
        *wide = tile::widen(bytes, zero_point);
    }
}

/// [`tile::widen`] of as many as there are of both.
pub fn widen_all(fours: &[[i8; 4]], zero_point: i32, wide: &mut [[u32; 2]]) {
    for (&bytes, wide) in fours.iter().zip(wide) {
        *wide = tile::widen(bytes, zero_point);
    }
}

/// Adds to the sums of each pair of units the products of its words from `start` on
/// with as many inputs, at most [`SEGMENT`].
pub fn dot_pairs(wide: &[u32], lanes: Lanes, start: usize, sums: &mut [[i32; 2]]) {
    for (sums, pair) in sums.iter_mut().zip(lanes.pairs()) {
        let (mut mixed, mut low) = (0i32, 0i32);
        let words = pair.get(start..).unwrap_or_default();
        for (&x, &[a, b, c, d]) in wide.iter().zip(words) {
            let x = bytemuck::cast(x);
            let lanes = [[a, b], [c, d]].map(i16::from_le_bytes);
            mixed = mixed.wrapping_add(tile::product(lanes, x));
            let lows = lanes.map(|lane| i16::from(lane as i8));
            low = low.wrapping_add(tile::product(lows, x));
        }
        sums[0] = sums[0].wrapping_add(low);
        sums[1] = sums[1].wrapping_add(mixed.wrapping_sub(low) >> 8);
    }
}
