//! Rates that differ from layer to layer.

use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::ParamGroup;

use super::TrainOptions;
use crate::network::Network;

/// What the rate is multiplied with for the parameters of some layers.
pub(super) struct LayerRates(Vec<(ParamGroup, f64)>);

impl LayerRates {
    /// 0 for frozen layers, `body_rate` for the others but the head.
    pub(super) fn new(network: &Network, options: &TrainOptions) -> Self {
        let head = network.head().map(|head| head.name.as_str()).ok();
        let factor = |name: &String| match options.freeze.contains(name) {
            true => 0.0,
            false if head == Some(name.as_str()) => 1.0,
            false => options.body_rate,
        };
        let layers = network.nodes.iter().enumerate();
        let factors = layers.map(|(index, node)| (index, factor(&node.name)));
        let others = factors.filter(|&(_, factor)| factor != 1.0);
        // As the parameters of `FloatNetwork` are named: `layers.3.conv.weight`.
        let group = |index| ParamGroup::from_predicate(format!("layers.{index}."));
        Self(
            others
                .map(|(index, factor)| (group(index), factor))
                .collect(),
        )
    }

    /// For a step of this rate.
    pub(super) fn of(&self, rate: f64) -> ModuleLearningRate {
        let all = ModuleLrScheduler::new(rate);
        let with = |all: ModuleLrScheduler, (group, factor): &(ParamGroup, f64)| {
            all.with_group(group.clone(), rate * factor)
        };
        self.0.iter().fold(all, with).step()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::Tensors;
    use crate::train::Optimizer;
    use crate::train::tests::{options, train_with, untrained};

    /// After a single step: of such a rate its length is a multiple.
    fn one_step(freeze: &[&str], body_rate: f64) -> Tensors {
        let options = TrainOptions {
            optimizer: Optimizer::Gd,
            weight_decay: Some(0.0),
            warmup: 0.0,
            epochs: 1,
            freeze: freeze.iter().map(|&name| name.to_owned()).collect(),
            body_rate,
            ..options()
        };
        train_with(untrained(false), &options).unwrap().tensors
    }

    #[test]
    fn frozen_layers_stay_and_the_body_goes_slower() {
        let before = untrained(false);
        let names: Vec<&str> = before
            .network
            .nodes
            .iter()
            .map(|n| n.name.as_str())
            .collect();
        let body = names[0];
        let head = before.network.head().unwrap().name.clone();
        let weight = |tensors: &Tensors, layer: &str| tensors[&format!("{layer}.weight")].clone();
        let step = |tensors: &Tensors, layer: &str| -> Vec<f32> {
            let (new, old) = (weight(tensors, layer), weight(&before.tensors, layer));
            new.data.iter().zip(&old.data).map(|(a, b)| a - b).collect()
        };
        let (plain, slow) = (one_step(&[], 1.0), one_step(&[], 0.25));
        assert_eq!(weight(&plain, &head), weight(&slow, &head));
        let pairs = step(&plain, body).into_iter().zip(step(&slow, body));
        let mut moved = 0;
        for (plain, slow) in pairs {
            assert!((0.25 * plain - slow).abs() < 1e-6, "{plain} {slow}");
            moved += usize::from(plain.abs() > 1e-4);
        }
        assert!(moved > 0);
        let frozen = one_step(&[body], 1.0);
        assert_eq!(weight(&frozen, body), weight(&before.tensors, body));
        assert_eq!(weight(&frozen, &head), weight(&plain, &head));
    }
}
