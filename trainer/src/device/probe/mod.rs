//! Real boards: puts firmware and model on one through a debug probe, hears it, and asks it questions.
//!
//! | module | does |
//! |---|---|
//! | [`link`] | what we need of a probe and a target, as traits |
//! | [`hardware`] | those traits over probe-rs |
//! | `attach` | which probe, and whether the chip is the board's |
//! | `program` | what an ELF puts where |
//! | `write` | flash: only what changed, read back; the model into the slot that is not in use |
//! | `rtt` | rings of bytes in the target's RAM |
//! | `listen` | from the start of a firmware to its report, or to what is wrong |
//! | `exchange` | inputs to the firmware, answers back |
//!
//! All of it above [`hardware`] is tested, with a target that is a program and with the firmware in QEMU behind its GDB
//! stub. The way through a probe has not been tried on hardware.

mod attach;
mod error;
mod exchange;
pub mod hardware;
pub mod link;
mod listen;
mod program;
mod rtt;
mod write;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shared::Model;
use shared::model::VERSION;
use shared::report::{Exit, Report};

use self::attach::attach;
use self::exchange::Exchange;
use self::link::{Link, Probes};
use self::listen::{Listener, Patience};
use self::program::Program;
use super::board::Board;
use super::verify::Questions;
use super::{DeviceRun, RefusedModel};

pub use self::error::ProbeError;
pub use self::hardware::Usb;
pub use self::write::Flashed;

/// How to reach a board and how long to listen.
#[derive(Clone, Copy, Debug)]
pub struct Options<'o> {
    /// Which probe: `VID:PID` or `VID:PID:SERIAL`. Not needed if there is only one.
    pub probe: Option<&'o str>,
    /// How long to listen.
    pub limit: Duration,
    /// Set from elsewhere, it ends the listening.
    pub stop: &'o AtomicBool,
    /// Whether to show progress on standard error.
    pub progress: bool,
}

impl<'o> Options<'o> {
    fn patience(&self, board: &Board) -> Patience<'o> {
        Patience {
            limit: self.limit,
            stop: self.stop,
            board: board.name,
        }
    }
}

/// Puts the firmware and the model on a board, starts it, hands over each line of its log, and gives its report.
///
/// A report with failed self-tests is a report: look at `self_test_failures`.
pub fn flash(
    probes: &dyn Probes,
    board: &Board,
    elf: &Path,
    model: &[u8],
    options: &Options,
    on_log: &mut dyn FnMut(&str),
) -> Result<(Flashed, Report), ProbeError> {
    let (program, _) = program(board, elf, model)?;
    let mut link = attach(probes, options.probe, board)?;
    let flashed = write(&mut *link, board, &program, model, options.progress)?;
    let mut listener = Listener::start(&mut *link, &program, false, options.limit, on_log)?;
    let report = listener.report(options.patience(board), None);
    listener.leave();
    Ok((flashed, report.map_err(|error| explain(error, model))?))
}

/// As [`flash`], and has the board answer questions.
pub fn answer(
    probes: &dyn Probes,
    board: &Board,
    elf: &Path,
    model: &[u8],
    questions: Questions,
    options: &Options,
    on_log: &mut dyn FnMut(&str),
) -> Result<DeviceRun, ProbeError> {
    let (program, parsed) = program(board, elf, model)?;
    let (bytes, width) = (questions.inputs.len(), parsed.input_shape().len());
    if !bytes.is_multiple_of(width) {
        return Err(ProbeError::Inputs { bytes, width });
    }
    let mut link = attach(probes, options.probe, board)?;
    write(&mut *link, board, &program, model, options.progress)?;
    let mut exchange = Exchange::new(questions, width, parsed.output_shape().len());
    let mut log = Vec::new();
    let mut hear = |line: &str| {
        log.push(line.to_owned());
        on_log(line);
    };
    let mut listener = Listener::start(&mut *link, &program, true, options.limit, &mut hear)?;
    let report = listener.report(options.patience(board), Some(&mut exchange));
    listener.leave();
    if report.is_err() {
        // It may wait for inputs that nobody sends any more. A board that is gone can not be told.
        let _ = listen::restart_alone(&mut *link, &program);
    }
    let report = report.map_err(|error| explain(error, model))?;
    let answers = exchange.answers;
    Ok(DeviceRun {
        outputs: answers.outputs,
        sure: answers.sure,
        layers: answers.layers,
        log,
        ..DeviceRun::measured(board, report)
    })
}

/// Shows the log of the firmware on a board until `stop` is set; changes nothing on it, and resets it only if asked to.
pub fn monitor(
    probes: &dyn Probes,
    board: &Board,
    elf: &Path,
    reset: bool,
    options: &Options,
    on_log: &mut dyn FnMut(&str),
) -> Result<(), ProbeError> {
    let mut link = attach(probes, options.probe, board)?;
    let program = read(elf)?;
    if !write::holds(&mut *link, board, &program)? {
        return Err(ProbeError::OtherFirmware(board.name));
    }
    let mut listener = match reset {
        true => Listener::start(&mut *link, &program, false, options.limit, on_log)?,
        false => Listener::join(&mut *link, &program, on_log)?,
    };
    let ended = listener.monitor(options.stop);
    listener.leave();
    ended
}

/// The descriptions of all connected probes.
pub fn connected() -> Vec<String> {
    Usb.list().into_iter().map(|probe| probe.name).collect()
}

fn read(elf: &Path) -> Result<Program, ProbeError> {
    let bytes = fs::read(elf).map_err(|source| ProbeError::File {
        path: elf.display().to_string(),
        source,
    })?;
    Program::of_elf(&bytes)
}

/// The firmware and the model, if they and the board go together.
fn program<'m>(
    board: &Board,
    elf: &Path,
    model: &'m [u8],
) -> Result<(Program, Model<'m>), ProbeError> {
    if board.probe.is_none() {
        return Err(ProbeError::NotReal(board.name));
    }
    let parsed = Model::parse(model)?;
    board.admit(model.len(), parsed.arena_bytes())?;
    let program = read(elf)?;
    // What parses here has this program's version.
    match program.format {
        VERSION => Ok((program, parsed)),
        firmware => Err(ProbeError::Version {
            firmware,
            model: VERSION,
        }),
    }
}

fn write(
    link: &mut dyn Link,
    board: &Board,
    program: &Program,
    model: &[u8],
    progress: bool,
) -> Result<Flashed, ProbeError> {
    write::check_layout(link, board, program)?;
    // What runs from flash must not run while that changes.
    link.reset_and_halt().map_err(ProbeError::Lost)?;
    let (firmware_written, firmware_kept) = write::write_firmware(link, board, program, progress)?;
    let (slot, model_written) = write::write_model(link, board, model)?;
    Ok(Flashed {
        firmware_written,
        firmware_kept,
        slot: slot.name(),
        model_written,
    })
}

/// The firmware says of a model only that it refuses it; this program has the words.
fn explain(error: ProbeError, model: &[u8]) -> ProbeError {
    match error {
        ProbeError::Stopped {
            exit: Exit::ModelRefused,
            ..
        } => RefusedModel::new(model).into(),
        other => other,
    }
}
