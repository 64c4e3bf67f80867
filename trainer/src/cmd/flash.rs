//! `espalier flash`: the real firmware on a real board.

use std::fmt;

use clap::Args;
use espalier::device::probe::{self, Flashed, Usb};
use espalier::device::{Board, DeviceRun, firmware};
use serde::Serialize;

use super::Error;
use super::layers::{LayerCost, Unit, costs, layer_table};
use super::model::{ModelPath, parse};
use super::probe::ProbeFlags;
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
    #[command(flatten)]
    probe: ProbeFlags,
    /// Seconds to wait for the board's report
    #[arg(long, default_value_t = 30)]
    limit: u64,
}

/// What was written, and what the board measured.
#[derive(Serialize)]
pub struct Started {
    board: &'static str,
    #[serde(flatten)]
    flashed: Flashed,
    self_tests: u16,
    self_test_failures: u16,
    /// Mean of one inference.
    cycles: u64,
    stack_bytes: u32,
    layers: Vec<LayerCost>,
}

impl Cmd {
    /// Flashes firmware and model, resets, and shows the log.
    pub fn run(self) -> Result<Started, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let board = Board::named(&self.board)?;
        board.admit(bytes.len(), model.arena_bytes())?;
        let elf = firmware::build(&board)?;
        let stop = stop_on_ctrl_c()?;
        let options = self.probe.options(self.limit, &stop);
        let hear = &mut |line: &str| say(line);
        let (flashed, report) = probe::flash(&Usb, &board, &elf, &bytes, &options, hear)?;
        let run = DeviceRun::measured(&board, report);
        Ok(Started {
            flashed,
            layers: costs(&model, &run.work_by_layer(), Unit::Cycles),
            board: board.name,
            self_tests: run.report.self_tests,
            self_test_failures: run.report.self_test_failures,
            cycles: run.work_per_inference(),
            stack_bytes: run.report.stack_bytes,
        })
    }
}

impl Report for Started {
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

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.self_tests - self.self_test_failures;
        writeln!(f, "{}", layer_table(&self.layers))?;
        writeln!(f, "board      {}", self.board)?;
        let Flashed {
            firmware_written: written,
            firmware_kept: kept,
            slot,
            model_written,
        } = self.flashed;
        let (written, kept) = (thousands(written), thousands(kept));
        writeln!(
            f,
            "firmware   {written} bytes of flash written, {kept} unchanged"
        )?;
        let how = if model_written {
            "written to"
        } else {
            "unchanged in"
        };
        writeln!(f, "model      {how} slot {slot}")?;
        writeln!(f, "self-test  {passed} of {} vectors pass", self.self_tests)?;
        writeln!(f, "inference  {} cycles", thousands(self.cycles))?;
        write!(f, "stack      {} bytes", thousands(self.stack_bytes))
    }
}
