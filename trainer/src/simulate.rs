//! The int8 engine on the host: the code and the bytes of the chip.

use std::borrow::Cow;

use rayon::prelude::*;
use shared::{Engine, Model};

use crate::data::{Dataset, Options};
use crate::score::Score;

/// A data set that a model cannot answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SimulateError {
    /// Other classes.
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

/// What the model makes of a picture.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decision {
    /// The class with the largest logit.
    pub answer: usize,
    /// [`shared::margin`] of the logits, in steps of int8.
    pub margin: u8,
    /// The outputs before a softmax, as real numbers.
    pub logits: Vec<f32>,
}

/// The class that the model finds in every picture, on all cores. Pictures must have the
/// shape of [`options`].
pub fn answers(model: &Model, dataset: &Dataset) -> Vec<usize> {
    infer(model, pixels(dataset), |engine, fill| {
        engine.infer(fill);
        engine.answer()
    })
}

/// What the model computes for each class before a softmax, as real numbers, likewise;
/// pictures are given by their pixels.
pub fn logits<'p>(
    model: &Model,
    pictures: impl IndexedParallelIterator<Item = &'p [u8]>,
) -> Vec<Vec<f32>> {
    infer(model, pictures, |engine, fill| {
        engine.infer(fill);
        reals(model, engine.logits())
    })
}

/// Answers, margins and logits of every picture, likewise.
pub fn decisions(model: &Model, dataset: &Dataset) -> Vec<Decision> {
    infer(model, pixels(dataset), |engine, fill| {
        engine.infer(fill);
        Decision {
            answer: engine.answer(),
            margin: shared::margin(engine.logits()),
            logits: reals(model, engine.logits()),
        }
    })
}

fn reals(model: &Model, logits: &[i8]) -> Vec<f32> {
    let tensor = model.logits();
    let real = |&q: &i8| tensor.scale * f32::from(i16::from(q) - i16::from(tensor.zero_point));
    logits.iter().map(real).collect()
}

/// Outputs of the model for every picture, one after the other, likewise.
pub fn outputs(model: &Model, dataset: &Dataset) -> Vec<i8> {
    infer(model, pixels(dataset), |engine, fill| {
        engine.infer(fill).to_vec()
    })
    .concat()
}

fn pixels(dataset: &Dataset) -> impl IndexedParallelIterator<Item = &[u8]> {
    let pictures = dataset.pictures.par_iter();
    pictures.map(|picture| picture.pixels.as_slice())
}

/// What `run` makes of every picture; the closure that it is given writes the input.
fn infer<'p, T: Send + Default>(
    model: &Model,
    pictures: impl IndexedParallelIterator<Item = &'p [u8]>,
    run: impl Fn(&mut Engine, &dyn Fn(&mut [i8])) -> T + Sync,
) -> Vec<T> {
    let arena = || vec![0; model.arena_bytes()];
    let one = |arena: &mut Vec<i8>, pixels: &[u8]| {
        let preprocessing = model.preprocessing();
        let fill = |input: &mut [i8]| preprocessing.quantise(pixels, input);
        // The arena is as large as the model says.
        let engine = Engine::new(model, arena);
        engine.map_or_else(|_| T::default(), |mut engine| run(&mut engine, &fill))
    };
    pictures.map_init(arena, one).collect()
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

/// Answers every picture and compares with the labels. The data may have the
/// model's classes in another order.
pub fn simulate(model: &Model, dataset: &Dataset) -> Result<Score, SimulateError> {
    let dataset = in_order_of(model, dataset)?;
    let answers = answers(model, &dataset);
    Ok(Score::new(&dataset, &answers))
}

/// The data with labels that count as the model's outputs do.
pub(crate) fn in_order_of<'d>(
    model: &Model,
    dataset: &'d Dataset,
) -> Result<Cow<'d, Dataset>, SimulateError> {
    let names: Vec<&str> = model.class_names().collect();
    if names.is_empty() || names == dataset.classes {
        return Ok(Cow::Borrowed(dataset));
    }
    let position = |class: &String| names.iter().position(|name| name == class);
    let positions: Option<Vec<usize>> = dataset.classes.iter().map(position).collect();
    let same_number = |positions: &Vec<usize>| positions.len() == names.len();
    let Some(positions) = positions.filter(same_number) else {
        return Err(SimulateError::Classes {
            model: names.join(", "),
            data: dataset.classes.join(", "),
        });
    };
    let mut dataset = dataset.clone();
    dataset.classes = names.iter().map(|&name| name.to_owned()).collect();
    for picture in &mut dataset.pictures {
        picture.label = positions[picture.label];
    }
    Ok(Cow::Owned(dataset))
}
