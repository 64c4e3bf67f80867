//! `espalier verify`: the same inputs on a device and on this machine, and where they part.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use espalier::device::emulator::EmulatorError;
use espalier::device::probe::{self, Usb};
use espalier::device::verify::{Comparison, Parting, Questions, Verified, verify};
use espalier::device::{Board, DeviceRun, emulator, firmware};
use serde::Serialize;
use shared::Model;

use super::Error;
use super::layers::{LayerCost, Unit, costs, layer_table};
use super::model::{ModelPath, parse};
use super::probe::ProbeFlags;
use super::project::stop_on_ctrl_c;
use super::run::{golden_inputs, pictures};
use crate::output::{Report, thousands};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
    /// Pictures to answer; without them, the model's self-test vectors
    source: Option<PathBuf>,
    /// Emulated or real board
    #[arg(long, default_value = "mps2-an386")]
    board: String,
    /// Use only the first pictures of the source
    #[arg(short = 'n', long, default_value_t = 100)]
    count: usize,
    /// Compare what every layer computes for every input, not only for one whose output differs
    #[arg(long)]
    layers: bool,
    #[command(flatten)]
    probe: ProbeFlags,
    /// Seconds after which the device is stopped
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

/// Whether a device computes what this machine does.
#[derive(Serialize)]
pub struct Verification {
    board: &'static str,
    emulated: bool,
    inferences: u32,
    self_tests: u16,
    #[serde(flatten)]
    outputs: Comparison,
    /// Bytes of layers that were compared.
    layer_bytes: usize,
    /// The first element of the first layer that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    parting: Option<Parting>,
    /// Which layer that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// Mean of the inferences: instructions of an emulated board.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<u64>,
    /// The same of a real one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<u64>,
    /// What those cycles take.
    #[serde(skip_serializing_if = "Option::is_none")]
    microseconds: Option<f64>,
    stack_bytes: u32,
    layers: Vec<LayerCost>,
}

impl Cmd {
    /// Sends the inputs, reads the outputs back, and compares every byte.
    pub fn run(self) -> Result<Verification, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let board = Board::named(&self.board)?;
        board.admit(bytes.len(), model.arena_bytes())?;
        let inputs = match &self.source {
            Some(source) => pictures(&model, source, Some(self.count))?,
            None => golden_inputs(&model),
        };
        let elf = firmware::build(&board)?;
        let limit = Duration::from_secs(self.limit);
        let real = board.probe.is_some();
        // The emulator ends with this program.
        let stop = if real {
            stop_on_ctrl_c()?
        } else {
            Arc::default()
        };
        let options = self.probe.options(self.limit, &stop);
        let ask = |questions: Questions| -> Result<DeviceRun, Error> {
            if real {
                let hear = &mut |line: &str| tracing::info!("{line}");
                let run = probe::answer(&Usb, &board, &elf, &bytes, questions, &options, hear);
                return Ok(run?);
            }
            match emulator::answer(&board, &elf, &bytes, questions, limit) {
                // Where they part is what is asked here.
                Err(EmulatorError::SelfTest { run, .. }) => Ok(*run),
                other => Ok(other?),
            }
        };
        let verified = verify(&model, &inputs, self.layers, ask)?;
        Ok(Verification::new(&board, &model, verified))
    }
}

impl Verification {
    fn new(board: &Board, model: &Model, verified: Verified) -> Self {
        let Verified {
            run,
            outputs,
            parting,
            layer_bytes,
        } = verified;
        let emulated = board.emulator.is_some();
        let unit = match emulated {
            true => Unit::Instructions,
            false => Unit::Cycles,
        };
        let work = run.work_per_inference();
        let kind = parting.and_then(|part| {
            let step = model.steps().nth(part.layer);
            step.map(|step| step.layer.kind())
        });
        Self {
            board: board.name,
            emulated,
            inferences: run.report.inferences,
            self_tests: run.report.self_tests,
            outputs,
            layer_bytes,
            parting,
            kind,
            instructions: emulated.then_some(work),
            cycles: (!emulated).then_some(work),
            microseconds: (!emulated).then(|| work as f64 * 1e6 / board.systick_hz as f64),
            stack_bytes: run.report.stack_bytes,
            layers: costs(model, &run.work_by_layer(), unit),
        }
    }

    /// Where the device and this machine part, in words.
    fn place(&self) -> Option<String> {
        let part = self.parting?;
        let [row, column, channel] = part.element;
        let device = part
            .device
            .map_or("nothing".to_owned(), |value| value.to_string());
        Some(format!(
            "layer {} ({}), row {row}, column {column}, channel {channel} in inference {}: {} here, {device} on {}",
            part.layer,
            self.kind.unwrap_or("?"),
            part.inference,
            part.host,
            self.board
        ))
    }
}

impl Report for Verification {
    fn failure(&self) -> Option<String> {
        let failure = self.outputs.failure(self.board);
        let place = self.place();
        match (failure, place) {
            (None, None) => None,
            (None, Some(place)) => Some(format!("outputs agree, layers do not: {place}")),
            (Some(failure), Some(place)) => Some(format!("{failure}; they part at {place}")),
            (Some(failure), None) if self.outputs.mismatched_bytes > 0 => Some(format!(
                "{failure}; asked again, every layer of that input is the same: is the device's memory or power unsteady?"
            )),
            (failure, None) => failure,
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", layer_table(&self.layers))?;
        let note = match self.emulated {
            true => " (emulated: instructions, not cycles)",
            false => "",
        };
        writeln!(f, "board         {}{note}", self.board)?;
        writeln!(f, "inferences    {}", self.inferences)?;
        if let Some(instructions) = self.instructions {
            writeln!(f, "instructions  {} each", thousands(instructions))?;
        }
        if let (Some(cycles), Some(time)) = (self.cycles, self.microseconds) {
            writeln!(f, "cycles        {} each, {time:.0} us", thousands(cycles))?;
        }
        writeln!(f, "stack         {} bytes", thousands(self.stack_bytes))?;
        if self.layer_bytes > 0 {
            let bytes = thousands(self.layer_bytes as u64);
            writeln!(f, "layers        {bytes} bytes compared")?;
        }
        if let Some(place) = self.place() {
            writeln!(f, "they part at  {place}")?;
        }
        write!(
            f,
            "output        {} of {} bytes differ from this machine",
            self.outputs.mismatched_bytes,
            thousands(self.outputs.output_bytes as u64)
        )
    }
}
