//! `espalier verify`: a device that computes what this machine does, and devices that do not.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::convert::Infallible;
use std::time::Duration;

use espalier::device::verify::{Parting, Questions, Verified, verify};
use espalier::device::{Board, DeviceRun, emulator, firmware};
use espalier::quantise::{Block, ModelFile};
use espalier_tests::command::{call, can_emulate, json, workspace};
use espalier_tests::models;
use shared::report::Report;
use shared::slots::Slot;
use shared::{Engine, Model};

/// What a device computes that works as this machine does.
fn device(model: &Model, questions: Questions) -> DeviceRun {
    let report = Report {
        slot: Slot::A,
        sequence: 1,
        fell_back: false,
        self_tests: 0,
        self_test_failures: 0,
        inferences: 1,
        ticks: 1,
        stack_bytes: 0,
        layer_ticks: Default::default(),
    };
    let mut run = DeviceRun::measured(&Board::named("mps2-an386").unwrap(), report);
    let mut arena = vec![0; model.arena_bytes()];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    for input in questions.inputs.chunks(model.input_shape().len()) {
        let fill = |to: &mut [i8]| to.copy_from_slice(input);
        let keep = |_: usize, output: &[i8]| run.layers.extend_from_slice(output);
        run.outputs
            .extend_from_slice(engine.infer_observed(fill, keep));
        run.sure.push(engine.is_sure());
    }
    if !questions.layers {
        run.layers.clear();
    }
    run
}

/// Verifies three inputs of a model with a device that spoils its answers.
fn spoiled(layers: bool, mut spoil: impl FnMut(&mut DeviceRun, Questions)) -> Verified {
    let bytes = models::every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let inputs = models::Random::new(3).bytes(3 * model.input_shape().len());
    let ask = |questions: Questions| {
        let mut run = device(&model, questions);
        spoil(&mut run, questions);
        Ok::<_, Infallible>(run)
    };
    verify(&model, &inputs, layers, ask).unwrap()
}

#[test]
fn an_honest_device_agrees() {
    let verified = spoiled(false, |_, _| {});
    assert_eq!(verified.outputs.failure("it"), None);
    assert_eq!((verified.parting, verified.layer_bytes), (None, 0));
    let verified = spoiled(true, |_, _| {});
    assert_eq!(verified.parting, None);
    // 6x6x2 goes in; the layers write 4 x 36 bytes, and so on, for each of three inputs.
    assert!(verified.layer_bytes > 3 * 4 * 36, "{verified:?}");
}

#[test]
fn the_first_element_that_differs_is_named() {
    // Row 2, column 1, channel 3 of the first layer, 6x6x4, and the output behind it.
    let at = (2 * 6 + 1) * 4 + 3;
    let verified = spoiled(false, |run, questions| match questions.layers {
        true => run.layers[at] ^= 1,
        false => *run.outputs.last_mut().unwrap() ^= 1,
    });
    let Parting {
        inference,
        layer,
        element,
        host,
        device,
    } = verified.parting.unwrap();
    assert_eq!((inference, layer, element), (2, 0, [2, 1, 3]));
    assert_eq!(device, Some(host ^ 1));
    assert_eq!(verified.outputs.first_mismatch, Some((2, 2)));
    let failure = verified.outputs.failure("the device").unwrap();
    assert!(
        failure.starts_with("1 of 9 output bytes differ"),
        "{failure}"
    );
}

#[test]
fn layers_are_compared_where_outputs_agree() {
    let verified = spoiled(true, |run, _| run.layers[0] ^= 1);
    assert_eq!(verified.outputs.mismatched_bytes, 0);
    assert_eq!(verified.parting.unwrap().layer, 0);
}

#[test]
fn what_differs_once_and_not_again_has_no_layer() {
    let verified = spoiled(false, |run, questions| {
        if !questions.layers {
            run.outputs[4] ^= 1;
        }
    });
    assert_eq!(verified.outputs.first_mismatch, Some((1, 1)));
    assert_eq!(verified.parting, None);
    assert!(verified.layer_bytes > 0);
}

