//! What each layer costs, as the emulated chip has measured it.

use std::fmt;

use espalier::device::emulator::EmulatorRun;
use serde::Serialize;
use shared::Model;
use shared::model::Step;

use crate::output::{table, thousands};

/// Cost of one layer, or of a convolution and the max pool that it is computed with.
#[derive(Serialize)]
pub struct LayerCost {
    /// Numbers of the layers, from 0.
    layers: Vec<usize>,
    kind: String,
    /// Shape that is written.
    output: String,
    pub macs: u64,
    /// Mean of the inferences.
    pub instructions: u64,
    /// The part of all instructions, a fraction of 1.
    share: f64,
    /// Nothing where there are no multiply-accumulates.
    per_mac: Option<f64>,
}

/// The costs of all layers.
pub fn costs(model: &Model, run: &EmulatorRun) -> Vec<LayerCost> {
    let instructions = run.layer_instructions();
    let all = run.instructions_per_inference().max(1) as f64;
    let mut steps = model.steps();
    let mut costs = Vec::new();
    while let Some(step) = steps.next() {
        let pool = (!model.is_stored(step.output))
            .then(|| steps.next())
            .flatten();
        let together: Vec<Step> = [Some(step), pool].into_iter().flatten().collect();
        let layers: Vec<usize> = together.iter().map(|s| usize::from(s.output) - 1).collect();
        let kinds: Vec<&str> = together.iter().map(|step| step.layer.kind()).collect();
        let macs = together.iter().map(|step| model.macs(step)).sum();
        let last = pool.unwrap_or(step).output;
        let spent = layers
            .iter()
            .filter_map(|&layer| instructions.get(layer))
            .sum();
        costs.push(LayerCost {
            layers,
            kind: kinds.join(" + "),
            output: model.tensor(last).shape.to_string(),
            macs,
            instructions: spent,
            share: spent as f64 / all,
            per_mac: (macs > 0).then(|| spent as f64 / macs as f64),
        });
    }
    costs
}

/// The costs as a table, for people.
pub fn layer_table(costs: &[LayerCost]) -> impl fmt::Display {
    let mut rows = table([
        "layer",
        "kind",
        "output",
        "MACs",
        "instructions",
        "share",
        "per MAC",
    ]);
    for cost in costs {
        let layers: Vec<String> = cost.layers.iter().map(usize::to_string).collect();
        rows.add_row([
            layers.join(" + "),
            cost.kind.clone(),
            cost.output.clone(),
            thousands(cost.macs),
            thousands(cost.instructions),
            format!("{:.1} %", 100.0 * cost.share),
            cost.per_mac
                .map_or(String::new(), |per_mac| format!("{per_mac:.2}")),
        ]);
    }
    rows
}
