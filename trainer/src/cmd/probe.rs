//! Flags that every command with a debug probe has.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use espalier::device::probe::Options;

/// Which probe, and how long to wait.
#[derive(Args, Clone, Debug)]
pub struct ProbeFlags {
    /// Debug probe of a real board, as VID:PID or VID:PID:SERIAL; not needed if there is one
    #[arg(long)]
    probe: Option<String>,
}

impl ProbeFlags {
    /// What the library wants to know.
    pub fn options<'o>(&'o self, limit: u64, stop: &'o AtomicBool) -> Options<'o> {
        Options {
            probe: self.probe.as_deref(),
            limit: Duration::from_secs(limit),
            stop,
            progress: stderr().is_terminal(),
        }
    }
}
