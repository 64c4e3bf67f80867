//! A checkpoint or a model file named on the command line, told apart by content.

use std::path::Path;

use espalier::checkpoint::Checkpoint;
use espalier::data::Resize;
use espalier::explain::{Classifier, Float};
use shared::Model;
use shared::model::MAGIC;

use super::Error;
use super::model::parse;

/// What a file holds.
pub enum Network<'b> {
    /// A float network, and what was done to pictures of another size.
    Float(Box<Float>, Resize),
    /// An int8 model.
    Int8(Box<Model<'b>>),
}

impl<'b> Network<'b> {
    /// The network in `bytes`, or an error that names `file`. What does not begin as a model
    /// file is taken for a checkpoint.
    pub fn parse(bytes: &'b [u8], file: &Path) -> Result<Self, Error> {
        if bytes.starts_with(&MAGIC) {
            return Ok(Self::Int8(Box::new(parse(bytes, file)?)));
        }
        let checkpoint = Checkpoint::parse(bytes, file)?;
        let float = Float::new(&checkpoint)?;
        Ok(Self::Float(Box::new(float), checkpoint.resize))
    }

    /// The network, whatever its arithmetic.
    pub fn classifier(&self) -> &dyn Classifier {
        match self {
            Self::Float(float, _) => float.as_ref(),
            Self::Int8(model) => model.as_ref(),
        }
    }

    /// The network with its gradients, if it has any.
    pub fn float(&self) -> Option<&Float> {
        match self {
            Self::Float(float, _) => Some(float),
            Self::Int8(_) => None,
        }
    }

    /// What was done to pictures of another size.
    pub fn resize(&self) -> Resize {
        match self {
            Self::Float(_, resize) => *resize,
            Self::Int8(model) => model.preprocessing().resize,
        }
    }
}
