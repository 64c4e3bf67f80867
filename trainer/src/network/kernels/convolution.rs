//! A convolution as products of matrices: the weights, and the inputs of every window as a
//! column (Chellapilla et al. 2006, "High Performance Convolutional Neural Networks for
//! Document Processing").
//!
//! A few pictures are taken at a time, so that their columns stay in the cache. They are
//! made anew for the gradients, which is faster than to keep them.

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use rayon::prelude::*;
use shared::layer::Activation;

use super::{Back, Convolution, Flat, Windows, activate, deactivate, sides, tensor};

/// Most numbers in the columns of the pictures that are taken at a time, if it is not one.
const COLUMNS: usize = 1 << 16;

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
    let (x, bias) = (x.to_contiguous(), bias.to_contiguous());
    let (x, bias) = (x.storage::<f32>(), bias.storage::<f32>());
    let weight = weight.reshape([filters, channels * windows.area()].into());
    let (plane, count) = (windows.plane(), windows.count());
    let some = some(channels, windows);
    let mut y = vec![0.0; pictures * filters * count];
    y.par_chunks_mut(some * filters * count)
        .zip(x.par_chunks(some * channels * plane))
        .for_each(|(y, x)| {
            let columns = columns(x, channels, windows);
            let sums = Flex::float_matmul(weight.clone(), columns).to_contiguous();
            let lines = sums.storage::<f32>();
            let pictures = y.len() / (filters * count);
            for (at, y) in y.chunks_exact_mut(count).enumerate() {
                let (picture, filter) = (at / filters, at % filters);
                let sums = &lines[(filter * pictures + picture) * count..][..count];
                let bias = bias[filter];
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum + bias);
                activate(activation, y);
            }
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
    let [filters, _, rows, places] = sides(&weight);
    let (x, y, grad) = (x.to_contiguous(), y.to_contiguous(), grad.to_contiguous());
    let (x, y, grad) = (
        x.storage::<f32>(),
        y.storage::<f32>(),
        grad.storage::<f32>(),
    );
    let weight = weight.reshape([filters, channels * windows.area()].into());
    let weight = weight.transpose(0, 1);
    let (plane, count) = (windows.plane(), windows.count());
    let some = some(channels, windows);
    let mut to_x = vec![
        0.0;
        if with_x {
            pictures * channels * plane
        } else {
            0
        }
    ];
    let mut of_x: Vec<&mut [f32]> = to_x.chunks_mut(some * channels * plane).collect();
    of_x.resize_with(pictures.div_ceil(some), Default::default);
    let parts: Vec<(Flat, Vec<f32>)> = of_x
        .into_par_iter()
        .zip(x.par_chunks(some * channels * plane))
        .zip(y.par_chunks(some * filters * count))
        .zip(grad.par_chunks(some * filters * count))
        .map(|(((to_x, x), y), grad)| {
            let sums = sums(y, grad, filters, count, activation);
            let lines = sums.chunks_exact(sums.len() / filters);
            let bias = lines.map(|line| line.iter().sum()).collect();
            let sums = tensor(sums, [filters, y.len() / filters]);
            if with_x {
                let columns = Flex::float_matmul(weight.clone(), sums.clone());
                from_columns(&columns.to_contiguous(), channels, windows, to_x);
            }
            let columns = columns(x, channels, windows).transpose(0, 1);
            (Flex::float_matmul(sums, columns), bias)
        })
        .collect();
    let mut parts = parts.into_iter();
    let add = |(weight, mut bias): (Flat, Vec<f32>), part: (Flat, Vec<f32>)| {
        bias.iter_mut()
            .zip(part.1)
            .for_each(|(sum, part)| *sum += part);
        (Flex::float_add(weight, part.0), bias)
    };
    // There is at least a picture.
    let first = parts.next().unwrap_or_else(|| {
        let none = vec![0.0; filters * channels * windows.area()];
        (
            tensor(none, [filters, channels * windows.area()]),
            vec![0.0; filters],
        )
    });
    let (to_weight, to_bias) = parts.fold(first, add);
    Back {
        x: with_x.then(|| tensor(to_x, [pictures, channels, height, width])),
        weight: to_weight.reshape([filters, channels, rows, places].into()),
        bias: tensor(to_bias, [filters]),
    }
}

/// Pictures that are taken at a time.
fn some(channels: usize, windows: Windows) -> usize {
    (COLUMNS / (channels * windows.area() * windows.count())).max(1)
}

/// What each place of the windows is over, 0 outside a picture: [channels x places,
/// pictures x windows].
fn columns(x: &[f32], channels: usize, windows: Windows) -> Flat {
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let pictures = x.len() / (channels * plane);
    let mut columns = Vec::with_capacity(channels * area * pictures * count);
    for line in 0..channels * area {
        for picture in 0..pictures {
            let x = &x[(picture * channels + line / area) * plane..][..plane];
            let begin = columns.len();
            for row in windows.rows(line % area) {
                columns.resize(begin + row.out.start, 0.0);
                match windows.step() {
                    1 => columns.extend_from_slice(&x[row.input]),
                    step => columns.extend(x[row.input].iter().step_by(step)),
                }
            }
            columns.resize(begin + count, 0.0);
        }
    }
    tensor(columns, [channels * area, pictures * count])
}

/// Gradients before the activation, laid out as the product was: [filters, pictures x
/// windows].
fn sums(y: &[f32], grad: &[f32], filters: usize, count: usize, activation: Activation) -> Vec<f32> {
    let pictures = y.len() / (filters * count);
    let mut sums = vec![0.0; y.len()];
    for (at, sums) in sums.chunks_exact_mut(count).enumerate() {
        let (filter, picture) = (at / pictures, at % pictures);
        let at = (picture * filters + filter) * count;
        deactivate(activation, &y[at..][..count], &grad[at..][..count], sums);
    }
    sums
}

/// The sum of all that a value of the input is over.
fn from_columns(columns: &Flat, channels: usize, windows: Windows, x: &mut [f32]) {
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let columns = columns.storage::<f32>();
    let pictures = x.len() / (channels * plane);
    for (at, x) in x.chunks_exact_mut(plane).enumerate() {
        let (picture, channel) = (at / channels, at % channels);
        for place in 0..area {
            let line = (channel * area + place) * pictures + picture;
            let columns = &columns[line * count..][..count];
            for row in windows.rows(place) {
                windows.scatter(&row, columns, x, |x, column| *x += column);
            }
        }
    }
}
