//! A convolution as one product of matrices: the weights, and the inputs of every window
//! as a column (Chellapilla et al. 2006, "High Performance Convolutional Neural Networks
//! for Document Processing").

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use rayon::prelude::*;

use super::{Back, Convolution, Flat, Windows, activate, deactivate, sides, tensor};

/// The output, and the columns [channels x places, pictures x windows].
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
    let depth = channels * windows.area();
    let columns = columns(&x.to_contiguous(), pictures, channels, windows);
    let sums = Flex::float_matmul(weight.reshape([filters, depth].into()), columns.clone());
    let (sums, bias) = (sums.to_contiguous(), bias.to_contiguous());
    let (sums, bias) = (sums.storage::<f32>(), bias.storage::<f32>());
    let count = windows.count();
    let mut y = vec![0.0; pictures * filters * count];
    y.par_chunks_mut(filters * count)
        .enumerate()
        .for_each(|(picture, y)| {
            let of_filters = y.chunks_exact_mut(count).zip(bias).enumerate();
            for (filter, (y, bias)) in of_filters {
                let sums = &sums[(filter * pictures + picture) * count..][..count];
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = sum + bias;
                }
                activate(activation, y);
            }
        });
    let [height, width] = windows.output;
    (tensor(y, [pictures, filters, height, width]), columns)
}

/// The gradients; that of the input where it is asked for.
pub(super) fn backward(
    columns: Flat,
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
    let [pictures, filters, _, _] = sides(&y);
    let [_, channels, _, _] = sides(&weight);
    let (depth, count) = (channels * windows.area(), windows.count());
    let (y, grad) = (y.to_contiguous(), grad.to_contiguous());
    let (y, grad) = (y.storage::<f32>(), grad.storage::<f32>());
    // Laid out as the product was.
    let mut sums = vec![0.0; filters * pictures * count];
    let mut bias = vec![0.0; filters];
    sums.par_chunks_mut(pictures * count)
        .zip(&mut bias)
        .enumerate()
        .for_each(|(filter, (sums, bias))| {
            for (picture, sums) in sums.chunks_exact_mut(count).enumerate() {
                let at = (picture * filters + filter) * count;
                deactivate(activation, &y[at..][..count], &grad[at..][..count], sums);
                *bias += sums.iter().sum::<f32>();
            }
        });
    let sums = tensor(sums, [filters, pictures * count]);
    let x = with_x.then(|| {
        let weight = weight.reshape([filters, depth].into()).transpose(0, 1);
        let columns = Flex::float_matmul(weight, sums.clone()).to_contiguous();
        from_columns(&columns, pictures, channels, windows)
    });
    let [rows, places] = windows.kernel;
    let weight = Flex::float_matmul(sums, columns.transpose(0, 1));
    Back {
        x,
        weight: weight.reshape([filters, channels, rows, places].into()),
        bias: tensor(bias, [filters]),
    }
}

/// What each place of the windows is over, 0 outside a picture.
fn columns(x: &Flat, pictures: usize, channels: usize, windows: Windows) -> Flat {
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let x = x.storage::<f32>();
    let mut columns = vec![0.0; channels * area * pictures * count];
    columns
        .par_chunks_mut(pictures * count)
        .enumerate()
        .for_each(|(line, out)| {
            let (channel, place) = (line / area, line % area);
            for (picture, out) in out.chunks_exact_mut(count).enumerate() {
                let x = &x[(picture * channels + channel) * plane..][..plane];
                for row in windows.rows(place) {
                    windows.gather(&row, x, out, |out, x| *out = x);
                }
            }
        });
    tensor(columns, [channels * area, pictures * count])
}

/// The sum of all that a value of the input is over.
fn from_columns(columns: &Flat, pictures: usize, channels: usize, windows: Windows) -> Flat {
    let (area, count, plane) = (windows.area(), windows.count(), windows.plane());
    let columns = columns.storage::<f32>();
    let mut x = vec![0.0; pictures * channels * plane];
    x.par_chunks_mut(plane).enumerate().for_each(|(at, x)| {
        let (picture, channel) = (at / channels, at % channels);
        for place in 0..area {
            let line = (channel * area + place) * pictures + picture;
            let columns = &columns[line * count..][..count];
            for row in windows.rows(place) {
                windows.scatter(&row, columns, x, |x, column| *x += column);
            }
        }
    });
    let [height, width] = windows.input;
    tensor(x, [pictures, channels, height, width])
}
