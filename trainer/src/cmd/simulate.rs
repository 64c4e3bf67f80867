//! `espalier simulate`: the int8 engine on this machine.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use espalier::confidence::{self, Answered};
use espalier::data::Part;
use espalier::score::Score;
use serde::Serialize;

use super::Error;
use super::model::{ModelPath, parse};
use crate::output::{Report, table};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
    /// Folder of class folders, folder of IDX files, fashion-mnist, shapes, or a project folder
    source: PathBuf,
    /// Use the training part instead of the test part
    #[arg(long)]
    train_part: bool,
}

/// Accuracy and confusion.
#[derive(Serialize)]
pub struct Simulation {
    #[serde(flatten)]
    pub score: Score,
    /// Of a model that need not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    sure: Option<Answered>,
    seconds: f64,
}

impl Cmd {
    /// Answers every picture.
    pub fn run(self) -> Result<Simulation, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let part = match self.train_part {
            true => Part::Train,
            false => Part::Test,
        };
        let shape = espalier::simulate::options(&model);
        let dataset = super::project::part(&self.source, part, shape)?;
        let start = Instant::now();
        let score = espalier::simulate::simulate(&model, &dataset)?;
        Ok(Simulation {
            score,
            sure: confidence::measure(&model, &dataset)?,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl Report for Simulation {}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Score { correct, total, .. } = &self.score;
        writeln!(f, "{}", confusion(&self.score))?;
        writeln!(f, "accuracy           {}", self.score.percent())?;
        writeln!(f, "balanced accuracy  {}", self.score.balanced_percent())?;
        if let Some(sure) = &self.sure {
            writeln!(f, "sure               {}", sure.words())?;
            let (error, temperature) = (sure.calibration_error, sure.temperature);
            writeln!(
                f,
                "calibration error  {error:.3} at temperature {temperature:.2}"
            )?;
        }
        write!(f, "{correct} of {total} right in {:.2} s", self.seconds)
    }
}

/// The recall of each class, of one or several networks over the same pictures.
pub fn recalls(scores: &[(&str, &Score)]) -> comfy_table::Table {
    let mut rows = table([]);
    let names = scores.iter().map(|(name, _)| *name);
    rows.set_header(["class", "pictures"].into_iter().chain(names));
    let classes = scores.first().map(|(_, score)| &score.per_class);
    for (index, class) in classes.into_iter().flatten().enumerate() {
        let recall = |(_, score): &(&str, &Score)| {
            let class = score.per_class.get(index);
            class.map_or(String::new(), |c| format!("{:.1} %", 100.0 * c.recall))
        };
        let named = [class.class.clone(), class.total.to_string()];
        rows.add_row(named.into_iter().chain(scores.iter().map(recall)));
    }
    rows
}

/// Rows are the truth, columns the answers.
pub fn confusion(score: &Score) -> comfy_table::Table {
    let mut rows = table(["truth", "recall"]);
    let names = score.per_class.iter().map(|c| c.class.clone());
    let header = ["truth".to_owned(), "recall".to_owned()];
    rows.set_header(header.into_iter().chain(names));
    for (class, counts) in score.per_class.iter().zip(&score.confusion) {
        let counts = counts.iter().map(|count| match count {
            0 => "·".to_owned(),
            count => count.to_string(),
        });
        let recall = format!("{:.1} %", 100.0 * class.recall);
        rows.add_row([class.class.clone(), recall].into_iter().chain(counts));
    }
    rows
}
