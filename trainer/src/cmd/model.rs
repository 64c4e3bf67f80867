//! A model file named on the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use shared::Model;

use super::Error;

/// The file, and its bytes once read.
#[derive(Args, Clone, Debug)]
pub struct ModelPath {
    /// Model file (model.esp)
    pub model: PathBuf,
}

impl ModelPath {
    /// The bytes of the file.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        std::fs::read(&self.model).map_err(|source| Error::Read {
            file: self.model.clone(),
            source,
        })
    }
}

/// The model in `bytes`, or an error that names `file`.
pub fn parse<'a>(bytes: &'a [u8], file: &Path) -> Result<Model<'a>, Error> {
    let wrong = |reason| Error::Model {
        file: file.to_owned(),
        reason,
    };
    let model = Model::parse(bytes).map_err(wrong)?;
    // On a chip the file ends where the header says; on disk nothing follows.
    if model.file_bytes() != bytes.len() {
        let offset = model.file_bytes();
        return Err(wrong(shared::ParseError::Stray { offset }));
    }
    Ok(model)
}

/// Weights and biases, and those that are not zero.
pub fn parameters(model: &Model) -> (usize, usize) {
    model
        .steps()
        .map(|step| layer_parameters(model, &step))
        .fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

/// The same for one layer.
pub fn layer_parameters(model: &Model, step: &shared::model::Step) -> (usize, usize) {
    let (weights, bias) = match model.data(step) {
        shared::model::Data::Conv(p) => (p.weights, p.bias),
        shared::model::Data::Dense(p) => (p.weights, p.bias),
        _ => return (0, 0),
    };
    let nonzero_weights = weights.iter().filter(|&&w| w != 0).count();
    let nonzero_biases = bias.iter().filter(|&&b| b != [0; 4]).count();
    (weights.len() + bias.len(), nonzero_weights + nonzero_biases)
}
