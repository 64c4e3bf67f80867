//! Values that are zeroed at random while training.

use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The dropout of some shards of one step: the same whichever thread or machine computes
/// them, alone or together.
pub(super) struct Dropout {
    /// How much is zeroed, 0 to below 1.
    pub share: f32,
    pub seed: u64,
    pub step: usize,
    /// Numbers of the shards, and how many pictures each has.
    pub shards: Vec<(usize, usize)>,
}

impl Dropout {
    /// Zeroes inputs [pictures, values] of the layer of this number, and scales the rest
    /// so that the mean stays.
    pub(super) fn apply(&self, layer: usize, inputs: Tensor<2>) -> Tensor<2> {
        if self.share == 0.0 {
            return inputs;
        }
        let shape = inputs.dims();
        let shards = self.shards.iter();
        let masks =
            shards.flat_map(|&(shard, pictures)| self.mask(layer, shard, pictures * shape[1]));
        let mask: Vec<f32> = masks.collect();
        let device = inputs.device();
        inputs * Tensor::from_data(TensorData::new(mask, shape), &device)
    }

    /// What the values of a shard are multiplied by.
    fn mask(&self, layer: usize, shard: usize, values: usize) -> Vec<f32> {
        let words = [self.seed, self.step as u64, shard as u64, layer as u64];
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut random = ChaCha8Rng::from_seed(key);
        let kept = 1.0 / (1.0 - self.share);
        let factor = |_| match random.random::<f32>() < self.share {
            true => 0.0,
            false => kept,
        };
        (0..values).map(factor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::numbers;
    use burn::tensor::Device;

    fn dropped(share: f32, step: usize, shard: usize, layer: usize) -> Vec<f32> {
        let dropout = Dropout {
            share,
            seed: 1,
            step,
            shards: vec![(shard, 20)],
        };
        numbers(dropout.apply(layer, Tensor::ones([20, 100], &Device::flex())))
    }

    #[test]
    fn a_share_is_zeroed_and_the_mean_stays() {
        let values = dropped(0.25, 0, 0, 0);
        let zeroed = values.iter().filter(|&&value| value == 0.0).count();
        assert!((430..570).contains(&zeroed), "{zeroed}");
        assert!(
            values
                .iter()
                .all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6)
        );
        assert!(dropped(0.0, 0, 0, 0).iter().all(|&value| value == 1.0));
    }

    #[test]
    fn shards_together_lose_what_they_lose_alone() {
        let of = |shards: Vec<(usize, usize)>| {
            let pictures = shards.iter().map(|(_, pictures)| pictures).sum();
            let dropout = Dropout {
                share: 0.5,
                seed: 1,
                step: 3,
                shards,
            };
            numbers(dropout.apply(2, Tensor::ones([pictures, 10], &Device::flex())))
        };
        let alone = [of(vec![(4, 7)]), of(vec![(5, 2)])].concat();
        assert_eq!(of(vec![(4, 7), (5, 2)]), alone);
    }

    #[test]
    fn step_shard_and_layer_decide() {
        let one = dropped(0.5, 3, 2, 1);
        assert_eq!(one, dropped(0.5, 3, 2, 1));
        for other in [
            dropped(0.5, 4, 2, 1),
            dropped(0.5, 3, 1, 1),
            dropped(0.5, 3, 2, 0),
        ] {
            assert_ne!(one, other);
        }
    }
}
