//! Why a board did not do it, and what to do then.

use std::time::Duration;

use shared::ParseError;
use shared::report::Exit;
use shared::slots::InstallError;

use super::link::{LinkError, Registers};
use crate::device::RefusedModel;
use crate::device::board::BoardError;
use crate::device::chips::UnknownChip;
use crate::device::footprint::FootprintError;
use crate::device::log::WordsError;

/// Why the board did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The board only exists in the emulator.
    #[error(
        "{0} is an emulated board: use `espalier run`, or choose a board whose board.toml has a [probe]"
    )]
    NotReal(&'static str),
    /// The board has no room for the model.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The selector is none.
    #[error("--probe {0}: a probe is chosen by VID:PID or VID:PID:SERIAL, in hexadecimal")]
    Selector(String),
    /// No probe is connected, or none is the chosen one.
    #[error("no debug probe {}; {}", wanted(.chosen), connected_ones(.connected))]
    NoProbe {
        /// What `--probe` asked for.
        chosen: Option<String>,
        /// All that are connected.
        connected: Vec<String>,
    },
    /// More than one probe would do.
    #[error("more than one debug probe would do: choose one with --probe VID:PID:SERIAL\n{}", indented(.0))]
    ManyProbes(Vec<String>),
    /// The operating system does not let us.
    #[error(
        "the debug probe {0} may not be opened by this user: install the udev rules from https://probe.rs/docs/getting-started/probe-setup, then plug it in again"
    )]
    Denied(String),
    /// The probe does not open, or no chip answers behind it.
    #[error(
        "{board} does not answer ({reason}): check its power and the cable, and that no other program uses the probe"
    )]
    NoAnswer {
        /// The board.
        board: &'static str,
        /// What the probe says.
        reason: String,
    },
    /// probe-rs knows no chip of the name that board.toml has.
    #[error("firmware/boards/{board}/board.toml, probe.chip: {source}")]
    UnknownChip {
        /// The board.
        board: &'static str,
        /// With similar names.
        source: UnknownChip,
    },
    /// Another chip hangs on the probe.
    #[error(
        "the chip on the probe is {found} and {board} has {expected}: name the board that is connected with --board, or choose another probe with --probe"
    )]
    WrongChip {
        /// The board.
        board: &'static str,
        /// Its chip or core.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The chip keeps debuggers out, or out of its flash.
    #[error("{board} is locked ({reason}): its readback protection is on. {}", unlock(.chip))]
    Locked {
        /// The board.
        board: &'static str,
        /// Its chip.
        chip: String,
        /// What the probe says.
        reason: String,
    },
    /// The target was there and is gone.
    #[error("the connection to the board was lost ({0}): check cable and power, then start again")]
    Lost(LinkError),
    /// The target was gone while its flash was written.
    #[error(
        "the connection was lost while flash was written ({0}): {1} of {2} bytes are in it, and the board does not start like this. Check cable and power and flash again, which goes on with what is missing"
    )]
    HalfWritten(LinkError, u64, u64),
    /// The target was gone while the model was written.
    #[error(
        "the connection was lost while the model was written ({0}): the model from before, if there was one, still works. Check cable and power and flash again"
    )]
    ModelHalfWritten(LinkError),
    /// Flash does not take it.
    #[error(
        "flash at {address:#x} can not be written ({reason}): is it write-protected, or used by a bootloader?"
    )]
    Flash {
        /// Where.
        address: u64,
        /// What the probe says.
        reason: String,
    },
    /// Flash holds something else than was written.
    #[error(
        "flash at {0:#x} does not hold what was written: flash again, with a shorter cable or another power supply; if that does not help, it is worn out"
    )]
    Verify(u64),
    /// The firmware or the model lies where the chip has no flash.
    #[error(
        "there is no flash at {address:#x} of this chip: `[flash]` and `[model]` in firmware/boards/{board}/board.toml have to lie within it"
    )]
    NoFlash {
        /// The board.
        board: &'static str,
        /// Where.
        address: u64,
    },
    /// The firmware and the model's region meet.
    #[error(
        "the firmware ends at {firmware_end:#x} and shares erase sectors or bytes with the model's region from {model:#x} on: move `[model]` in firmware/boards/{board}/board.toml to a later sector"
    )]
    Overlap {
        /// The board.
        board: &'static str,
        /// Behind the firmware's last byte, or its last sector.
        firmware_end: u64,
        /// Start of the model's region.
        model: u64,
    },
    /// The slots of the region share a sector.
    #[error(
        "the two slots of the model's region share the erase sector at {sector:#x}: make `[model]` in firmware/boards/{board}/board.toml two equal stretches of whole sectors"
    )]
    SharedSector {
        /// The board.
        board: &'static str,
        /// That sector.
        sector: u64,
    },
    /// The firmware on the board is not the one that was built.
    #[error(
        "the firmware on {0} is not the one that is built here, so its log and its memory can not be read: `espalier flash` puts the right one there"
    )]
    OtherFirmware(&'static str),
    /// The firmware reads another format.
    #[error(
        "the firmware reads model files of version {firmware} and the model has version {model}: {}", version_hint(*.firmware, *.model)
    )]
    Version {
        /// What the firmware reads.
        firmware: u16,
        /// What the model is.
        model: u16,
    },
    /// The model is none.
    #[error("the model can not be read: {0}; export it again")]
    Parse(#[from] ParseError),
    /// The model would not work on the board.
    #[error("the model was not made the newest: {0}")]
    Install(InstallError<LinkError>),
    /// A file can not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The ELF has no log.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// The ELF is no firmware.
    #[error(transparent)]
    Elf(#[from] FootprintError),
    /// The log does not come.
    #[error(
        "the firmware has no log after {waited:?}: it does not start. It stands at {}; is `[ram]` in board.toml right, and does the board start from flash (boot pins)?", places(.registers)
    )]
    NoLog {
        /// How long.
        waited: Duration,
        /// Where it stands.
        registers: Registers,
    },
    /// The firmware began again.
    #[error(
        "the board was reset in the middle of it, or another program reads its log: check its power supply and reset pin, close other debuggers and start again{}", ending(.log)
    )]
    Restarted {
        /// The end of its log.
        log: Vec<String>,
    },
    /// The firmware did not end in time.
    #[error(
        "the firmware was not done after {limit:?} and stands at {}: give it more time with --limit, or look those addresses up with `addr2line -e` and its ELF{}", places(.registers), ending(.log)
    )]
    Hung {
        /// How long it had.
        limit: Duration,
        /// Where it stands.
        registers: Registers,
        /// The end of its log.
        log: Vec<String>,
    },
    /// Something halted the chip.
    #[error(
        "something else halted the chip at {}: is another debugger attached, or is the core locked up? Press reset and start again{}", places(.registers), ending(.log)
    )]
    Halted {
        /// Where it stands.
        registers: Registers,
        /// The end of its log.
        log: Vec<String>,
    },
    /// Nobody waited for it.
    #[error(
        "interrupted; the firmware on {0} runs on. `espalier monitor --board {0}` shows its log"
    )]
    Interrupted(&'static str),
    /// The firmware refused the model.
    #[error(transparent)]
    Model(#[from] RefusedModel),
    /// The firmware refused something else.
    #[error("the firmware stopped: {}{}", stopped(.exit), ending(.log))]
    Stopped {
        /// Why.
        exit: Exit,
        /// The end of its log.
        log: Vec<String>,
    },
    /// The firmware left no report that can be read.
    #[error(
        "the firmware's report can not be read: the firmware is of another version, build it again"
    )]
    NoReport,
    /// Inputs of another size.
    #[error("{bytes} bytes are no inputs of {width} bytes each: preprocess them for this model")]
    Inputs {
        /// Bytes of all.
        bytes: usize,
        /// Bytes of one.
        width: usize,
    },
    /// The firmware answers something else than was asked.
    #[error(
        "the firmware's answers make no sense ({0}): the firmware is of another version, build and flash it again"
    )]
    Answers(&'static str),
}

