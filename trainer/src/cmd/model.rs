//! A model file named on the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use shared::Model;
use shared::kernels::coded::Coded;
use shared::kernels::{DepthwiseWeights, Weights};
use shared::model::Data;

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
        read(&self.model)
    }
}

/// The bytes of a file.
pub fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })
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

fn coded_nonzeros(coded: Coded) -> usize {
    let mut weights = vec![0; coded.shape().weights()];
    coded.decoder().weights(&mut weights);
    weights.iter().filter(|&&weight| weight != 0).count()
}

/// What stands behind an odd number of channels is 0 and not counted.
fn nonzero_biases<F>(channels: impl Iterator<Item = (i32, F)>) -> usize {
    channels.filter(|&(bias, _)| bias != 0).count()
}

/// The same for one layer.
pub fn layer_parameters(model: &Model, step: &shared::model::Step) -> (usize, usize) {
    let Some(shape) = model.params(step) else {
        return (0, 0);
    };
    let nonzeros = |weights: Weights| match weights {
        Weights::Lanes(weights) => {
            let taps = |filter| (0..shape.fan_in).filter(move |&k| weights.weight(filter, k) != 0);
            (0..shape.channels).flat_map(taps).count()
        }
        Weights::Sparse(weights) => {
            let entries = weights.entries().iter();
            entries.filter(|&&[weight, _]| weight != 0).count()
        }
        Weights::Coded(weights) => coded_nonzeros(weights),
    };
    let (weights, biases) = match model.data(step) {
        Data::Conv(p) => (nonzeros(p.weights), nonzero_biases(p.channels.iter())),
        Data::Dense(p) => (nonzeros(p.weights), nonzero_biases(p.units.iter())),
        Data::Depthwise(p) => {
            let nonzeros = match p.weights {
                DepthwiseWeights::Plain(weights) => weights.iter().filter(|&&w| w != 0).count(),
                DepthwiseWeights::Coded(weights) => coded_nonzeros(weights),
            };
            (nonzeros, nonzero_biases(p.channels.iter()))
        }
        _ => return (0, 0),
    };
    (shape.weights() + shape.channels, weights + biases)
}
