//! `espalier run`: the real firmware in an emulator, compared with the host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use espalier::data::Part;
use espalier::device::emulator;
use espalier::device::slots::Running;
use espalier::device::verify::{Comparison, compare};
use espalier::device::{Board, DeviceRun, firmware};
use serde::Serialize;
use shared::Model;

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
    #[serde(flatten)]
    pub agreement: Comparison,
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

pub fn pictures(model: &Model, source: &Path, count: Option<usize>) -> Result<Vec<i8>, Error> {
    let shape = espalier::simulate::options(model);
    let mut dataset = super::project::part(source, Part::Test, shape)?;
    dataset.pictures.truncate(count.unwrap_or(usize::MAX));
    Ok(espalier::simulate::inputs(model, &dataset))
}

pub fn golden_inputs(model: &Model) -> Vec<i8> {
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
    pub fn new(board: &Board, model: &Model, inputs: &[i8], run: &DeviceRun) -> Self {
        Self {
            board: board.name,
            model: Running::from(&run.report),
            instructions: run.work_per_inference(),
            inferences: run.report.inferences,
            self_tests: run.report.self_tests,
            agreement: compare(model, inputs, run),
            stack_bytes: run.report.stack_bytes,
            layers: costs(model, &run.work_by_layer(), Unit::Instructions),
        }
    }
}

impl Report for Compared {
    fn failure(&self) -> Option<String> {
        self.agreement.failure(self.board)
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
        if self.agreement.not_sure > 0 {
            writeln!(f, "not sure      {} of them", self.agreement.not_sure)?;
        }
        writeln!(f, "instructions  {} each", thousands(self.instructions))?;
        writeln!(f, "stack         {} bytes", thousands(self.stack_bytes))?;
        write!(
            f,
            "output        {} of {} bytes differ from this machine",
            self.agreement.mismatched_bytes,
            thousands(self.agreement.output_bytes as u64)
        )
    }
}