fn wanted(chosen: &Option<String>) -> String {
    chosen.as_ref().map_or_else(
        || "was found".to_owned(),
        |chosen| format!("is --probe {chosen}"),
    )
}

fn connected_ones(probes: &[String]) -> String {
    if probes.is_empty() {
        return "none is connected: check the cable (some only carry power), and on Linux the udev rules at \
                https://probe.rs/docs/getting-started/probe-setup"
            .to_owned();
    }
    format!("these are connected:\n{}", indented(probes))
}

fn indented(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn places(registers: &Registers) -> String {
    let Registers { pc, lr, sp } = registers;
    format!("pc {pc:#010x}, lr {lr:#010x}, sp {sp:#010x}")
}

fn ending(log: &[String]) -> String {
    match log {
        [] => ". It said nothing".to_owned(),
        log => format!(". The end of its log:\n{}", indented(log)),
    }
}

fn version_hint(firmware: u16, model: u16) -> &'static str {
    match firmware < model {
        true => "build this version's firmware and flash it again",
        false => "export the model again with this version",
    }
}

fn stopped(exit: &Exit) -> &'static str {
    match exit {
        Exit::ArenaTooSmall => {
            "the model's activations do not fit into the board's RAM; compress further, or choose a larger board"
        }
        Exit::NoModel => "no model lies in its slots; flash one",
        Exit::WrongInputs => {
            "the inputs do not have the size of its model's input; preprocess them for this model"
        }
        Exit::HostFiles => {
            "what the host asks makes no sense to it, it is of another version; build and flash it again"
        }
        Exit::Success | Exit::SelfTestFailed | Exit::ModelRefused | Exit::Crashed => {
            "it crashed; its log says where"
        }
    }
}

/// How the readback protection of a chip is taken off, which erases it.
fn unlock(chip: &str) -> String {
    let how = match chip.to_lowercase() {
        nordic if nordic.starts_with("nrf5") => {
            "it is APPROTECT, and `nrfjprog --recover` or `probe-rs erase --allow-erase-all` takes it off"
        }
        st if st.starts_with("stm32") => {
            "it is RDP; level 1 goes back to level 0 with STM32CubeProgrammer's option bytes, level 2 never does"
        }
        _ => "see \"readback protection\" in the chip's reference manual",
    };
    format!(
        "Nothing was erased. If nothing on it is to be kept, unlock it yourself: {how} ({chip}). That erases everything"
    )
}
