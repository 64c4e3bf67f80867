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
        .for_each(|((y, places), x)| {
            for place in 0..windows.area() {
                for row in windows.rows(place) {
                    let inputs = row.input.clone().step_by(windows.step());
                    let inputs = inputs.zip(x[row.input].iter().step_by(windows.step()));
                    let outputs = y[row.out.clone()].iter_mut().zip(&mut places[row.out]);
                    for ((y, place), (at, &x)) in outputs.zip(inputs) {
                        let larger = x > *y || x.is_nan();
                        *y = if larger { x } else { *y };
                        *place = if larger { at as u32 } else { *place };
                    }
                }
            }
        });
    let [height, width] = windows.output;
    let y = tensor(y, [pictures, channels, height, width]);
    (y, Arc::new(places))
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
