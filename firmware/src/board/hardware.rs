//! Boards on the desk: logs by RTT, the report in RAM where the debug probe reads it. A halt tells the host that the
//! report is there.

use core::sync::atomic::{AtomicU8, Ordering};

use cortex_m::peripheral::DCB;
use defmt_rtt as _;
use shared::report::{Exit, Report};

use super::SYSTICK_HZ;

defmt::timestamp!(
    "{=u64:us}",
    crate::clock::now() * 1_000 / (SYSTICK_HZ / 1_000)
);

/// Exit code and report, by their names: see `shared::report`.
#[unsafe(export_name = "ESPALIER_EXIT")]
static EXIT: AtomicU8 = AtomicU8::new(Exit::RUNNING);
#[unsafe(export_name = "ESPALIER_REPORT")]
static REPORT: [AtomicU8; Report::MAX_BYTES] = [const { AtomicU8::new(0) }; Report::MAX_BYTES];

/// Nobody asks yet: the golden vectors are all that a board on the desk runs.
pub struct Requests(());

impl Requests {
    /// Nothing to open.
    pub fn open(_input_bytes: usize) -> Result<Self, Exit> {
        Ok(Self(()))
    }

    /// None.
    pub fn count(&self) -> usize {
        0
    }

    /// Never called.
    pub fn read(&self, _input: &mut [i8]) -> Result<(), Exit> {
        Err(Exit::HostFiles)
    }

    /// Never called.
    pub fn write(&self, _output: &[i8]) -> Result<(), Exit> {
        Err(Exit::HostFiles)
    }

    /// Nobody asks.
    pub fn wants_layers(&self) -> bool {
        false
    }

    /// Never called.
    pub fn write_layer(&self, _output: &[i8]) -> Result<(), Exit> {
        Err(Exit::HostFiles)
    }

    /// Never called.
    pub fn write_sure(&self, _sure: bool) -> Result<(), Exit> {
        Err(Exit::HostFiles)
    }
}

/// Leaves the report where the probe looks for it.
pub fn save(report: &Report) -> Result<(), Exit> {
    let mut bytes = [0; Report::MAX_BYTES];
    report.encode(&mut bytes);
    for (cell, byte) in REPORT.iter().zip(bytes) {
        cell.store(byte, Ordering::Relaxed);
    }
    Ok(())
}

/// Halts for the debug probe; without one, rests, unless it crashed: then the watchdog resets the board.
pub fn exit(exit: Exit) -> ! {
    EXIT.store(exit.code(), Ordering::SeqCst);
    defmt::flush();
    loop {
        if DCB::is_debugger_attached() {
            cortex_m::asm::bkpt();
        }
        if exit != Exit::Crashed {
            super::feed();
        }
    }
}
