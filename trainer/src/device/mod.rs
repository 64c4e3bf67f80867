//! Chips and boards: what they are, how to compile for them, and how to run a model on them.
//!
//! | module | does |
//! |---|---|
//! | [`board`] | the boards that the firmware knows, from `firmware/boards/NAME/board.toml` |
//! | [`chips`] | every Cortex-M chip that probe-rs knows, for "which ones does it fit" |
//! | [`toolchain`] | finds a compiler for the chip |
//! | [`firmware`] | builds the firmware for a board |
//! | [`footprint`] | flash and RAM of a built firmware |
//! | [`slots`] | what lies in a board's slots for models |
//! | [`emulator`] | runs it in QEMU |
//! | [`cycles`] | estimates what that takes on a real core |
//! | [`probe`] | puts it on a real board, hears it and asks it questions |
//! | [`run`] | what a device answered |
//! | [`verify`] | compares that with this machine |
//! | [`log`] | decodes what it says |

pub mod board;
pub mod chips;
pub mod cycles;
pub mod emulator;
pub mod firmware;
pub mod footprint;
pub mod log;
pub mod probe;
pub mod run;
pub mod slots;
pub mod toolchain;
pub mod verify;

use shared::{Model, ParseError};

pub use board::Board;
pub use run::DeviceRun;

/// The firmware refused a model. It only says that: it has the same check as this program, whose words for the reason
/// would take a tenth of its flash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the firmware refuses the model: {}", why(.reason))]
pub struct RefusedModel {
    /// Why this program refuses it as well.
    pub reason: Option<ParseError>,
}

impl RefusedModel {
    /// Checks these bytes of a file as the firmware did.
    pub fn new(model: &[u8]) -> Self {
        let reason = Model::parse(model).err();
        Self { reason }
    }
}

fn why(reason: &Option<ParseError>) -> String {
    reason.map_or_else(
        || "it is of another version than this program, build it again".to_owned(),
        |reason| format!("{reason}; export it again with this version"),
    )
}
