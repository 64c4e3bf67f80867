//! `espalier build`: every step, then the table of what came out.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use espalier::augment::Augmentation;
use espalier::confidence::{self, Answered};
use espalier::config::{Budget, DataOptions, Pictures, Project};
use espalier::data::Dataset;
use espalier::device::emulator::{self, EmulatorError};
use espalier::device::firmware::{self, FirmwareError};
use espalier::device::{Board, chips::Chip};
use espalier::score::Score;
use serde::Serialize;
use shared::Model;
use shared::kernels::Storage;

use super::compress::{self, Compressed};
use super::export::{self, Exported};
use super::footprint::Cost;
use super::project::{ProjectPath, stop_on_ctrl_c};
use super::report;
use super::run::Compared;
use super::simulate::recalls;
use super::train::{self, Trained};
use super::{Error, model::parse};
use crate::flags::Flags;
use crate::output::{Report, say, table, thousands};

/// Test pictures that the emulated chip answers.
const EMULATED: usize = 20;
/// How long it may take for them.
const LIMIT: Duration = Duration::from_secs(120);
/// Name of the receipt in the output folder.
const RECEIPT: &str = "receipt.json";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    project: ProjectPath,
    /// Go on with a build that was stopped
    #[arg(long)]
    resume: bool,
    /// Board of firmware/boards
    #[arg(long)]
    board: Option<String>,
    #[command(flatten)]
    data: Flags<DataOptions>,
    #[command(flatten)]
    augment: Flags<Augmentation>,
    #[command(flatten)]
    budget: Flags<Budget>,
}

/// What every step gave.
#[derive(Serialize)]
pub struct Built {
    pub train: Trained,
    pub compress: Compressed,
    pub export: Exported,
    pub simulate: Score,
    /// Of a model that need not answer, on the test part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sure: Option<Answered>,
    /// Nothing where there is no compiler for the chip or no emulator.
    pub footprint: Option<Cost>,
    pub run: Option<Compared>,
    /// Why the last two are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// What costs more, or does worse, than the budget allows.
    pub over_budget: Vec<String>,
    seconds: f64,
    receipt: PathBuf,
    report: PathBuf,
}

impl Cmd {
    /// Runs every step.
    pub fn run(self) -> Result<Built, Error> {
        let begin = Instant::now();
        let project = self.load()?;
        let board = Board::named(&project.board.name)?;
        let pictures = super::project::pictures(&project)?;
        let (trained, compressed, exported, model) = self.make(&project, &pictures)?;
        let model = parse(&model, &exported.model)?;
        let mut built = Built {
            simulate: espalier::simulate::simulate(&model, &pictures.test)?,
            sure: confidence::measure(&model, &pictures.test)?,
            train: trained,
            compress: compressed,
            export: exported,
            footprint: None,
            run: None,
            not_measured: None,
            over_budget: Vec::new(),
            seconds: 0.0,
            receipt: project.output(RECEIPT),
            report: project.output(report::FILE),
        };
        match measure(&board, &model, &pictures.test) {
            Ok((cost, compared)) => (built.footprint, built.run) = (Some(cost), Some(compared)),
            Err(missing) => built.not_measured = Some(missing_tool(missing)?),
        }
        built.over_budget = built.compare_with(&project.budget);
        report::write(&project, &pictures, &board, &model, &built)?;
        built.seconds = begin.elapsed().as_secs_f64();
        built.save_receipt()?;
        Ok(built)
    }

    fn load(&self) -> Result<Project, Error> {
        let mut board = toml::Table::new();
        if let Some(name) = &self.board {
            board.insert("name".to_owned(), name.as_str().into());
        }
        let flags = [
            self.data.table(),
            self.augment.table(),
            self.budget.table(),
            ("board", board),
        ];
        Ok(self.project.load(&flags)?)
    }

    fn make(
        &self,
        project: &Project,
        pictures: &Pictures,
    ) -> Result<(Trained, Compressed, Exported, Vec<u8>), Error> {
        let stop = stop_on_ctrl_c()?;
        if !self.resume {
            compress::clean_up(project);
        }
        let is_trained = self.resume && train::is_finished(project);
        let (float, trained) = match is_trained {
            true => train::finished(project, pictures)?,
            false => train::step(project, pictures, self.resume, &stop)?,
        };
        let resume = is_trained && compress::is_unfinished(project);
        let (pruned, compressed) = compress::step(project, pictures, float, resume, &stop)?;
        let (model, exported) = export::step(project, pictures, &pruned)?;
        Ok((trained, compressed, exported, model))
    }
}

/// What the chip needs, and whether it computes what the host does.
fn measure(board: &Board, model: &Model, test: &Dataset) -> Result<(Cost, Compared), Error> {
    let test = test.sample(EMULATED);
    let inputs = espalier::simulate::inputs(model, &test);
    say(format_args!("compiling the firmware for {}", board.name));
    let elf = firmware::build(board)?;
    say(format_args!(
        "running {} pictures on {}",
        test.pictures.len(),
        board.name
    ));
    let run = emulator::run(board, &elf, model.file(), &inputs, LIMIT)?;
    let mut cost = Cost::new(board, model, &elf, &run)?;
    cost.list_chips();
    Ok((cost, Compared::new(board, model, &inputs, &run)))
}

/// A compiler or an emulator that is not installed is no failure of a build;
/// everything else is.
pub fn missing_tool(error: Error) -> Result<String, Error> {
    match error {
        Error::Firmware(FirmwareError::Toolchain(_) | FirmwareError::NoSource(_))
        | Error::Emulator(EmulatorError::NotInstalled | EmulatorError::NotEmulated(_)) => {
            Ok(error.to_string())
        }
        error => Err(error),
    }
}

