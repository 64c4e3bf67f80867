//! `espalier flash`: the real firmware on a real board.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use clap::Args;
use espalier::device::probe::{self, Flash};
use espalier::device::{Board, DeviceRun, firmware};
use serde::Serialize;

use super::Error;
use super::layers::{LayerCost, Unit, costs, layer_table};
use super::model::{ModelPath, parse};
use super::project::stop_on_ctrl_c;
use crate::output::{Report, say, thousands};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
    /// Board with a debug probe
    #[arg(long, default_value = "nrf52840-dk")]
    board: String,
    /// Which probe, as VID:PID or VID:PID:SERIAL; not needed if there is one
    #[arg(long)]
    probe: Option<String>,
    /// Seconds to wait for the board's report
    #[arg(long, default_value_t = 30)]
    limit: u64,
}

/// What the board measured.
#[derive(Serialize)]
pub struct Flashed {
    board: &'static str,
    self_tests: u16,
    self_test_failures: u16,
    /// Mean of one inference.
    cycles: u64,
    stack_bytes: u32,
    layers: Vec<LayerCost>,
}

impl Cmd {
    /// Flashes firmware and model, resets, and shows the log.
    pub fn run(self) -> Result<Flashed, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let board = Board::named(&self.board)?;
        board.admit(bytes.len(), model.arena_bytes())?;
        let elf = firmware::build(&board)?;
        let stop = stop_on_ctrl_c()?;
        let options = Flash {
            probe: self.probe.as_deref(),
            limit: Duration::from_secs(self.limit),
            stop: &stop,
            progress: stderr().is_terminal(),
        };
        let report = probe::flash(&board, &elf, &bytes, &options, &mut |line| say(line))?;
        let run = DeviceRun::measured(&board, report);
        Ok(Flashed {
            layers: costs(&model, &run.work_by_layer(), Unit::Cycles),
            board: board.name,
            self_tests: run.report.self_tests,
            self_test_failures: run.report.self_test_failures,
            cycles: run.work_per_inference(),
            stack_bytes: run.report.stack_bytes,
        })
    }
}

impl Report for Flashed {
    fn failure(&self) -> Option<String> {
        let failures = self.self_test_failures;
        (failures > 0).then(|| {
            format!(
                "{failures} of {} self-test vectors give other bytes on {}",
                self.self_tests, self.board
            )
        })
    }
}

impl fmt::Display for Flashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.self_tests - self.self_test_failures;
        writeln!(f, "{}", layer_table(&self.layers))?;
        writeln!(f, "board      {}", self.board)?;
        writeln!(f, "self-test  {passed} of {} vectors pass", self.self_tests)?;
        writeln!(f, "inference  {} cycles", thousands(self.cycles))?;
        write!(f, "stack      {} bytes", thousands(self.stack_bytes))
    }
}
