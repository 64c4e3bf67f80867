//! `espalier monitor`: the log of a board that runs.

use std::fmt;

use clap::Args;
use espalier::device::probe::{self, Usb};
use espalier::device::{Board, firmware};
use serde::Serialize;

use super::Error;
use super::probe::ProbeFlags;
use super::project::stop_on_ctrl_c;
use crate::output::{Report, say};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Board with a debug probe
    #[arg(long, default_value = "nrf52840-dk")]
    board: String,
    #[command(flatten)]
    probe: ProbeFlags,
    /// Start the firmware anew, to hear it from the beginning
    #[arg(long)]
    reset: bool,
}

/// What was heard.
#[derive(Serialize)]
pub struct Monitored {
    board: &'static str,
    lines: u64,
}

impl Cmd {
    /// Shows the log until Ctrl-C; nothing is flashed.
    pub fn run(self) -> Result<Monitored, Error> {
        let board = Board::named(&self.board)?;
        let elf = firmware::build(&board)?;
        let stop = stop_on_ctrl_c()?;
        let options = self.probe.options(u64::from(u32::MAX), &stop);
        let mut lines = 0;
        let mut hear = |line: &str| {
            lines += 1;
            say(line);
        };
        probe::monitor(&Usb, &board, &elf, self.reset, &options, &mut hear)?;
        let board = board.name;
        Ok(Monitored { board, lines })
    }
}

impl Report for Monitored {}

impl fmt::Display for Monitored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines; {} runs on", self.lines, self.board)
    }
}