impl Built {
    fn compare_with(&self, budget: &Budget) -> Vec<String> {
        let over = |what: &str, is: Option<u64>, most: Option<u64>| {
            let (is, most) = (is?, most?);
            (is > most).then(|| {
                let (by, is, most) = (thousands(is - most), thousands(is), thousands(most));
                format!("{what} is {is}, {by} over the budget of {most}")
            })
        };
        let cost = self.footprint.as_ref();
        let least = budget
            .accuracy
            .filter(|&least| self.simulate.accuracy < least);
        let accuracy = least.map(|least| {
            let (is, least) = (100.0 * self.simulate.accuracy, 100.0 * least);
            format!(
                "accuracy is {is:.1} %, {:.1} points under the budget of {least:.1} %",
                least - is
            )
        });
        let most = |limit: Option<usize>| limit.map(|limit| limit as u64);
        let flash = over("flash", cost.map(|c| c.flash_bytes), most(budget.flash));
        let ram = over("RAM", cost.map(|c| c.ram_bytes), most(budget.ram));
        let instructions = over(
            "instructions",
            cost.map(|c| c.instructions),
            budget.instructions,
        );
        let unmeasured =
            cost.is_none() && (budget.flash, budget.ram, budget.instructions) != (None, None, None);
        let unmeasured =
            unmeasured.then(|| "flash, RAM and instructions could not be measured".to_owned());
        [accuracy, flash, ram, instructions, unmeasured]
            .into_iter()
            .flatten()
            .collect()
    }

    fn save_receipt(&self) -> Result<(), Error> {
        let write = |source| Error::Write {
            file: self.receipt.clone(),
            source,
        };
        let json = serde_json::to_vec_pretty(self).map_err(|error| write(error.into()))?;
        espalier::file::save(&self.receipt, &json).map_err(write)
    }
}

impl Report for Built {
    fn failure(&self) -> Option<String> {
        let differs = self.run.as_ref().and_then(Report::failure);
        let compressed = self.compress.failure();
        let over = (!self.over_budget.is_empty())
            .then(|| format!("over budget: {}", self.over_budget.join("; ")));
        differs.or(compressed).or(over)
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(["", "float", "pruned", "int8"]);
        let (float, pruned) = (&self.train, &self.compress);
        rows.add_row([
            "accuracy (95 % interval)".to_owned(),
            float.score.percent(),
            pruned.score.percent(),
            self.simulate.percent(),
        ]);
        let scores = [&float.score, &pruned.score, &self.simulate];
        let balanced = scores.map(Score::balanced_percent);
        rows.add_row(["balanced accuracy".to_owned()].into_iter().chain(balanced));
        let count = |n: usize| thousands(n as u64);
        let params = [
            count(float.params),
            count(pruned.params),
            count(self.export.params),
        ];
        rows.add_row(["parameters".to_owned()].into_iter().chain(params));
        let nonzeros = [
            count(float.nonzeros),
            count(pruned.nonzeros),
            count(self.export.nonzeros),
        ];
        rows.add_row(["not zero".to_owned()].into_iter().chain(nonzeros));
        let bytes = [
            count(4 * float.params),
            count(4 * pruned.params),
            count(self.export.model_bytes),
        ];
        rows.add_row(["bytes of model".to_owned()].into_iter().chain(bytes));
        writeln!(f, "{rows}")?;
        let [float_score, pruned_score, int8_score] = scores;
        let recalls = recalls(&[
            ("recall, float", float_score),
            ("pruned", pruned_score),
            ("int8", int8_score),
        ]);
        writeln!(f, "{recalls}")?;
        if let Some(sure) = &self.sure {
            writeln!(f, "sure          {}", sure.words())?;
        }
        writeln!(f, "dead          {}, left out", self.export.dead())?;
        writeln!(f, "sparse        {}", self.export.stored(Storage::Sparse))?;
        writeln!(f, "coded         {}", self.export.stored(Storage::Coded))?;
        match (&self.footprint, &self.run) {
            (Some(cost), Some(run)) => self.write_cost(f, cost, run)?,
            _ => writeln!(
                f,
                "not run on a chip: {}",
                self.not_measured.as_deref().unwrap_or_default()
            )?,
        }
        writeln!(f, "model         {}", self.export.model.display())?;
        writeln!(f, "checkpoints   {}", float.checkpoint.display())?;
        writeln!(f, "              {}", pruned.checkpoint.display())?;
        writeln!(f, "receipt       {}", self.receipt.display())?;
        writeln!(f, "report        {}", self.report.display())?;
        write!(f, "took          {:.0} s", self.seconds)
    }
}

impl Built {
    fn write_cost(&self, f: &mut fmt::Formatter<'_>, cost: &Cost, run: &Compared) -> fmt::Result {
        let agree = match run.agreement.mismatched_bytes {
            0 => "yes: all",
            _ => "NO, of",
        };
        writeln!(
            f,
            "flash         {} bytes, {} of them the model",
            thousands(cost.flash_bytes),
            thousands(cost.model_bytes as u64)
        )?;
        writeln!(
            f,
            "RAM           {} bytes, {} of them the arena",
            thousands(cost.ram_bytes),
            thousands(cost.arena_bytes as u64)
        )?;
        writeln!(
            f,
            "instructions  {} for one picture on {} (emulated)",
            thousands(cost.instructions),
            run.board
        )?;
        writeln!(
            f,
            "host = chip   {agree} {} output bytes of {} pictures, {} differ",
            run.agreement.output_bytes, run.inferences, run.agreement.mismatched_bytes
        )?;
        let chips: Vec<&str> = cost
            .smallest_chips
            .iter()
            .take(3)
            .map(|chip: &&Chip| chip.name.as_str())
            .collect();
        writeln!(f, "fits          {} and larger", chips.join(", "))
    }
}
