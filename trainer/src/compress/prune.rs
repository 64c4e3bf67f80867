//! Magnitude pruning: the smallest weights become 0, a few more before every so many
//! steps of a fine-tuning, and the rest is trained on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::network::Role;

/// Share of the steps in which the sparsity grows; in the rest it is held.
const RAMP: f64 = 0.6;
/// Times at which weights are zeroed.
const ROUNDS: usize = 100;

/// Size of a weight that comes back, over the largest of its layer.
const NEW_WEIGHT: f32 = 1e-3;

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

/// The share of the weights that are not 0 which go too many before a step, to come back
/// elsewhere: `regrow` at first and less and less, until the sparsity is held.
pub(super) fn surplus(step: usize, steps: usize, regrow: f32) -> f32 {
    regrow * (1.0 - (step as f32 / ramp(steps).max(1) as f32).min(1.0))
}

/// Zeroes the smallest weights until the given share is 0, rounded up to a whole weight.
/// Of equals, the first ones go.
pub(super) fn zero_smallest(checkpoint: &mut Checkpoint, sparsity: f32, scope: Scope) {
    let layers = weights_of(checkpoint).into_iter();
    let layers = layers.map(|(_, weights)| weights.iter_mut());
    match scope {
        Scope::Global => zero_share(layers.flatten().collect(), sparsity),
        Scope::Layer => layers.for_each(|weights| zero_share(weights.collect(), sparsity)),
    }
}

/// The same of some weights.
pub(super) fn zero_share(mut weights: Vec<&mut f32>, sparsity: f32) {
    let count = zeros(weights.len(), sparsity);
    if count == 0 {
        return;
    }
    weights.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let smallest = weights.into_iter().take(count);
    smallest.for_each(|weight| *weight = 0.0);
}

/// How many of so many weights are 0.
fn zeros(weights: usize, sparsity: f32) -> usize {
    (weights as f64 * f64::from(sparsity)).ceil() as usize
}

/// Brings back weights that are 0 until only the given share is: those with the largest
/// gradients, of which each layer has its own (Evci et al. 2020, "Rigging the Lottery").
/// They start small and against the gradient.
pub(super) fn grow(
    checkpoint: &mut Checkpoint,
    gradients: &[Option<Vec<f32>>],
    sparsity: f32,
    scope: Scope,
) {
    let layers = weights_of(checkpoint).into_iter();
    let layers = layers.filter_map(|(node, weights)| {
        let gradient = gradients.get(node)?.as_ref()?;
        let largest = weights
            .iter()
            .fold(0f32, |most, weight| weight.abs().max(most));
        let pairs = weights.iter_mut().zip(gradient);
        let grown = pairs.map(move |(weight, gradient)| Grown {
            value: -NEW_WEIGHT * largest * gradient.signum(),
            gradient: gradient.abs(),
            weight,
        });
        Some(grown.collect::<Vec<_>>())
    });
    match scope {
        Scope::Global => grow_share(layers.flatten().collect(), sparsity),
        Scope::Layer => layers.for_each(|layer| grow_share(layer, sparsity)),
    }
}

/// A weight that may come back.
struct Grown<'a> {
    weight: &'a mut f32,
    gradient: f32,
    value: f32,
}

fn grow_share(all: Vec<Grown>, sparsity: f32) {
    let stay = zeros(all.len(), sparsity);
    let mut zero: Vec<Grown> = all
        .into_iter()
        .filter(|grown| *grown.weight == 0.0)
        .collect();
    let count = zero.len().saturating_sub(stay);
    zero.sort_by(|a, b| b.gradient.total_cmp(&a.gradient));
    for grown in zero.into_iter().take(count) {
        *grown.weight = grown.value;
    }
}

/// The number of each layer that has weights, and its weights.
fn weights_of(checkpoint: &mut Checkpoint) -> Vec<(usize, &mut [f32])> {
    let nodes = checkpoint.network.nodes.iter().enumerate();
    let names: BTreeMap<String, usize> = nodes
        .map(|(index, node)| (node.tensor_name(Role::Weight), index))
        .collect();
    let arrays = checkpoint.tensors.iter_mut();
    arrays
        .filter_map(|(name, array)| Some((*names.get(name)?, array.data.as_mut_slice())))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compress::{CompressOptions, finetune::finetune};
    use crate::train::tests::{augmentation, data, in_single_steps, options, untrained};
    use crate::train::{Hooks, Teacher};

    fn half() -> CompressOptions {
        CompressOptions {
            sparsity: Some(0.55),
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
    fn what_has_the_largest_gradient_comes_back() {
        let mut checkpoint = untrained(false);
        let names: Vec<String> = checkpoint
            .network
            .nodes
            .iter()
            .map(|node| node.tensor_name(Role::Weight))
            .collect();
        let gradient = |name: &String| {
            let count = checkpoint.tensors.get(name)?.data.len();
            Some((0..count).map(|i| i as f32 - 20.0).collect())
        };
        let gradients: Vec<Option<Vec<f32>>> = names.iter().map(gradient).collect();
        zero_smallest(&mut checkpoint, 0.75, Scope::Layer);
        let before = checkpoint.clone();
        grow(&mut checkpoint, &gradients, 0.5, Scope::Layer);
        for (name, gradient) in names.iter().zip(&gradients) {
            let (Some(gradient), Some(after)) = (gradient, checkpoint.tensors.get(name)) else {
                continue;
            };
            let all = before.tensors[name]
                .data
                .iter()
                .zip(&after.data)
                .zip(gradient);
            let (mut grown, mut left) = (f32::MAX, 0f32);
            for ((before, after), gradient) in all {
                match (*before == 0.0, *after == 0.0) {
                    (true, true) => left = left.max(gradient.abs()),
                    (true, false) => {
                        grown = grown.min(gradient.abs());
                        assert!(after * gradient < 0.0, "against the gradient");
                    }
                    _ => assert_eq!(before, after),
                }
            }
            assert!(left <= grown, "{name}");
            let zero = after.data.iter().filter(|&&weight| weight == 0.0).count();
            assert_eq!(zero, after.data.len().div_ceil(2), "{name}");
        }
        let surplus = |step| surplus(step, 1000, 0.2);
        assert_eq!((surplus(0), surplus(600), surplus(900)), (0.2, 0.0, 0.0));
    }

    #[test]
    fn the_sparsity_is_reached_and_resumed_bit_for_bit() {
        for (batch_norm, regrow) in [(false, 0.0), (true, 0.0), (false, 0.3)] {
            let whole = untrained(batch_norm);
            let teacher = Teacher::new(&whole, &data()).unwrap();
            let half = CompressOptions { regrow, ..half() };
            let run = |checkpoint, hooks: &Hooks| {
                finetune(
                    checkpoint,
                    &teacher,
                    &data(),
                    &half,
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
            sparsity: Some(0.0),
            ..half()
        };
        let trained = finetune(
            checkpoint.clone(),
            &Teacher::new(&checkpoint, &data()).unwrap(),
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
