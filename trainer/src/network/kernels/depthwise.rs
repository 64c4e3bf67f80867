//! A depthwise convolution, plane by plane.

use rayon::prelude::*;

use super::{Back, Convolution, Flat, activate, deactivate, sides, tensor};

/// The output.
pub(super) fn forward(
    x: Flat,
    weight: Flat,
    bias: Flat,
    Convolution {
        windows,
        activation,
        ..
    }: Convolution,
) -> Flat {
    let [pictures, channels, _, _] = sides(&x);
    let [filters, _, _, _] = sides(&weight);
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let (x, weight, bias) = (
        x.to_contiguous(),
        weight.to_contiguous(),
        bias.to_contiguous(),
    );
    let (x, weight, bias) = (
        x.storage::<f32>(),
        weight.storage::<f32>(),
        bias.storage::<f32>(),
    );
    let multiplier = filters / channels;
    let mut y = vec![0.0; pictures * filters * count];
    y.par_chunks_mut(count).enumerate().for_each(|(at, y)| {
        let (picture, filter) = (at / filters, at % filters);
        let x = &x[(picture * channels + filter / multiplier) * plane..][..plane];
        y.fill(bias[filter]);
        for (place, &weight) in weight[filter * area..][..area].iter().enumerate() {
            for row in windows.rows(place) {
                windows.gather(&row, x, y, |y, x| *y += weight * x);
            }
        }
        activate(activation, y);
    });
    let [height, width] = windows.output;
    tensor(y, [pictures, filters, height, width])
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
    let [pictures, channels, height, width] = sides(&x);
    let [filters, _, _, _] = sides(&weight);
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let (x, weight, y, grad) = (
        x.to_contiguous(),
        weight.to_contiguous(),
        y.to_contiguous(),
        grad.to_contiguous(),
    );
    let (x, weight, y, grad) = (
        x.storage::<f32>(),
        weight.storage::<f32>(),
        y.storage::<f32>(),
        grad.storage::<f32>(),
    );
    let multiplier = filters / channels;
    let mut to_x = vec![0.0; pictures * channels * plane];
    // For each plane of the input, those of its filters: weights, then the bias.
    let mut to_filters = vec![0.0; pictures * filters * (area + 1)];
    to_x.par_chunks_mut(plane)
        .zip(to_filters.par_chunks_mut(multiplier * (area + 1)))
        .enumerate()
        .for_each(|(at, (to_x, to_filters))| {
            let x = &x[at * plane..][..plane];
            let mut sums = vec![0.0; count];
            for (part, to_filter) in to_filters.chunks_exact_mut(area + 1).enumerate() {
                let (out, filter) = (at * multiplier + part, at % channels * multiplier + part);
                let (y, grad) = (&y[out * count..][..count], &grad[out * count..][..count]);
                deactivate(activation, y, grad, &mut sums);
                to_filter[area] = sums.iter().sum();
                for (place, &weight) in weight[filter * area..][..area].iter().enumerate() {
                    for row in windows.rows(place) {
                        to_filter[place] += windows.dot(&row, x, &sums);
                        if with_x {
                            windows.scatter(&row, &sums, to_x, |x, sum| *x += weight * sum);
                        }
                    }
                }
            }
        });
    let mut to_weight = vec![0.0; filters * area];
    let mut to_bias = vec![0.0; filters];
    for of_picture in to_filters.chunks_exact(filters * (area + 1)) {
        let of_filters = of_picture.chunks_exact(area + 1);
        let filters = to_weight.chunks_exact_mut(area).zip(&mut to_bias);
        for ((weight, bias), part) in filters.zip(of_filters) {
            weight
                .iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
            *bias += part[area];
        }
    }
    let [rows, places] = windows.kernel;
    Back {
        x: with_x.then(|| tensor(to_x, [pictures, channels, height, width])),
        weight: tensor(to_weight, [filters, 1, rows, places]),
        bias: tensor(to_bias, [filters]),
    }
}
