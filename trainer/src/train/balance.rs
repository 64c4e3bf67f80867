//! Classes with more pictures than others.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::TrainOptions;
use crate::data::Dataset;

/// Which pictures an epoch has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once.
    #[default]
    Natural,
    /// As many in all, and as many of each class: those of small classes several times,
    /// augmented each time anew, and some of those of large ones.
    Balanced,
}

/// How much a picture counts, by its class; 1 in the mean over all training pictures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// One over the number of pictures of the class.
    Inverse,
    /// One over the effective number, (1 - beta^n) / (1 - beta) (Cui et al. 2019,
    /// "Class-Balanced Loss Based on Effective Number of Samples").
    Effective,
}

/// A picture in the order of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Member {
    /// Its position in the data.
    pub index: usize,
    /// How often the epoch had it before.
    pub repeat: u32,
}

impl Sampling {
    /// The pictures of an epoch, in a random order.
    pub(super) fn order(self, data: &Dataset, seed: u64, epoch: usize) -> Vec<Member> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(epoch as u64);
        let once = |index| Member { index, repeat: 0 };
        let mut order: Vec<Member> = match self {
            Self::Natural => (0..data.pictures.len()).map(once).collect(),
            Self::Balanced => balanced(data, &mut random),
        };
        order.shuffle(&mut random);
        order
    }
}

/// Goes round the classes, and round the pictures of each in a random order.
fn balanced(data: &Dataset, random: &mut ChaCha8Rng) -> Vec<Member> {
    let mut classes = vec![Vec::new(); data.classes.len()];
    for (index, picture) in data.pictures.iter().enumerate() {
        classes[picture.label].push(index);
    }
    classes.retain(|class| !class.is_empty());
    classes.iter_mut().for_each(|class| class.shuffle(random));
    // What does not divide goes to other classes in each epoch.
    classes.shuffle(random);
    let member = |at: usize| {
        let class = &classes[at % classes.len()];
        let round = at / classes.len();
        Member {
            index: class[round % class.len()],
            repeat: (round / class.len()) as u32,
        }
    };
    (0..data.pictures.len()).map(member).collect()
}

/// The weight of each class; 0 for one without pictures.
pub(super) fn class_weights(data: &Dataset, options: &TrainOptions) -> Vec<f32> {
    let beta = options.effective_beta;
    let counts: Vec<f64> = data.counts().into_iter().map(|n| n as f64).collect();
    let weight = |n: f64| match options.class_weights {
        _ if n == 0.0 => 0.0,
        ClassWeights::None => 1.0,
        ClassWeights::Inverse => 1.0 / n,
        ClassWeights::Effective => (1.0 - beta) / (1.0 - beta.powf(n)),
    };
    let weights: Vec<f64> = counts.iter().map(|&n| weight(n)).collect();
    let (all, sum) = counts
        .iter()
        .zip(&weights)
        .fold((0.0, 0.0), |(all, sum), (n, w)| (all + n, sum + n * w));
    weights.iter().map(|w| (w * all / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::data;

    /// 20, 10 and 5 pictures.
    fn uneven() -> Dataset {
        let mut data = data();
        let mut left = [20, 10, 5];
        data.pictures.retain(|picture| {
            let kept = left[picture.label] > 0;
            left[picture.label] -= i32::from(kept);
            kept
        });
        data
    }

    #[test]
    fn a_natural_epoch_has_each_picture_once() {
        let data = uneven();
        let mut order = Sampling::Natural.order(&data, 1, 0);
        assert_ne!(order, Sampling::Natural.order(&data, 1, 1));
        order.sort();
        assert!(
            order
                .iter()
                .enumerate()
                .all(|(at, m)| m.index == at && m.repeat == 0)
        );
    }

    #[test]
    fn a_balanced_epoch_has_as_many_of_each_class() {
        let data = uneven();
        for epoch in 0..5 {
            let order = Sampling::Balanced.order(&data, 1, epoch);
            assert_eq!(order, Sampling::Balanced.order(&data, 1, epoch));
            let mut counts = [0; 3];
            for member in &order {
                counts[data.pictures[member.index].label] += 1;
            }
            assert!(counts.iter().all(|n| [11, 12].contains(n)), "{counts:?}");
            // No picture comes twice under the same number.
            let mut different = order.clone();
            different.sort();
            different.dedup();
            assert_eq!(different.len(), order.len());
            assert_eq!(order.iter().map(|m| m.repeat).max(), Some(2));
        }
    }

    #[test]
    fn weights_are_1_in_the_mean() {
        let data = uneven();
        let weights = |class_weights, effective_beta| {
            let options = TrainOptions {
                class_weights,
                effective_beta,
                ..Default::default()
            };
            class_weights_of(&data, &options)
        };
        fn class_weights_of(data: &Dataset, options: &TrainOptions) -> Vec<f32> {
            let weights = class_weights(data, options);
            let mean: f32 = weights
                .iter()
                .zip([20.0, 10.0, 5.0])
                .map(|(w, n)| w * n)
                .sum();
            assert!((mean / 35.0 - 1.0).abs() < 1e-6);
            weights
        }
        assert_eq!(weights(ClassWeights::None, 0.9), [1.0; 3]);
        let inverse = weights(ClassWeights::Inverse, 0.9);
        assert!((inverse[2] / inverse[0] - 4.0).abs() < 1e-5);
        // (1 - 0.9^20) / (1 - 0.9^5)
        let effective = weights(ClassWeights::Effective, 0.9);
        assert!((effective[2] / effective[0] - 2.1451).abs() < 1e-3);
        assert_eq!(weights(ClassWeights::Effective, 0.0), [1.0; 3]);
    }
}
