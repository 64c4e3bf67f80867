//! Crashes: an exception that nothing expects ends the run. A line of log says where, and where the core keeps it, why.
//!
//! Nothing enables the exceptions for single kinds of fault, so that each of them comes as a hard fault.

use cortex_m_rt::{ExceptionFrame, exception};
use defmt::error;
use shared::report::Exit;

use super::exit;

// SAFETY: it touches nothing of what failed.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    error!("crashed at {=u32:#x}", frame.pc());
    say_why();
    exit(Exit::Crashed)
}

// SAFETY: it touches nothing of what failed.
#[exception]
unsafe fn DefaultHandler(number: i16) -> ! {
    error!("exception {=i16}, which nothing expects", number);
    exit(Exit::Crashed)
}

/// What kind of fault it was, and the address that could not be read or written, if it was that (Armv7-M Architecture
/// Reference Manual, B3.2.15, B3.2.17 and B3.2.18).
#[cfg(fault_status)]
fn say_why() {
    const BUS_ADDRESS_VALID: u32 = 1 << 15;
    const MEMORY_ADDRESS_VALID: u32 = 1 << 7;
    // SAFETY: the registers are there on this core, and reading them changes nothing.
    let registers = unsafe { &*cortex_m::peripheral::SCB::PTR };
    let status = registers.cfsr.read();
    error!("fault status {=u32:#x}", status);
    if status & BUS_ADDRESS_VALID != 0 {
        error!("address {=u32:#x}", registers.bfar.read());
    }
    if status & MEMORY_ADDRESS_VALID != 0 {
        error!("address {=u32:#x}", registers.mmfar.read());
    }
}

/// A Cortex-M0 or M0+ has no such registers.
#[cfg(not(fault_status))]
fn say_why() {}