#[test]
fn missing_bytes_differ() {
    let verified = spoiled(false, |run, questions| {
        run.outputs.pop();
        if questions.layers {
            run.layers.truncate(10);
        }
    });
    assert_eq!(verified.outputs.mismatched_bytes, 1);
    let parting = verified.parting.unwrap();
    assert_eq!((parting.layer, parting.device), (0, None));
}

/// The same network with all weights of a layer negated.
fn negated(model: &ModelFile, layer: usize) -> Option<ModelFile> {
    let mut model = model.clone();
    let weights = match &mut model.layers[layer].block {
        Block::Conv { weights, .. } | Block::Dense { weights, .. } => weights,
        _ => return None,
    };
    weights.iter_mut().for_each(|w| *w = w.saturating_neg());
    Some(model)
}

#[test]
fn a_chip_with_another_layer_is_caught_at_that_layer() {
    if !can_emulate("a_chip_with_another_layer_is_caught_at_that_layer") {
        return;
    }
    let file = models::every_kind();
    let bytes = file.to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let board = Board::named("mps2-an386").unwrap();
    let elf = firmware::build(&board).unwrap();
    let inputs = models::Random::new(5).bytes(2 * model.input_shape().len());
    let mut caught = 0;
    for layer in 0..file.layers.len() {
        let Some(other) = negated(&file, layer) else {
            continue;
        };
        let other = other.to_bytes().unwrap();
        let ask = |questions: Questions| {
            emulator::answer(&board, &elf, &other, questions, Duration::from_secs(60))
        };
        let verified = verify(&model, &inputs, true, ask).unwrap();
        let other = Model::parse(&other).unwrap();
        let ask = |questions: Questions| Ok::<_, Infallible>(device(&other, questions));
        let on_host = verify(&model, &inputs, true, ask).unwrap();
        assert_eq!(verified.parting, on_host.parting, "layer {layer}");
        // What a convolution writes is seen behind the pool that it is computed with. A layer
        // whose outputs are all at the end of their range does not mind.
        let seen = (layer..).find(|&l| model.is_stored(l as u8 + 1));
        caught += usize::from(verified.parting.is_some_and(|p| Some(p.layer) == seen));
    }
    assert!(caught >= 4, "{caught}");
}

#[test]
fn the_command_compares_every_layer_on_two_chips() {
    if !can_emulate("the_command_compares_every_layer_on_two_chips") {
        return;
    }
    let samples = workspace().join("examples/fashion");
    let model = workspace().join("examples/fashion-mnist/4k/model.esp");
    let (model, samples) = (model.to_str().unwrap(), samples.to_str().unwrap());
    for board in ["mps2-an386", "microbit"] {
        let arguments = [
            "verify", model, samples, "-n", "3", "--layers", "--board", board,
        ];
        let verified = json(&workspace(), arguments);
        assert_eq!(verified["inferences"], 3, "{verified:#}");
        assert_eq!(verified["mismatched_bytes"], 0);
        assert_eq!(verified["parting"], serde_json::Value::Null);
        assert!(verified["layer_bytes"].as_u64().unwrap() > 10_000);
        assert!(verified["instructions"].as_u64().unwrap() > 100_000);
    }
    // Without a source, the golden vectors; a folder that is none is named.
    let verified = json(&workspace(), ["verify", model]);
    assert_eq!(verified["inferences"], verified["self_tests"]);
    let called = call(&workspace(), ["verify", model, "nowhere"]);
    assert!(!called.success && called.stderr.contains("nowhere"));
    // An emulated board has no probe to listen through.
    let called = call(&workspace(), ["monitor", "--board", "mps2-an386"]);
    assert!(!called.success && called.stderr.contains("is an emulated board"));
}
