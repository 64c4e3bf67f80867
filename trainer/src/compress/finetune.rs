//! What is left of a network is trained on: weights go to 0 meanwhile, and go on their
//! grids, and the network that it was before teaches.

use super::clip::clip;
use super::share::fit_grids;
use super::{CompressOptions, prune};
use crate::augment::Augmentation;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::train::{
    Constraint, Hooks, Job, Lesson, Teacher, TrainError, TrainOptions, check_data, key, run,
};

/// Share of the steps from which on weights are on their grids.
const ON_GRIDS_FROM: f64 = 0.4;
/// Share of the steps from which on the grids stay what they are.
const GRIDS_STAY_FROM: f64 = 0.8;
/// Times at which the grids are fitted again between.
const FITS: usize = 40;

/// Trains `start` on, or goes on where that was stopped; the teacher of `options.distill`
/// is the network as it was before anything was taken from it.
///
/// Grids need batch normalisation folded, and a student learns with it: where it has both, it
/// learns without grids and zeros first, for as many epochs.
///
/// In the result at least the share [`CompressOptions::sparsity`] of the weights (biases and
/// normalisation do not count) is exactly 0, and the weights of layers with
/// `options.bits` or `options.share` are on their grids. Epochs and rate are those of
/// `options`, the rest of the training is as in `train`.
pub fn finetune(
    start: Checkpoint,
    teacher: &Teacher,
    data: &Dataset,
    options: &CompressOptions,
    train: &TrainOptions,
    augmentation: &Augmentation,
    hooks: &Hooks,
) -> Result<Checkpoint, TrainError> {
    check_data(&start, data)?;
    let learns_first = options.student.is_some() && start.network.has_batch_norm();
    let start = match options.has_grids() && learns_first {
        false => start,
        true => {
            let without_grids = CompressOptions {
                share: None,
                bits: None,
                sparsity: Some(0.0),
                ..options.clone()
            };
            finetune(
                start,
                teacher,
                data,
                &without_grids,
                train,
                augmentation,
                hooks,
            )?
        }
    };
    let start = match options.has_grids() {
        true => start.without_batch_norm()?,
        false => start,
    };
    let train = TrainOptions {
        epochs: options.epochs,
        steps: options.steps,
        rate: Some(options.rate),
        weight_decay: options.weight_decay.or(train.weight_decay),
        base: None,
        // All layers have lost something to make up for.
        freeze: Vec::new(),
        body_rate: 1.0,
        // A mean, or an earlier epoch, has other zeros and grids.
        average: None,
        patience: None,
        ensemble: 1,
        ..train.clone()
    };
    let augmentation = &match options.mix {
        true => augmentation.clone(),
        false => augmentation.without_mixing(),
    };
    let job = Job {
        key: key(
            data,
            None,
            &train,
            augmentation,
            Some(options),
            Some(teacher),
        ),
        constraint: Some(options),
        lesson: (options.distill > 0.0).then_some(Lesson {
            teacher,
            share: options.distill,
            temperature: options.temperature,
        }),
        options: &train,
        data,
        validation: None,
        augmentation,
        hooks,
    };
    let mut tuned = run(start, &job)?.checkpoint;
    tuned.snap_to_grids();
    Ok(tuned)
}

impl Constraint for CompressOptions {
    fn due(&self, step: usize, steps: usize) -> bool {
        prune::due(step, steps) || self.has_grids() && fit_due(step, steps)
    }

    fn apply(&self, step: usize, steps: usize, checkpoint: &mut Checkpoint) {
        if prune::due(step, steps) {
            let sparsity = prune::sparsity(step, steps, self.sparsity());
            let surplus = prune::surplus(step, steps, self.regrow);
            prune::zero_smallest(
                checkpoint,
                sparsity + surplus * (1.0 - sparsity),
                self.scope,
            );
        }
        if self.has_grids() && fit_due(step, steps) {
            // Behind the last grid weights can no longer leave the limit.
            if let Some(limit) = self.clip {
                clip(checkpoint, limit);
            }
            fit_grids(checkpoint, self);
        }
    }

    fn grows(&self, step: usize, steps: usize) -> bool {
        prune::due(step, steps) && prune::surplus(step, steps, self.regrow) > 0.0
    }

    fn grow(
        &self,
        step: usize,
        steps: usize,
        gradients: &[Option<Vec<f32>>],
        checkpoint: &mut Checkpoint,
    ) {
        let sparsity = prune::sparsity(step, steps, self.sparsity());
        prune::grow(checkpoint, gradients, sparsity, self.scope);
    }
}

/// Whether the grids are fitted before a step.
fn fit_due(step: usize, steps: usize) -> bool {
    let at = |share: f64| (steps as f64 * share) as usize;
    let (first, last) = (at(ON_GRIDS_FROM), at(GRIDS_STAY_FROM));
    let every = (last - first).div_ceil(FITS).max(1);
    (first..=last).contains(&step) && (step - first).is_multiple_of(every)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compress::PerLayer;
    use crate::network::Role;
    use crate::train::tests::{augmentation, data, in_single_steps, options, untrained};

    fn to_eight_values() -> CompressOptions {
        CompressOptions {
            share: Some(PerLayer::All(8)),
            bits: None,
            epochs: 5,
            rate: 0.01,
            ..Default::default()
        }
    }

    #[test]
    fn grids_are_fitted_from_the_middle_on() {
        let due: Vec<usize> = (0..=1000).filter(|&step| fit_due(step, 1000)).collect();
        assert_eq!(
            (due.len(), due[0], due[due.len() - 1]),
            (FITS + 1, 400, 800)
        );
        // Ever so few steps have one.
        assert!((0..=1).any(|step| fit_due(step, 1)));
    }

    #[test]
    fn weights_end_on_their_grid_and_resume_bit_for_bit() {
        for batch_norm in [false, true] {
            let whole = untrained(batch_norm);
            let teacher = Teacher::new(&whole, &data()).unwrap();
            let run = |checkpoint, hooks: &Hooks| {
                finetune(
                    checkpoint,
                    &teacher,
                    &data(),
                    &to_eight_values(),
                    &options(),
                    &augmentation(),
                    hooks,
                )
            };
            let tuned = run(untrained(batch_norm), &Hooks::default()).unwrap();
            for node in &tuned.network.nodes {
                let Some(weight) = tuned.tensor(node, Role::Weight) else {
                    continue;
                };
                let grid = &tuned.grids[&node.name];
                assert!(grid.levels().len() <= 8);
                let mut snapped = weight.data.clone();
                grid.snap(
                    &mut snapped,
                    crate::checkpoint::channel_of(&node.layer, &weight.shape),
                );
                assert_eq!(snapped, weight.data);
            }
            assert_eq!(in_single_steps(untrained(batch_norm), run), tuned);
        }
    }
}
