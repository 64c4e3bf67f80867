//! Every target's kernels give the bytes of the portable ones: random models,
//! whose self-test vectors this machine computed, in the firmware on emulated
//! chips.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

use std::time::Duration;

use espalier::device::{Board, emulator, firmware};
use espalier_tests::command::can_emulate;
use espalier_tests::models;

/// Random models of each kind, dense, sparse and coded; every other one with compact
/// channels.
const MODELS: u64 = 30;
/// Self-test vectors in each.
const VECTORS: u8 = 8;

fn runs_the_same(board: &str) {
    if !can_emulate(&format!("conformance on {board}")) {
        return;
    }
    let board = Board::named(board).expect("a board of the firmware");
    let elf = firmware::build(&board).expect("a firmware");
    for seed in 0..MODELS {
        let sparse = |model| models::sparsen(model, seed);
        let coded = |model| models::code(model, seed);
        for mut model in [
            models::random(seed, 6),
            models::convolutions(seed),
            sparse(models::random(!seed, 6)),
            sparse(models::convolutions(!seed)),
            coded(models::random(seed ^ 0xC0DE, 6)),
            coded(models::convolutions(seed ^ 0xC0DE)),
        ] {
            if seed % 2 == 1 {
                model = models::compact(model);
            }
            model.golden = VECTORS;
            let bytes = model.to_bytes().expect("a valid model");
            let run = emulator::run(&board, &elf, &bytes, &[], Duration::from_secs(60));
            let run = run.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{model:?}"));
            assert_eq!(run.report.self_tests, u16::from(VECTORS), "seed {seed}");
            assert_eq!(run.report.self_test_failures, 0, "seed {seed}");
        }
    }
}

#[test]
fn cortex_m3_without_dsp() {
    runs_the_same("mps2-an385");
}

#[test]
fn cortex_m4() {
    runs_the_same("mps2-an386");
}

#[test]
fn cortex_m7() {
    runs_the_same("mps2-an500");
}

#[test]
fn cortex_m33() {
    runs_the_same("mps2-an505");
}

#[test]
fn cortex_m55() {
    runs_the_same("mps3-an547");
}
