//! Anything that says how much each class a picture is.

use burn::tensor::Device;
use rayon::prelude::*;
use shared::Model;
use shared::layer::Shape;

use crate::checkpoint::Checkpoint;
use crate::data::PictureShape;
use crate::network::{FloatNetwork, Network, NetworkError};
use crate::simulate;

/// A network that answers pictures, whatever its arithmetic.
pub trait Classifier {
    /// Shape of its pictures.
    fn shape(&self) -> PictureShape;

    /// Names of its classes, in the order of the logits.
    fn classes(&self) -> Vec<String>;

    /// The outputs of the head before a softmax, for each picture: unsigned bytes, HWC.
    fn logits(&self, pictures: &[Vec<u8>]) -> Vec<Vec<f32>>;
}

/// A float network, with its gradients.
#[derive(Debug)]
pub struct Float {
    /// Batch normalisation is folded, so that gradients are those of an inference.
    pub(super) checkpoint: Checkpoint,
    network: FloatNetwork,
    pub(super) differentiable: FloatNetwork,
}

impl Float {
    /// The network of a checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, NetworkError> {
        let checkpoint = checkpoint.without_batch_norm()?;
        Ok(Self {
            network: FloatNetwork::new(&checkpoint, &Device::flex()),
            differentiable: FloatNetwork::new(&checkpoint, &Device::flex().autodiff()),
            checkpoint,
        })
    }

    /// Its layers.
    pub fn network(&self) -> &Network {
        &self.checkpoint.network
    }
}

impl Classifier for Float {
    fn shape(&self) -> PictureShape {
        picture_shape(self.checkpoint.network.input)
    }

    fn classes(&self) -> Vec<String> {
        self.checkpoint.classes.clone()
    }

    fn logits(&self, pictures: &[Vec<u8>]) -> Vec<Vec<f32>> {
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        self.network.logits_of(&pictures, self.checkpoint.input)
    }
}

impl Classifier for Model<'_> {
    fn shape(&self) -> PictureShape {
        picture_shape(self.input_shape())
    }

    /// A model file may leave the names out; then they are numbers.
    fn classes(&self) -> Vec<String> {
        let names: Vec<String> = self.class_names().map(str::to_owned).collect();
        match names.is_empty() {
            true => (0..self.output_shape().len())
                .map(|n| n.to_string())
                .collect(),
            false => names,
        }
    }

    fn logits(&self, pictures: &[Vec<u8>]) -> Vec<Vec<f32>> {
        simulate::logits(self, pictures.par_iter().map(Vec::as_slice))
    }
}

fn picture_shape(shape: Shape) -> PictureShape {
    PictureShape {
        height: shape.height(),
        width: shape.width(),
        channels: shape.channels(),
    }
}
