//! `espalier run`: the real firmware in an emulator, compared with the host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use espalier::data::{self, Part, Source};
use espalier::device::emulator::{self, EmulatorRun};
use espalier::device::slots::Running;
use espalier::device::{Board, firmware};
use serde::Serialize;
use shared::{Engine, Model};

use super::Error;
use super::layers::{LayerCost, Unit, costs, layer_table};
use super::model::{ModelPath, parse};
use crate::output::{Report, say, thousands};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
    /// Emulated board
    #[arg(long, default_value = "mps2-an386")]
    board: String,
    /// Pictures to answer; without them, the model's self-test vectors
    #[arg(long)]
    source: Option<PathBuf>,
    /// Use only the first pictures of the source
    #[arg(short = 'n', long)]
    count: Option<usize>,
    /// Seconds after which the emulator is stopped
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

/// Cost on the emulated chip, and whether it computed what the host does.
#[derive(Serialize)]
pub struct Compared {
    pub board: &'static str,
    /// Where the model lies.
    model: Running,
    /// Mean of the inferences, exact to one tick of the timer in each.
    pub instructions: u64,
    pub inferences: u32,
    pub self_tests: u16,
    pub output_bytes: usize,
    pub mismatched_bytes: usize,
    /// First byte that differs: number of the inference, and of the byte in its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_mismatch: Option<(usize, usize)>,
    /// Inferences that the chip is not sure enough of to answer.
    pub not_sure: usize,
    /// Those where this machine decides otherwise.
    pub mismatched_decisions: usize,
    stack_bytes: u32,
    layers: Vec<LayerCost>,
}

impl Cmd {
    /// Builds the firmware, runs it, and compares every output byte.
    pub fn run(self) -> Result<Compared, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let board = Board::named(&self.board)?;
        board.admit(bytes.len(), model.arena_bytes())?;
        let inputs = match &self.source {
            Some(source) => pictures(&model, source, self.count)?,
            None => golden_inputs(&model),
        };
        let elf = firmware::build(&board)?;
        let limit = Duration::from_secs(self.limit);
        let run = emulator::run(&board, &elf, &bytes, &inputs, limit)?;
        for line in &run.log {
            say(line);
        }
        Ok(Compared::new(&board, &model, &inputs, &run))
    }
}

fn pictures(model: &Model, source: &Path, count: Option<usize>) -> Result<Vec<i8>, Error> {
    let source = Source::parse(source, Path::new(""))?;
    let mut dataset = data::load(&source, Part::Test, &espalier::simulate::options(model))?;
    dataset.pictures.truncate(count.unwrap_or(usize::MAX));
    Ok(espalier::simulate::inputs(model, &dataset))
}

fn golden_inputs(model: &Model) -> Vec<i8> {
    let golden = model.golden();
    let mut inputs = vec![0; golden.count() * model.input_shape().len()];
    let rows = inputs.chunks_exact_mut(model.input_shape().len());
    for (index, input) in rows.enumerate() {
        golden.fill(index, input);
    }
    inputs
}

impl Compared {
    /// Compares what the chip gave with what the host gives.
    pub fn new(board: &Board, model: &Model, inputs: &[i8], run: &EmulatorRun) -> Self {
        let (expected, sure) = on_host(model, inputs);
        let differs = |(_, (a, b)): &(usize, (&i8, &i8))| a != b;
        let pairs = || run.outputs.iter().zip(&expected).enumerate();
        let width = model.output_shape().len();
        let missing = run.outputs.len().abs_diff(expected.len());
        Self {
            board: board.name,
            model: Running::from(&run.report),
            instructions: run.instructions_per_inference(),
            inferences: run.report.inferences,
            self_tests: run.report.self_tests,
            output_bytes: expected.len(),
            mismatched_bytes: pairs().filter(differs).count() + missing,
            first_mismatch: pairs()
                .find(differs)
                .map(|(at, _)| (at / width, at % width)),
            not_sure: run.sure.iter().filter(|sure| !**sure).count(),
            mismatched_decisions: run.sure.iter().zip(&sure).filter(|(a, b)| a != b).count()
                + run.sure.len().abs_diff(sure.len()),
            stack_bytes: run.report.stack_bytes,
            layers: costs(model, &run.layer_instructions(), Unit::Instructions),
        }
    }
}

/// Outputs of the inferences, and whether the model is sure of each.
fn on_host(model: &Model, inputs: &[i8]) -> (Vec<i8>, Vec<bool>) {
    let mut arena = vec![0; model.arena_bytes()];
    let (mut outputs, mut sure) = (Vec::new(), Vec::new());
    // The arena is as large as the model says.
    if let Ok(mut engine) = Engine::new(model, &mut arena) {
        for input in inputs.chunks_exact(model.input_shape().len()) {
            outputs.extend_from_slice(engine.infer(|to| to.copy_from_slice(input)));
            sure.push(engine.is_sure());
        }
    }
    (outputs, sure)
}

impl Report for Compared {
    fn failure(&self) -> Option<String> {
        let first = match self.first_mismatch {
            Some((inference, byte)) => format!("first in inference {inference}, byte {byte}"),
            None => "outputs are missing".to_owned(),
        };
        if self.mismatched_bytes > 0 {
            let (count, all) = (self.mismatched_bytes, self.output_bytes);
            return Some(format!(
                "{count} of {all} output bytes differ between {} and this machine: {first}",
                self.board
            ));
        }
        (self.mismatched_decisions > 0).then(|| {
            let (count, all) = (self.mismatched_decisions, self.inferences);
            format!(
                "{} and this machine are not sure of the same answers: {count} of {all} differ",
                self.board
            )
        })
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", layer_table(&self.layers))?;
        writeln!(
            f,
            "board         {} (emulated: instructions, not cycles)",
            self.board
        )?;
        writeln!(f, "model         {}", self.model)?;
        writeln!(f, "self-test     {} vectors pass", self.self_tests)?;
        writeln!(f, "inferences    {}", self.inferences)?;
        if self.not_sure > 0 {
            writeln!(f, "not sure      {} of them", self.not_sure)?;
        }
        writeln!(f, "instructions  {} each", thousands(self.instructions))?;
        writeln!(f, "stack         {} bytes", thousands(self.stack_bytes))?;
        write!(
            f,
            "output        {} of {} bytes differ from this machine",
            self.mismatched_bytes,
            thousands(self.output_bytes as u64)
        )
    }
}
