//! Which pictures a step sees, and how they are changed before.

use std::hash::{DefaultHasher, Hasher};

use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use shared::layer::Shape;

use crate::augment::{Augmentation, Border, Draw};
use crate::checkpoint::InputScale;
use crate::data::Dataset;
use crate::network::pictures_to_tensor;

/// Some of the pictures of one step.
pub(super) struct Shard {
    /// Positions in the data.
    members: Vec<usize>,
    epoch: usize,
    /// Class of each picture.
    pub labels: Vec<usize>,
    /// Whether these are all.
    pub whole: bool,
}

/// What a worker computes with.
pub(super) struct Prepared {
    /// Augmented pictures [pictures, channels, height, width].
    pub input: Tensor<4>,
    /// What the network should say to them [pictures, classes].
    pub targets: Tensor<2>,
    /// A hash of each augmented picture: equal ones have equal keys, and others almost
    /// certainly not.
    pub keys: Vec<u64>,
}

/// Makes the batch of any step from its number alone, so that a training may go
/// on anywhere.
pub(super) struct Batches<'a> {
    data: &'a Dataset,
    augmentation: &'a Augmentation,
    border: Border,
    shape: Shape,
    scale: InputScale,
    /// Share of the target that goes to all classes alike.
    smoothing: f32,
    seed: u64,
    /// Batches in one pass over the data.
    pub per_epoch: usize,
    /// The order of the pictures in the epoch of this number.
    order: (usize, Vec<usize>),
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        data: &'a Dataset,
        augmentation: &'a Augmentation,
        (shape, scale): (Shape, InputScale),
        options: &super::TrainOptions,
    ) -> Self {
        Self {
            data,
            augmentation,
            border: data.border(),
            shape,
            scale,
            smoothing: options.smoothing,
            seed: options.seed,
            per_epoch: data.pictures.len().div_ceil(options.batch).max(1),
            order: (0, shuffled(data.pictures.len(), options.seed, 0)),
        }
    }

    /// The pictures of a step (from 0), in shards of at most `most`. The steps
    /// of an epoch differ by one picture at most, and so do the shards of a
    /// step: batch normalisation would suffer from a small last one.
    pub(super) fn shards(&mut self, step: usize, most: usize) -> Vec<Shard> {
        let (epoch, index) = (step / self.per_epoch, step % self.per_epoch);
        let count = self.data.pictures.len();
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(count, self.seed, epoch));
        }
        let batch = part(&self.order.1, index, self.per_epoch);
        let shards = batch.len().div_ceil(most);
        let shard = |index| {
            let members = part(batch, index, shards).to_vec();
            let labels = members
                .iter()
                .map(|&at| self.data.pictures[at].label)
                .collect();
            Shard {
                members,
                labels,
                epoch,
                whole: shards == 1,
            }
        };
        (0..shards).map(shard).collect()
    }

    /// The pictures of a shard, augmented.
    pub(super) fn prepare(&self, shard: &Shard, device: &Device) -> Prepared {
        let pixels = self.pixels(&shard.members, shard.epoch);
        let key = |pixels: &[u8]| {
            let mut hasher = DefaultHasher::new();
            hasher.write(pixels);
            hasher.finish()
        };
        Prepared {
            input: pictures_to_tensor(&pixels, self.shape, self.scale, device),
            targets: self.targets(&shard.labels, device),
            keys: pixels.chunks_exact(self.shape.len()).map(key).collect(),
        }
    }

    fn pixels(&self, members: &[usize], epoch: usize) -> Vec<u8> {
        let mut pixels = vec![0; members.len() * self.shape.len()];
        let pictures = pixels.par_chunks_exact_mut(self.shape.len()).zip(members);
        pictures.for_each(|(out, &at)| {
            let picture = &self.data.pictures[at].pixels;
            let draw = Draw {
                seed: self.seed,
                index: at as u64,
                epoch: epoch as u64,
            };
            self.augmentation
                .apply(picture, self.data.shape, self.border, draw, out);
        });
        pixels
    }

    /// One for the right class, less what label smoothing spreads over all.
    fn targets(&self, labels: &[usize], device: &Device) -> Tensor<2> {
        let classes = self.data.classes.len();
        let spread = self.smoothing / classes as f32;
        let target = |label: usize, class| match class == label {
            true => 1.0 - self.smoothing + spread,
            false => spread,
        };
        let rows = labels
            .iter()
            .flat_map(|&label| (0..classes).map(move |class| target(label, class)));
        Tensor::from_data(
            TensorData::new(rows.collect(), [labels.len(), classes]),
            device,
        )
    }
}

/// One of `parts` parts of almost equal length.
fn part(all: &[usize], index: usize, parts: usize) -> &[usize] {
    &all[index * all.len() / parts..(index + 1) * all.len() / parts]
}

fn shuffled(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut random);
    order
}
