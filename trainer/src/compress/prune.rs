//! Magnitude pruning: the smallest weights become 0, a few more before every so many
//! steps of a fine-tuning, and the rest is trained on.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::network::Role;

/// Share of the steps in which the sparsity grows; in the rest it is held.
const RAMP: f64 = 0.6;
/// Times at which weights are zeroed.
const ROUNDS: usize = 100;

/// Among which weights the smallest are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those of the whole network: layers with many weights to spare lose more.
    #[default]
    Global,
    /// Those of each layer: all lose the same share.
    Layer,
}

/// Whether weights are zeroed before a step (from 0).
pub(super) fn due(step: usize, steps: usize) -> bool {
    let ramp = ramp(steps);
    step == ramp || (step < ramp && step.is_multiple_of(ramp.div_ceil(ROUNDS)))
}

fn ramp(steps: usize) -> usize {
    (steps as f64 * RAMP).ceil() as usize
}

/// The sparsity before a step: `target` (1 - (1 - t)^3), where t goes from 0 to
/// 1 over the ramp (Zhu and Gupta 2017, "To prune, or not to prune", from a
/// dense network).
pub(super) fn sparsity(step: usize, steps: usize, target: f32) -> f32 {
    let share = (step as f64 / ramp(steps).max(1) as f64).min(1.0);
    (f64::from(target) * (1.0 - (1.0 - share).powi(3))) as f32
}

/// Zeroes the smallest weights until the given share is 0, rounded up to a whole weight.
/// Of equals, the first ones go.
pub(super) fn zero_smallest(checkpoint: &mut Checkpoint, sparsity: f32, scope: Scope) {
    let names: Vec<String> = checkpoint
        .network
        .nodes
        .iter()
        .map(|node| node.tensor_name(Role::Weight))
        .collect();
    let layers = checkpoint
        .tensors
        .iter_mut()
        .filter(|(name, _)| names.contains(name))
        .map(|(_, array)| array.data.iter_mut());
    match scope {
        Scope::Global => zero_share(layers.flatten().collect(), sparsity),
        Scope::Layer => layers.for_each(|weights| zero_share(weights.collect(), sparsity)),
    }
}

fn zero_share(mut weights: Vec<&mut f32>, sparsity: f32) {
    let count = (weights.len() as f64 * f64::from(sparsity)).ceil() as usize;
    weights.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let smallest = weights.into_iter().take(count);
    smallest.for_each(|weight| *weight = 0.0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compress::{CompressOptions, finetune::finetune};
    use crate::train::Hooks;
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
        let rounds = (0..=1000).filter(|&step| due(step, 1000)).count();
        assert_eq!(rounds, ROUNDS + 1);
        // A single step is both the beginning and the end.
        assert!(due(0, 1) && due(1, 1));
    }

    #[test]
    fn the_smallest_weights_go() {
        let mut checkpoint = untrained(false);
        let before = checkpoint.clone();
        zero_smallest(&mut checkpoint, 0.25, Scope::Global);
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
    fn each_layer_loses_its_share() {
        let mut checkpoint = untrained(false);
        zero_smallest(&mut checkpoint, 0.5, Scope::Layer);
        for (name, array) in &checkpoint.tensors {
            let zero = array.data.iter().filter(|&&weight| weight == 0.0).count();
            if name.ends_with("weight") {
                assert_eq!(zero, array.data.len().div_ceil(2), "{name}");
            }
        }
    }

    #[test]
    fn the_sparsity_is_reached_and_resumed_bit_for_bit() {
        for batch_norm in [false, true] {
            let teacher = untrained(batch_norm);
            let run = |checkpoint, hooks: &Hooks| {
                finetune(
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
        zero_smallest(&mut checkpoint, 0.5, Scope::Global);
        let none = CompressOptions {
            sparsity: 0.0,
            ..half()
        };
        let trained = finetune(
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
