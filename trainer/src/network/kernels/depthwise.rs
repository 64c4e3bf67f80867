//! A depthwise convolution, plane by plane.
//!
//! A plane has few columns, so the pictures of a batch lie innermost here:
//! [channels, rows, columns, pictures]. All of them take a weight at once.

use rayon::prelude::*;

use super::{Back, Convolution, Flat, activate, deactivate, sides, tensor};

/// The output, and the input with its pictures innermost.
pub(super) fn forward(
    x: Flat,
    weight: Flat,
    bias: Flat,
    Convolution {
        windows,
        activation,
        ..
    }: Convolution,
) -> (Flat, Flat) {
    let [pictures, channels, _, _] = sides(&x);
    let [filters, _, _, _] = sides(&weight);
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let x = innermost(&x.to_contiguous(), pictures);
    let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
    let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
    let multiplier = filters / channels;
    let mut y = vec![0.0; filters * count * pictures];
    y.par_chunks_mut(count * pictures)
        .enumerate()
        .for_each(|(filter, y)| {
            let x = &x[filter / multiplier * plane * pictures..][..plane * pictures];
            y.fill(bias[filter]);
            for (place, &weight) in weight[filter * area..][..area].iter().enumerate() {
                for (input, out) in windows.pairs(place, pictures) {
                    let y = y[out].iter_mut().zip(&x[input]);
                    y.for_each(|(y, x)| *y += weight * x);
                }
            }
            activate(activation, y);
        });
    let [height, width] = windows.output;
    let y = outermost(&y, pictures);
    (
        tensor(y, [pictures, filters, height, width]),
        tensor(x, [channels, windows.input[0], windows.input[1], pictures]),
    )
}

/// The gradients; that of the input where it is asked for.
pub(super) fn backward(
    x: Flat,
    weight: Flat,
    y: Flat,
    grad: Flat,
    Convolution {
        windows,
        activation,
        ..
    }: Convolution,
    with_x: bool,
) -> Back {
    let [channels, height, width, pictures] = sides(&x);
    let [filters, _, _, _] = sides(&weight);
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let (weight, y, grad) = (
        weight.to_contiguous(),
        y.to_contiguous(),
        grad.to_contiguous(),
    );
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut sums = vec![0.0; pictures * filters * count];
    deactivate(activation, y.storage(), grad.storage(), &mut sums);
    let sums = innermost(&tensor(sums, sides(&y)), pictures);
    let multiplier = filters / channels;
    let mut to_x = vec![0.0; channels * plane * pictures];
    let mut to_weight = vec![0.0; filters * area];
    let mut to_bias = vec![0.0; filters];
    to_x.par_chunks_mut(plane * pictures)
        .zip(to_weight.par_chunks_mut(multiplier * area))
        .zip(to_bias.par_chunks_mut(multiplier))
        .enumerate()
        .for_each(|(channel, ((to_x, to_weight), to_bias))| {
            let x = &x[channel * plane * pictures..][..plane * pictures];
            let mut products = vec![0.0; pictures];
            for (part, to_bias) in to_bias.iter_mut().enumerate() {
                let filter = channel * multiplier + part;
                let sums = &sums[filter * count * pictures..][..count * pictures];
                *to_bias = sums.iter().sum();
                for place in 0..area {
                    let weight = weight[filter * area + place];
                    products.fill(0.0);
                    for (input, out) in windows.pairs(place, pictures) {
                        let sums = &sums[out];
                        let lines = x[input.clone()].chunks_exact(pictures);
                        for (x, sums) in lines.zip(sums.chunks_exact(pictures)) {
                            let products = products.iter_mut().zip(x).zip(sums);
                            products.for_each(|((product, x), sum)| *product += x * sum);
                        }
                        if with_x {
                            let to_x = to_x[input].iter_mut().zip(sums);
                            to_x.for_each(|(x, sum)| *x += weight * sum);
                        }
                    }
                    to_weight[part * area + place] = products.iter().sum();
                }
            }
        });
    let [rows, places] = windows.kernel;
    Back {
        x: with_x.then(|| {
            let to_x = outermost(&to_x, pictures);
            tensor(to_x, [pictures, channels, height, width])
        }),
        weight: tensor(to_weight, [filters, 1, rows, places]),
        bias: tensor(to_bias, [filters]),
    }
}

/// [pictures, values] as [values, pictures].
fn innermost(x: &Flat, pictures: usize) -> Vec<f32> {
    let x = x.storage::<f32>();
    transpose(x, pictures, x.len() / pictures)
}

/// [values, pictures] as [pictures, values].
fn outermost(x: &[f32], pictures: usize) -> Vec<f32> {
    transpose(x, x.len() / pictures, pictures)
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Lines of so many values stay in the cache.
    const TILE: usize = 16;
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(TILE * rows)
        .enumerate()
        .for_each(|(tile, out)| {
            for above in (0..rows).step_by(TILE) {
                for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                    let inputs = x[tile * TILE + column + above * columns..].iter();
                    let out = out[above..].iter_mut().take(TILE);
                    out.zip(inputs.step_by(columns))
                        .for_each(|(out, x)| *out = *x);
                }
            }
        });
    out
}
