//! The int8 engine on the host: the code and the bytes of the chip.

use rayon::prelude::*;
use shared::{Engine, Model};

use crate::data::{Dataset, Options};
use crate::score::Score;

/// A data set that a model cannot answer.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SimulateError {
    /// Other classes, or the same in another order.
    #[error(
        "the model's classes are {model} and the data's are {data}; use the data it was trained for"
    )]
    Classes {
        /// Names in the model.
        model: String,
        /// Names in the data.
        data: String,
    },
}

/// How pictures must be loaded to fit the model's input.
pub fn options(model: &Model) -> Options {
    let preprocessing = model.preprocessing();
    let shape = preprocessing.shape;
    Options {
        size: Some((shape.height(), shape.width())),
        channels: Some(shape.channels()),
        resize: preprocessing.resize,
    }
}

/// Outputs of the model for every picture, one after the other, on all cores.
/// Pictures must have the shape of [`options`].
pub fn outputs(model: &Model, dataset: &Dataset) -> Vec<i8> {
    let classes = model.output_shape().len();
    let mut outputs = vec![0; dataset.pictures.len() * classes];
    outputs
        .par_chunks_mut(classes)
        .zip(&dataset.pictures)
        .for_each_init(
            || vec![0; model.arena_bytes()],
            |arena, (output, picture)| {
                // The arena is as large as the model says.
                if let Ok(mut engine) = Engine::new(model, arena) {
                    let preprocessing = model.preprocessing();
                    let fill = |input: &mut [i8]| preprocessing.quantise(&picture.pixels, input);
                    output.copy_from_slice(engine.infer(fill));
                }
            },
        );
    outputs
}

/// Inputs of the model for every picture, one after the other.
pub fn inputs(model: &Model, dataset: &Dataset) -> Vec<i8> {
    let bytes = model.input_shape().len();
    let mut inputs = vec![0; dataset.pictures.len() * bytes];
    for (input, picture) in inputs.chunks_exact_mut(bytes).zip(&dataset.pictures) {
        model.preprocessing().quantise(&picture.pixels, input);
    }
    inputs
}

/// Answers every picture and compares with the labels.
pub fn simulate(model: &Model, dataset: &Dataset) -> Result<Score, SimulateError> {
    let names: Vec<&str> = model.class_names().collect();
    if !names.is_empty() && names != dataset.classes {
        return Err(SimulateError::Classes {
            model: names.join(", "),
            data: dataset.classes.join(", "),
        });
    }
    Ok(Score::new(
        dataset,
        &answers(model, &outputs(model, dataset)),
    ))
}

/// The class that each output names.
pub fn answers(model: &Model, outputs: &[i8]) -> Vec<usize> {
    let rows = outputs.chunks_exact(model.output_shape().len());
    rows.map(shared::argmax).collect()
}
