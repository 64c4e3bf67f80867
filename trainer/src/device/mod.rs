//! Chips and boards: what they are, how to compile for them, and how to run a model on them.
//!
//! | module | does |
//! |---|---|
//! | [`board`] | the boards that the firmware knows, from `firmware/boards/NAME/board.toml` |
//! | [`chips`] | every Cortex-M chip that probe-rs knows, for "which ones does it fit" |
//! | [`toolchain`] | finds a compiler for the chip |
//! | [`firmware`] | builds the firmware for a board |
//! | [`footprint`] | flash and RAM of a built firmware |
//! | [`emulator`] | runs it in QEMU |
//! | [`probe`] | puts it on a real board and listens |
//! | [`log`] | decodes what it says |

pub mod board;
pub mod chips;
pub mod emulator;
pub mod firmware;
pub mod footprint;
pub mod log;
pub mod probe;
pub mod toolchain;

pub use board::Board;
