//! Max pooling that remembers where the largest values were.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Flat, Windows, sides, tensor};

/// For each output, where in its plane the largest input is; of equal ones the first.
pub(super) type Places = Arc<Vec<u32>>;

/// The output, and where it is from.
pub(super) fn forward(x: Flat, windows: Windows) -> (Flat, Places) {
    let [pictures, channels, _, _] = sides(&x);
    let (count, plane) = (windows.count(), windows.plane());
    let x = x.to_contiguous();
    let x = x.storage::<f32>();
    let mut y = vec![f32::NEG_INFINITY; pictures * channels * count];
    let mut places = vec![0; y.len()];
    let outputs = y.par_chunks_mut(count).zip(places.par_chunks_mut(count));
    outputs
        .zip(x.par_chunks(plane))
        .for_each(|((y, places), x)| match windows.halve() {
            true => halve(x, y, places, windows),
            false => pool(x, y, places, windows),
        });
    let [height, width] = windows.output;
    let y = tensor(y, [pictures, channels, height, width]);
    (y, Arc::new(places))
}

/// A plane, with any windows.
fn pool(x: &[f32], y: &mut [f32], places: &mut [u32], windows: Windows) {
    for place in 0..windows.area() {
        for row in windows.rows(place) {
            let inputs = row.input.clone().zip(&x[row.input]).step_by(windows.step());
            let outputs = y[row.out.clone()].iter_mut().zip(&mut places[row.out]);
            for ((y, place), (at, &x)) in outputs.zip(inputs) {
                (*y, *place) = larger((*y, *place), (x, at as u32));
            }
        }
    }
}

/// A plane, with windows of 2x2 side by side: the usual case, several at once.
fn halve(x: &[f32], y: &mut [f32], places: &mut [u32], windows: Windows) {
    let ([_, width], [_, columns]) = (windows.input, windows.output);
    let rows = y
        .chunks_exact_mut(columns)
        .zip(places.chunks_exact_mut(columns));
    for (row, (y, places)) in rows.enumerate() {
        let at = 2 * row * width;
        let (above, below) = (&x[at..][..2 * columns], &x[at + width..][..2 * columns]);
        let inputs = above.chunks_exact(2).zip(below.chunks_exact(2));
        let outputs = y.iter_mut().zip(places);
        for (column, ((y, place), (above, below))) in outputs.zip(inputs).enumerate() {
            let at = (at + 2 * column) as u32;
            let top = larger((above[0], at), (above[1], at + 1));
            let at = at + width as u32;
            let bottom = larger((below[0], at), (below[1], at + 1));
            (*y, *place) = larger(top, bottom);
        }
    }
}

/// The larger of two values with their places, of equal ones the first. What is not a
/// number is larger than any, so that it is not lost.
fn larger(first: (f32, u32), second: (f32, u32)) -> (f32, u32) {
    match second.0 > first.0 || second.0.is_nan() {
        true => second,
        false => first,
    }
}

/// The gradient of the input.
pub(super) fn backward(grad: Flat, places: &Places, windows: Windows) -> Flat {
    let [pictures, channels, _, _] = sides(&grad);
    let (count, plane) = (windows.count(), windows.plane());
    let grad = grad.to_contiguous();
    let grad = grad.storage::<f32>();
    let mut x = vec![0.0; pictures * channels * plane];
    let outputs = grad.par_chunks(count).zip(places.par_chunks(count));
    x.par_chunks_mut(plane)
        .zip(outputs)
        .for_each(|(x, (grad, places))| {
            for (grad, &place) in grad.iter().zip(places) {
                x[place as usize] += grad;
            }
        });
    let [height, width] = windows.input;
    tensor(x, [pictures, channels, height, width])
}
