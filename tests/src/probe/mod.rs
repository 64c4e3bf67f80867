//! A board without hardware, for everything above `espalier::device::probe::link`.
//!
//! | module | is |
//! |---|---|
//! | [`elf`] | the firmware's ELF: symbols, words of the log, bytes for flash |
//! | [`firmware`] | that firmware: a program that plays it step by step, in the target's memory |
//! | [`target`] | chip, flash and probe, with all that can go wrong with them |
//! | [`faults`] | each of those faults, and what the error has to say |
//! | [`gdb`] | another target: QEMU behind its GDB stub, for the real firmware |

pub mod elf;
pub mod faults;
pub mod firmware;
pub mod gdb;
pub mod target;
