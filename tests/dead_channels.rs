//! Removing dead channels changes no output byte: random models whose channels
//! are dead in many ways, before and after.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use espalier::quantise::{ModelFile, remove_dead_channels};
use espalier_tests::models::{Random, convolutions, cost, deaden, random, sequence};
use proptest::prelude::*;
use shared::{Engine, Model};

/// Inputs of each model.
const INPUTS: usize = 12;

fn outputs(model: &Model, seed: u64) -> Vec<i8> {
    let mut arena = vec![0; model.arena_bytes()];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    let mut inputs = Random::new(seed);
    let mut outputs = Vec::new();
    for _ in 0..INPUTS {
        let input = inputs.bytes(model.input_shape().len());
        outputs.extend_from_slice(engine.infer(|to| to.copy_from_slice(&input)));
    }
    outputs
}

/// Removes the dead channels, checks that all outputs stay, that nothing is
/// left to remove, and that the cost falls, and gives what each layer lost.
fn lost(before: &ModelFile, seed: u64) -> Vec<usize> {
    let mut after = before.clone();
    let lost = remove_dead_channels(&mut after);
    let all: usize = lost.iter().sum();
    let [old, new] = [before, &after].map(|file| file.to_bytes().unwrap());
    let [old, new] = [&old, &new].map(|bytes| Model::parse(bytes).unwrap());
    assert!(
        outputs(&old, seed) == outputs(&new, seed),
        "{before:?}\n{after:?}"
    );
    assert_eq!(
        new.file_bytes() < old.file_bytes() || cost(&new) < cost(&old),
        all > 0
    );
    assert!(
        remove_dead_channels(&mut after)
            .iter()
            .all(|&lost| lost == 0)
    );
    lost
}

fn dead(mut file: ModelFile, seed: u64) -> ModelFile {
    deaden(&mut file, seed);
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_graphs_answer_the_same(seed: u64, layers in 1..=14usize) {
        lost(&dead(random(seed, layers), seed), seed);
    }

    #[test]
    fn random_sequences_answer_the_same(seed: u64) {
        lost(&dead(sequence(seed), seed), seed);
    }

    #[test]
    fn random_convolutions_answer_the_same(seed: u64) {
        lost(&dead(convolutions(seed), seed), seed);
    }

    #[test]
    fn what_is_not_dead_stays(seed: u64, layers in 1..=8usize) {
        lost(&random(seed, layers), seed);
    }
}

/// The tests above would be worth little if nothing were removed in them.
#[test]
fn layers_of_every_kind_lose_channels() {
    const MODELS: u64 = 300;
    let mut models = 0;
    let mut kinds = std::collections::BTreeMap::new();
    for seed in 0..MODELS {
        let file = dead(sequence(seed), seed);
        let lost = lost(&file, seed);
        models += u64::from(lost.iter().any(|&lost| lost > 0));
        for (layer, lost) in file.layers.iter().zip(lost) {
            *kinds.entry(layer.node.layer.kind()).or_insert(0) += lost;
        }
    }
    println!("{models} of {MODELS} models lost channels: {kinds:?}");
    assert!(models > MODELS / 2, "{models} of {MODELS}");
    for kind in ["conv2d", "depthwise_conv2d", "dense"] {
        assert!(kinds[kind] > 100, "{kinds:?}");
    }
}
