//! The engine's cost on the emulated Cortex-M4 stays within `budget.toml`.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::BTreeMap;

use espalier::device::Board;
use espalier::device::cycles::per_instruction;
use espalier_tests::command::{can_emulate, workspace};
use espalier_tests::cost::Costs;
use espalier_tests::cycles::mix;
use serde::Deserialize;

/// What each may cost, by the name of the network or layer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// The part of a budget of instructions or flash by which it may be exceeded.
    margin: f64,
    /// Flash of the firmware without a model, in bytes.
    firmware_flash_bytes: u64,
    /// Flash of the engine alone, in bytes.
    engine_flash_bytes: u64,
    /// Instructions of one inference.
    instructions: BTreeMap<String, u64>,
    /// RAM for activations in bytes.
    arena_bytes: BTreeMap<String, u64>,
    /// Instructions with 90 % of the weights zero over instructions without.
    sparse90: BTreeMap<String, f64>,
}

/// The part by which what export estimates may differ from what is measured.
const ESTIMATE: f64 = 0.1;

impl Budget {
    /// What, its budget, and what was measured; an entry that is missing counts
    /// as 0.
    fn compare(&self, costs: &Costs) -> Vec<(String, u64, u64)> {
        let of = |table: &BTreeMap<String, u64>, name| table.get(name).copied().unwrap_or(0);
        let with_margin =
            |bytes_or_count: u64| (bytes_or_count as f64 * (1.0 + self.margin)) as u64;
        let mut rows = vec![
            (
                "bytes of flash for the firmware".to_owned(),
                with_margin(self.firmware_flash_bytes),
                costs.firmware_flash_bytes,
            ),
            (
                "bytes of flash for the engine".to_owned(),
                with_margin(self.engine_flash_bytes),
                costs.engine_flash_bytes,
            ),
        ];
        for cost in costs.dense() {
            let name = cost.name;
            let budget = with_margin(of(&self.instructions, name));
            rows.push((format!("instructions of {name}"), budget, cost.instructions));
            let budget = of(&self.arena_bytes, name);
            let arena = cost.arena_bytes as u64;
            rows.push((format!("bytes of arena for {name}"), budget, arena));
        }
        rows
    }
}

#[test]
fn the_engine_stays_within_its_budget() {
    if !can_emulate("the_engine_stays_within_its_budget") {
        return;
    }
    let budget: Budget = toml::from_str(include_str!("budget.toml")).unwrap();
    let costs = Costs::measure();
    assert_eq!(
        costs.mismatched_bytes(),
        0,
        "output bytes differ between the chip and this machine"
    );
    for (name, ratio) in costs.sparse_ratios() {
        let limit = budget.sparse90[name];
        assert!(ratio <= limit, "{name}, 90 % zero: {ratio}, not {limit}");
    }
    for cost in costs.dense().chain(&costs.sparse).chain(&costs.coded) {
        let Some(estimate) = cost.estimate else {
            continue;
        };
        let ratio = estimate as f64 / cost.instructions as f64;
        let name = cost.name;
        assert!((ratio - 1.0).abs() < ESTIMATE, "{name}: estimated {ratio}");
    }
    let over: Vec<String> = budget
        .compare(&costs)
        .into_iter()
        .filter(|(_, budget, measured)| measured > budget)
        .map(|(what, budget, measured)| format!("{what}: {measured}, and the budget is {budget}"))
        .collect();
    assert!(
        over.is_empty(),
        "over the budget of tests/budget.toml, see `tests/bench engine`:\n{}",
        over.join("\n")
    );
}

#[test]
fn the_estimate_of_cycles_is_what_the_tables_give() {
    if !can_emulate("the_estimate_of_cycles_is_what_the_tables_give") {
        return;
    }
    let board = Board::named("mps2-an386").unwrap();
    let model = workspace().join("examples/fashion-mnist/fast/model.esp");
    let mix = mix(&board, &std::fs::read(model).unwrap()).unwrap();
    let per = |cycles: u64| cycles as f64 / mix.instructions as f64;
    let [least, most] = mix.cortex_m4().map(per);
    let [low, high] = per_instruction(&board).unwrap();
    assert!(low <= least && most <= high, "{least} to {most}");
}
