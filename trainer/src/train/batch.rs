//! Which pictures a step sees, and how they are changed before.

use std::hash::{DefaultHasher, Hasher};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use shared::layer::Shape;

use super::balance::{Member, Sampling, class_weights};
use crate::augment::{Augmentation, Border, Draw, Second};
use crate::checkpoint::InputScale;
use crate::data::Dataset;
use crate::network::pictures_to_tensor;

/// Some of the pictures of one step.
#[derive(Clone)]
pub(super) struct Shard {
    members: Vec<Member>,
    epoch: usize,
    /// Whether these are all.
    pub whole: bool,
}

impl Shard {
    /// Number of pictures.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The pictures of several shards of one step, in order.
    pub(super) fn joined<'a>(shards: impl Iterator<Item = &'a Self>) -> Self {
        let empty = Self {
            members: Vec::new(),
            epoch: 0,
            whole: false,
        };
        shards.fold(empty, |mut all, shard| {
            all.members.extend(&shard.members);
            Self {
                epoch: shard.epoch,
                whole: shard.whole,
                ..all
            }
        })
    }
}

/// What a worker computes with.
pub(super) struct Prepared {
    /// Augmented pictures [pictures, channels, height, width].
    pub input: Tensor<4>,
    /// What the network should say to them [pictures, classes].
    pub targets: Tensor<2>,
    /// Class of each picture; of two that were mixed, that of the larger share.
    pub labels: Vec<usize>,
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
    /// How much a picture of each class counts.
    weights: Vec<f32>,
    sampling: Sampling,
    seed: u64,
    /// Batches in one pass over the data.
    pub per_epoch: usize,
    /// The order of the pictures in the epoch of this number.
    order: (usize, Vec<Member>),
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        data: &'a Dataset,
        augmentation: &'a Augmentation,
        (shape, scale): (Shape, InputScale),
        options: &super::TrainOptions,
    ) -> Self {
        let pictures = data.pictures.len();
        Self {
            data,
            augmentation,
            border: data.border(),
            shape,
            scale,
            smoothing: options.smoothing,
            weights: class_weights(data, options),
            sampling: options.sampling,
            seed: options.seed,
            per_epoch: options.steps_per_epoch(pictures),
            order: (0, options.sampling.order(data, options.seed, 0)),
        }
    }

    /// The pictures of a step (from 0), in shards of at most `most`. The steps
    /// of an epoch differ by one picture at most, and so do the shards of a
    /// step: batch normalisation would suffer from a small last one.
    pub(super) fn shards(&mut self, step: usize, most: usize) -> Vec<Shard> {
        let (epoch, index) = (step / self.per_epoch, step % self.per_epoch);
        if self.order.0 != epoch {
            self.order = (epoch, self.sampling.order(self.data, self.seed, epoch));
        }
        let batch = part(&self.order.1, index, self.per_epoch);
        let shards = batch.len().div_ceil(most);
        let shard = |index| {
            let members = part(batch, index, shards).to_vec();
            Shard {
                members,
                epoch,
                whole: shards == 1,
            }
        };
        (0..shards).map(shard).collect()
    }

    /// The pictures of a shard, augmented.
    pub(super) fn prepare(&self, shard: &Shard, device: &Device) -> Prepared {
        let mut pixels = vec![0; shard.len() * self.shape.len()];
        let pictures = pixels.par_chunks_exact_mut(self.shape.len());
        let seen: Vec<Seen> = pictures
            .zip(&shard.members)
            .map(|(out, &member)| self.see(member, shard.epoch, out))
            .collect();
        let key = |pixels: &[u8]| {
            let mut hasher = DefaultHasher::new();
            hasher.write(pixels);
            hasher.finish()
        };
        Prepared {
            input: pictures_to_tensor(&pixels, self.shape, self.scale, device),
            targets: self.targets(&seen, device),
            labels: seen.iter().map(Seen::label).collect(),
            keys: pixels.chunks_exact(self.shape.len()).map(key).collect(),
        }
    }

    /// Writes the augmented picture, another one for each time in the epoch.
    fn see(&self, Member { index, repeat }: Member, epoch: usize, out: &mut [u8]) -> Seen {
        let draw = Draw {
            seed: self.seed,
            index: index as u64,
            epoch: epoch as u64 | u64::from(repeat) << 32,
        };
        Seen {
            first: self.data.pictures[index].label,
            second: self.augmentation.view(self.data, self.border, draw, out),
        }
    }

    /// One for the right class, or its share for each of two that were mixed, less what
    /// label smoothing spreads over all; times the weight of the class.
    fn targets(&self, seen: &[Seen], device: &Device) -> Tensor<2> {
        let classes = self.data.classes.len();
        let spread = self.smoothing / classes as f32;
        let rows = seen.iter().flat_map(|picture| {
            let shares = (0..classes).map(move |class| picture.share(class));
            let weighed = shares.clone().zip(&self.weights);
            let weight: f32 = weighed.map(|(share, weight)| share * weight).sum();
            shares.map(move |share| ((1.0 - self.smoothing) * share + spread) * weight)
        });
        Tensor::from_data(
            TensorData::new(rows.collect(), [seen.len(), classes]),
            device,
        )
    }
}

/// What is on an augmented picture.
struct Seen {
    /// Class of the picture.
    first: usize,
    /// What was mixed into it.
    second: Option<Second>,
}

impl Seen {
    /// How much of the picture is of a class, 0 to 1.
    fn share(&self, class: usize) -> f32 {
        let own = f32::from(u8::from(class == self.first));
        self.second.map_or(own, |second| {
            let other = f32::from(u8::from(class == second.label));
            own * (1.0 - second.share) + other * second.share
        })
    }

    /// The class that has most of it.
    fn label(&self) -> usize {
        let other = self.second.filter(|second| second.share > 0.5);
        other.map_or(self.first, |second| second.label)
    }
}

/// One of `parts` parts of almost equal length.
pub(super) fn part<T>(all: &[T], index: usize, parts: usize) -> &[T] {
    &all[index * all.len() / parts..(index + 1) * all.len() / parts]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Cutmix, Mixup};
    use crate::network::numbers;
    use crate::train::TrainOptions;
    use crate::train::tests::{data, untrained};

    #[test]
    fn targets_are_mixed_as_pictures_are() {
        let data = data();
        let (network, input) = (untrained(false).network, untrained(false).input);
        let options = TrainOptions {
            smoothing: 0.3,
            batch: 60,
            ..Default::default()
        };
        let mixed = Augmentation {
            mixup: Mixup(0.5),
            cutmix: Cutmix(1.0),
            ..Default::default()
        };
        let mut batches = Batches::new(&data, &mixed, (network.input, input), &options);
        let shard = batches.shards(0, 60).remove(0);
        let Prepared {
            targets, labels, ..
        } = batches.prepare(&shard, &Device::flex());
        let rows = numbers(targets);
        let mut between = 0;
        for ((row, &label), member) in rows.chunks(3).zip(&labels).zip(&shard.members) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row.iter().all(|&target| target >= 0.0999));
            assert_eq!(crate::train::argmax(row), label);
            // 0.1 of the smoothing, and 0.7 of its share.
            let own = row[data.pictures[member.index].label];
            between += usize::from(own > 0.11 && own < 0.79);
        }
        assert!(between > 20, "{between}");
    }
}
