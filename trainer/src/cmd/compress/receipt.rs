//! The receipt of a compression: the network before and after each step, what a search tried,
//! and what came out; in JSON, as a table and as a plot.

use std::fmt;
use std::path::PathBuf;

use espalier::compress::cost::{Cost, OnChip};
use espalier::compress::search::{Over, Recipe, Trial};
use espalier::plot::{self, Point};
use espalier::score::{Score, percent};
use serde::{Deserialize, Serialize};

use crate::cmd::simulate::recalls;
use crate::output::{Report, table, thousands};

/// A compressed network.
#[derive(Serialize)]
pub struct Compressed {
    /// Of the compressed float network on the test part.
    #[serde(flatten)]
    pub score: Score,
    /// Its accuracy before it was compressed.
    pub accuracy_before: f64,
    /// Of the int8 model of the compressed network.
    pub accuracy_int8: f64,
    /// Of the test pictures, how many get another answer than before.
    pub answers_changed: usize,
    /// Before it was compressed, as `params`.
    pub params_before: usize,
    /// Weights and biases, zeros counted.
    pub params: usize,
    pub nonzeros: usize,
    pub seconds: f64,
    pub checkpoint: PathBuf,
    /// What the network was after each step.
    pub steps: Vec<Step>,
    /// All that a search tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<Trial>,
    /// The recipe that a search chose, as keys of `[compress]`: with them and
    /// `trial_epochs = 0` the same network comes without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Recipe>,
    /// Accuracy against bytes of the trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pareto: Option<PathBuf>,
    /// The first target that the result is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
    /// Points of validation accuracy that are lost, from float before to int8 after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<f64>,
    /// How many may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// The emulated board of the steps' figures, or why there are none.
    pub measured_on: String,
    pub receipt: PathBuf,
}

/// A network after a step.
#[derive(Clone, Serialize, Deserialize)]
pub struct Step {
    /// Which step.
    pub name: String,
    /// Layers with weights, and how many channels they write.
    pub widths: Vec<(String, usize)>,
    #[serde(flatten)]
    pub cost: Cost,
    /// Accuracy of its int8 model on the validation pictures, where there are any, and
    /// its 95 % interval. Before the fine-tuning, it is that of an untrained cut.
    pub validation: Option<(f64, [f64; 2])>,
}

impl Compressed {
    /// Accuracy against bytes as an SVG.
    pub fn plot(&self) -> Result<String, String> {
        plot::svg("Trials of the search", &self.points())
    }

    /// Of the trials, and of what the network was and is.
    fn points(&self) -> Vec<Point> {
        let point = |label: Option<&str>, bytes: usize, accuracy: f64| Point {
            label: label.map(str::to_owned),
            bytes: bytes as f64,
            accuracy: 100.0 * accuracy,
        };
        let trials = self.trials.iter();
        let trials = trials.map(|trial| point(None, trial.cost.model_bytes, trial.accuracy));
        let ends = [self.steps.first(), self.steps.last()]
            .into_iter()
            .flatten();
        let ends = ends.filter_map(|step| {
            let (accuracy, _) = step.validation?;
            Some(point(Some(&step.name), step.cost.model_bytes, accuracy))
        });
        trials.chain(ends).collect()
    }

    fn step_table(&self) -> impl fmt::Display {
        let mut rows = table([
            "step",
            "parameters",
            "not zero",
            "distinct",
            "model bytes",
            "flash",
            "RAM",
            "MACs",
            "instructions",
            "validation",
        ]);
        let count = |number: usize| thousands(number as u64);
        for Step {
            name,
            cost,
            validation,
            ..
        } in &self.steps
        {
            let chip = |value: fn(&OnChip) -> u64| {
                cost.on_chip
                    .as_ref()
                    .map_or(String::new(), |chip| thousands(value(chip)))
            };
            rows.add_row([
                name.clone(),
                count(cost.params),
                count(cost.nonzeros),
                count(cost.distinct),
                count(cost.model_bytes),
                chip(|chip| chip.flash_bytes),
                chip(|chip| chip.ram_bytes),
                thousands(cost.macs),
                chip(|chip| chip.instructions),
                validation.map_or(String::new(), |(accuracy, interval)| {
                    percent(accuracy, interval)
                }),
            ]);
        }
        rows
    }
}

impl Report for Compressed {
    fn failure(&self) -> Option<String> {
        if let Some(Over { key, is, most }) = self.over {
            let (is, most) = (
                is.map_or("more than the board has".to_owned(), thousands),
                thousands(most),
            );
            return Some(format!(
                "the fine-tuned network takes {is}, and compress.{key} is {most}: set the target a little lower"
            ));
        }
        let (drop, most) = (self.drop?, self.max_drop?);
        // A drop of exactly `most` is allowed, whatever its last bit is.
        (drop > most + 1e-9).then(|| {
            format!(
                "the network loses {drop:.2} points on the validation pictures and compress.max_drop is {most}: \
                 allow {drop:.2}, raise the target, or fine-tune for more epochs"
            )
        })
    }
}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize| thousands(number as u64);
        let (changed, tested) = (count(self.answers_changed), count(self.score.total));
        let (params, before) = (count(self.params), count(self.params_before));
        writeln!(f, "{}", self.step_table())?;
        if self.pareto.is_some() {
            writeln!(f, "{}", plot::terminal(&self.points()))?;
        }
        writeln!(f, "{}", recalls(&[("recall", &self.score)]))?;
        writeln!(f, "accuracy         {}", self.score.percent())?;
        writeln!(f, "balanced         {}", self.score.balanced_percent())?;
        writeln!(
            f,
            "                 float before {:.2} %, after {:.2} %, int8 {:.2} % of the test pictures",
            100.0 * self.accuracy_before,
            100.0 * self.score.accuracy,
            100.0 * self.accuracy_int8
        )?;
        writeln!(
            f,
            "answers          {changed} of {tested} are others than before"
        )?;
        writeln!(
            f,
            "parameters       {params} of {before}, {} of them not zero",
            count(self.nonzeros)
        )?;
        if let Some(drop) = self.drop {
            writeln!(
                f,
                "lost             {drop:.2} points on the validation pictures"
            )?;
        }
        writeln!(f, "measured on      {}", self.measured_on)?;
        writeln!(f, "took             {:.1} s", self.seconds)?;
        if let Some(recipe) = &self.recipe {
            // Not a JSON value but one of the project file, so that it can be pasted there.
            let recipe = toml::Value::try_from(recipe).map_err(|_| fmt::Error)?;
            for (key, value) in recipe.as_table().into_iter().flatten() {
                writeln!(f, "recipe           {key} = {value}")?;
            }
        }
        if let Some(pareto) = &self.pareto {
            writeln!(f, "trials           {}", pareto.display())?;
        }
        writeln!(f, "receipt          {}", self.receipt.display())?;
        write!(f, "checkpoint       {}", self.checkpoint.display())
    }
}
