//! What each layer costs, as the chip has measured it: instructions in the emulator, cycles on a board.

use std::fmt;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<u64>,
    /// The same on a board.
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<u64>,
    /// The part of the whole inference, a fraction of 1.
    share: f64,
    /// Nothing where there are no multiply-accumulates.
    per_mac: Option<f64>,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Instructions,
    Cycles,
}

/// The costs of all layers; `spent` has the mean of each.
pub fn costs(model: &Model, spent: &[u64], unit: Unit) -> Vec<LayerCost> {
    let all = spent.iter().sum::<u64>().max(1) as f64;
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
        let spent: u64 = layers.iter().filter_map(|&layer| spent.get(layer)).sum();
        costs.push(LayerCost {
            layers,
            kind: kinds.join(" + "),
            output: model.tensor(last).shape.to_string(),
            macs,
            instructions: (unit == Unit::Instructions).then_some(spent),
            cycles: (unit == Unit::Cycles).then_some(spent),
            share: spent as f64 / all,
            per_mac: (macs > 0).then(|| spent as f64 / macs as f64),
        });
    }
    costs
}

/// The costs as a table, for people.
pub fn layer_table(costs: &[LayerCost]) -> impl fmt::Display {
    let counted = match costs.first().and_then(|cost| cost.cycles) {
        Some(_) => "cycles",
        None => "instructions",
    };
    let mut rows = table([
        "layer", "kind", "output", "MACs", counted, "share", "per MAC",
    ]);
    for cost in costs {
        let layers: Vec<String> = cost.layers.iter().map(usize::to_string).collect();
        rows.add_row([
            layers.join(" + "),
            cost.kind.clone(),
            cost.output.clone(),
            thousands(cost.macs),
            thousands(cost.instructions.or(cost.cycles).unwrap_or_default()),
            format!("{:.1} %", 100.0 * cost.share),
            cost.per_mac
                .map_or(String::new(), |per_mac| format!("{per_mac:.2}")),
        ]);
    }
    rows
}
