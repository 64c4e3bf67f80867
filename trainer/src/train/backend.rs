//! What computes a network.

use super::{TrainError, check_data};
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::network::{FloatNetwork, Network};
use burn::tensor::Device;

/// What computes a network and its gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// Burn's device in plain Rust.
    #[default]
    Flex,
    /// Candle, by way of `burn-candle`: [`crate::candle`].
    #[cfg(feature = "candle")]
    Candle,
}

impl Backend {
    /// Refuses a network that it does not compute.
    pub(super) fn check(self, _network: &Network) -> Result<(), TrainError> {
        match self {
            Self::Flex => Ok(()),
            #[cfg(feature = "candle")]
            Self::Candle => Ok(crate::candle::check(_network)?),
        }
    }

    /// The outputs of the head for every picture, before a softmax.
    ///
    /// # Errors
    ///
    /// Pictures that the checkpoint is not made for, and networks that the backend does not
    /// compute.
    pub fn evaluate(
        self,
        checkpoint: &Checkpoint,
        data: &Dataset,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        check_data(checkpoint, data)?;
        let pictures = data.pictures.iter();
        let pictures: Vec<&[u8]> = pictures.map(|picture| picture.pixels.as_slice()).collect();
        Ok(match self {
            Self::Flex => FloatNetwork::new(checkpoint, &Device::flex())
                .logits_of(&pictures, checkpoint.input),
            #[cfg(feature = "candle")]
            Self::Candle => crate::candle::CandleNetwork::new(checkpoint)?
                .logits_of(&pictures, checkpoint.input),
        })
    }

    /// The class that the network finds in every picture; errors as in [`Self::evaluate`].
    pub fn answers(
        self,
        checkpoint: &Checkpoint,
        data: &Dataset,
    ) -> Result<Vec<usize>, TrainError> {
        let logits = self.evaluate(checkpoint, data)?;
        Ok(logits.iter().map(|row| super::argmax(row)).collect())
    }
}
