//! Gradual magnitude pruning: the smallest weights of the whole network become
//! 0, a few more before every so many steps, and the rest is trained on.

use super::CompressOptions;
use crate::augment::Augmentation;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::network::Role;
use crate::train::{
    Hooks, Job, Sparsifier, Teacher, TrainError, TrainOptions, check_data, key, run,
};

/// Share of the steps in which the sparsity grows; in the rest it is held.
const RAMP: f64 = 0.6;
/// Times at which weights are zeroed.
const ROUNDS: usize = 100;

/// Prunes `start`, or goes on with an unfinished pruning of it; `trained` is the network
/// as it was before anything was taken from it, the teacher of `options.distill`.
///
/// In the result at least the share `options.sparsity` of the weights (biases
/// and normalisation do not count) is exactly 0. Epochs and rate are those of
/// `options`, the rest of the training is as in `train`.
pub fn prune(
    start: Checkpoint,
    trained: &Checkpoint,
    data: &Dataset,
    options: &CompressOptions,
    train: &TrainOptions,
    augmentation: &Augmentation,
    hooks: &Hooks,
) -> Result<Checkpoint, TrainError> {
    check_data(&start, data)?;
    check_data(trained, data)?;
    let train = TrainOptions {
        epochs: options.epochs,
        rate: options.rate,
        base: None,
        ..train.clone()
    };
    let job = Job {
        key: key(data, &train, augmentation, Some((options, trained))),
        sparsifier: Some(options),
        teacher: (options.distill > 0.0).then_some(Teacher {
            checkpoint: trained,
            share: options.distill,
            temperature: options.temperature,
        }),
        options: &train,
        data,
        augmentation,
        hooks,
    };
    run(start, &job)
}

impl Sparsifier for CompressOptions {
    fn due(&self, step: usize, steps: usize) -> bool {
        let ramp = ramp(steps);
        step == ramp || (step < ramp && step.is_multiple_of(ramp.div_ceil(ROUNDS)))
    }

    fn zero(&self, step: usize, steps: usize, checkpoint: &mut Checkpoint) {
        zero_smallest(checkpoint, sparsity(step, steps, self.sparsity));
    }
}

fn ramp(steps: usize) -> usize {
    (steps as f64 * RAMP).ceil() as usize
}

/// The sparsity before a step: `target` (1 - (1 - t)^3), where t goes from 0 to
/// 1 over the ramp (Zhu and Gupta 2017, "To prune, or not to prune", from a
/// dense network).
fn sparsity(step: usize, steps: usize, target: f32) -> f32 {
    let share = (step as f64 / ramp(steps).max(1) as f64).min(1.0);
    (f64::from(target) * (1.0 - (1.0 - share).powi(3))) as f32
}

/// Zeroes the smallest weights of the whole network until the given share is 0,
/// rounded up to a whole weight. Of equals, the first ones go.
fn zero_smallest(checkpoint: &mut Checkpoint, sparsity: f32) {
    let names: Vec<String> = checkpoint
        .network
        .nodes
        .iter()
        .map(|node| node.tensor_name(Role::Weight))
        .collect();
    let mut weights: Vec<&mut f32> = checkpoint
        .tensors
        .iter_mut()
        .filter(|(name, _)| names.contains(name))
        .flat_map(|(_, array)| &mut array.data)
        .collect();
    let count = (weights.len() as f64 * f64::from(sparsity)).ceil() as usize;
    weights.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    weights
        .into_iter()
        .take(count)
        .for_each(|weight| *weight = 0.0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::train::tests::{augmentation, data, in_single_steps, options, untrained};

    fn half() -> CompressOptions {
        CompressOptions {
            sparsity: 0.55,
            epochs: 5,
            rate: 0.01,
            distill: 0.5,
            ..Default::default()
        }
    }

    /// Zero and all weights.
    fn zeroes(checkpoint: &Checkpoint) -> (usize, usize) {
        let weights = checkpoint
            .tensors
            .iter()
            .filter(|(name, _)| name.ends_with(".weight"));
        let weights: Vec<f32> = weights.flat_map(|(_, array)| array.data.clone()).collect();
        (
            weights.iter().filter(|&&weight| weight == 0.0).count(),
            weights.len(),
        )
    }

    #[test]
    fn the_schedule_is_cubic() {
        let at = |step| sparsity(step, 1000, 0.8);
        assert_eq!((at(0), at(600), at(1000)), (0.0, 0.8, 0.8));
        assert!((at(300) - 0.8 * 0.875).abs() < 1e-6);
        let due = (0..=1000).filter(|&step| half().due(step, 1000)).count();
        assert_eq!(due, ROUNDS + 1);
        // A single step is both the beginning and the end.
        assert!(half().due(0, 1) && half().due(1, 1));
    }

    #[test]
    fn the_smallest_weights_go() {
        let mut checkpoint = untrained(false);
        let before = checkpoint.clone();
        zero_smallest(&mut checkpoint, 0.25);
        let (zero, all) = zeroes(&checkpoint);
        assert_eq!(zero, all.div_ceil(4));
        let mut kept = f32::MAX;
        let mut gone = 0.0f32;
        for (name, array) in &before.tensors {
            for (old, new) in array.data.iter().zip(&checkpoint.tensors[name].data) {
                match new == old {
                    true if name.ends_with("weight") => kept = kept.min(old.abs()),
                    true => {}
                    false => gone = gone.max(old.abs()),
                }
            }
        }
        assert!(gone <= kept);
    }

    #[test]
    fn the_sparsity_is_reached_and_resumed_bit_for_bit() {
        for batch_norm in [false, true] {
            let teacher = untrained(batch_norm);
            let run = |checkpoint, hooks: &Hooks| {
                prune(
                    checkpoint,
                    &teacher,
                    &data(),
                    &half(),
                    &options(),
                    &augmentation(),
                    hooks,
                )
            };
            let pruned = run(untrained(batch_norm), &Hooks::default()).unwrap();
            let (zero, all) = zeroes(&pruned);
            let wanted = (all as f32 * 0.55).ceil() as usize;
            assert!(zero.abs_diff(wanted) <= 1, "{zero} of {all}");
            assert!(pruned.nonzeros() <= pruned.parameters() - zero);
            assert_eq!(in_single_steps(untrained(batch_norm), run), pruned);
        }
    }

    #[test]
    fn zeroes_stay_zero() {
        let mut checkpoint = untrained(false);
        zero_smallest(&mut checkpoint, 0.5);
        let none = CompressOptions {
            sparsity: 0.0,
            ..half()
        };
        let trained = prune(
            checkpoint.clone(),
            &checkpoint,
            &data(),
            &none,
            &options(),
            &augmentation(),
            &Hooks::default(),
        )
        .unwrap();
        assert_eq!(zeroes(&trained), zeroes(&checkpoint));
        assert_ne!(trained, checkpoint);
    }
}
