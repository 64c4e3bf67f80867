//! What one model costs more, or less, than another.

use std::fmt;

use serde::Serialize;

use super::Cost;
use crate::output::{table, thousands};

/// The other model's cost; the differences are for the table alone.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Other(pub Box<Cost>);

impl Other {
    /// Both side by side.
    pub fn table(&self, cost: &Cost) -> impl fmt::Display {
        let mut rows = table(["", "this", "other", "other - this", "other / this"]);
        for ((name, this), (_, other)) in figures(cost).into_iter().zip(figures(&self.0)) {
            let sign = match other >= this {
                true => "+",
                false => "-",
            };
            let ratio = match this {
                0 => String::new(),
                this => format!("{:.3}", other as f64 / this as f64),
            };
            rows.add_row([
                name.to_owned(),
                thousands(this),
                thousands(other),
                format!("{sign}{}", thousands(other.abs_diff(this))),
                ratio,
            ]);
        }
        rows
    }
}

fn figures(cost: &Cost) -> [(&'static str, u64); 9] {
    [
        ("flash", cost.flash_bytes),
        ("of which model", cost.model_bytes as u64),
        ("RAM", cost.ram_bytes),
        ("of which arena", cost.arena_bytes as u64),
        ("of which stack", cost.stack_bytes.into()),
        ("instructions", cost.instructions),
        ("MACs", cost.macs),
        ("parameters", cost.params as u64),
        ("not zero", cost.nonzeros as u64),
    ]
}
