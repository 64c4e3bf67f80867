//! Puts the firmware and a model on a real board through a debug probe, and listens until the firmware is done.
//!
//! What lies above the probe is tested; the way through a probe itself has not been tried on hardware.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use probe_rs::flashing::{
    DownloadOptions, ElfLoader, ElfOptions, FileDownloadError, FlashError, FlashProgress, ProgressEvent, ProgressOperation,
};
use probe_rs::probe::list::{Accessibility, Lister};
use probe_rs::probe::{DebugProbeError, DebugProbeSelector};
use probe_rs::rtt::{self, Rtt, ScanRegion};
use probe_rs::{Core, MemoryInterface, Permissions, Session};
use shared::report::{Exit, Report};

use super::board::{Board, BoardError};
use super::footprint::{FootprintError, symbol};
use super::log::{Decoder, Words, WordsError};

/// How to flash and how long to listen.
#[derive(Debug)]
pub struct Flash<'o> {
    /// Which probe: `VID:PID` or `VID:PID:SERIAL`. Not needed if there is only one.
    pub probe: Option<&'o str>,
    /// How long to listen.
    pub limit: Duration,
    /// Set from elsewhere, it ends the listening.
    pub stop: &'o AtomicBool,
    /// Whether to show progress on standard error.
    pub progress: bool,
}

/// Why the board did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The board only exists in the emulator.
    #[error("{0} is an emulated board: use `espalier run`, or choose a board whose board.toml has a [probe]")]
    NotReal(&'static str),
    /// The board has no room for the model.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The selector is none.
    #[error("--probe {0}: a probe is chosen by VID:PID or VID:PID:SERIAL, in hexadecimal")]
    Selector(String),
    /// No probe is connected, or none is the chosen one.
    #[error("no debug probe {}; {}", .chosen.as_deref().map_or("was found".to_owned(), |chosen| format!("matches --probe {chosen}")), seen(.seen))]
    NoProbe {
        /// What `--probe` asked for.
        chosen: Option<String>,
        /// All that are connected.
        seen: Vec<String>,
    },
    /// More than one probe would do.
    #[error("more than one debug probe would do: choose one with --probe VID:PID:SERIAL\n{}", indented(.0))]
    ManyProbes(Vec<String>),
    /// The operating system does not let us.
    #[error(
        "the debug probe {0} may not be opened by this user: install the udev rules from https://probe.rs/docs/getting-started/probe-setup, then plug it in again"
    )]
    Denied(String),
    /// The probe does not open.
    #[error("the debug probe does not open ({0}): does another program use it?")]
    Open(#[from] DebugProbeError),
    /// The chip does not answer, or stopped to.
    #[error("the chip does not answer ({0}): check its power, the cable, and that it is a {1}")]
    Chip(#[source] Box<probe_rs::Error>, String),
    /// The ELF does not go into flash.
    #[error("the firmware can not be flashed: {0}")]
    Firmware(#[from] FileDownloadError),
    /// Flash does not take it.
    #[error("flashing failed: {0}")]
    Flash(#[from] FlashError),
    /// The ELF can not be read.
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
    #[error("the firmware's log can not be read ({0}): did the firmware start? Press reset and try again")]
    Log(#[from] rtt::Error),
    /// The firmware stopped before it was done.
    #[error("the firmware stopped: {0:?}; its log says why")]
    Stopped(Exit),
    /// The firmware did not end in time, or was not waited for.
    #[error("the firmware was not done {0}; its log shows how far it came")]
    NotDone(&'static str),
    /// The firmware left no report that can be read.
    #[error("the firmware's report can not be read: the firmware is of another version, build it again")]
    NoReport,
}

fn seen(probes: &[String]) -> String {
    if probes.is_empty() {
        return "none is connected: check the cable (some only carry power), and on Linux the udev rules at \
                https://probe.rs/docs/getting-started/probe-setup"
            .to_owned();
    }
    format!("these are connected:\n{}", indented(probes))
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Flashes the firmware and the model, starts it, hands over each line of its log, and gives its report.
///
/// A report with failed self-tests is a report: look at `self_test_failures`.
pub fn flash(
    board: &Board,
    elf: &Path,
    model: &[u8],
    options: &Flash,
    on_log: &mut dyn FnMut(&str),
) -> Result<Report, ProbeError> {
    let chip = &board.probe.as_ref().ok_or(ProbeError::NotReal(board.name))?.chip;
    board.admit_file(model.len())?;
    let elf = fs::read(elf).map_err(|source| ProbeError::File { path: elf.display().to_string(), source })?;
    let words = Words::from_elf(&elf)?;
    let places = Places::of_elf(&elf)?;
    let unanswered = |error| ProbeError::Chip(Box::new(error), chip.clone());

    let mut session = open(options.probe)?.attach(chip.as_str(), Permissions::new()).map_err(unanswered)?;
    write(&mut session, board, &elf, model, options.progress)?;
    let mut core = session.core(0).map_err(unanswered)?;
    core.reset().map_err(unanswered)?;
    let mut listener = Listener { places, decoder: words.decoder(), on_log };
    listener.listen(&mut core, options, &unanswered)
}

/// The descriptions of all connected probes.
pub fn connected() -> Vec<String> {
    Lister::new().list_all().iter().map(ToString::to_string).collect()
}

fn open(selector: Option<&str>) -> Result<probe_rs::probe::Probe, ProbeError> {
    let wanted = selector.map(|text| DebugProbeSelector::from_str(text).map_err(|_| ProbeError::Selector(text.to_owned())));
    let wanted = wanted.transpose()?;
    let probes = Lister::new().list_all_with_access();
    let fits = |index: usize| {
        wanted.as_ref().is_none_or(|wanted| probes.get(index).is_some_and(|probe| wanted.matches_probe(&probe.info)))
    };
    let names: Vec<String> = probes.iter().map(|probe| probe.info.to_string()).collect();
    let index = choose(&names, fits, selector)?;
    let probe = probes.get(index).ok_or_else(|| ProbeError::NoProbe { chosen: None, seen: names.clone() })?;
    if probe.accessibility == Accessibility::PermissionDenied {
        return Err(ProbeError::Denied(probe.info.to_string()));
    }
    Ok(probe.info.open()?)
}

/// The index of the only one that fits.
fn choose(names: &[String], fits: impl Fn(usize) -> bool, chosen: Option<&str>) -> Result<usize, ProbeError> {
    let fitting: Vec<usize> = (0..names.len()).filter(|&index| fits(index)).collect();
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(ProbeError::NoProbe { chosen: chosen.map(str::to_owned), seen: names.to_vec() }),
        _ => {
            let some = names.iter().enumerate().filter(|(index, _)| fitting.contains(index));
            Err(ProbeError::ManyProbes(some.map(|(_, name)| name.clone()).collect()))
        }
    }
}

/// Writes both to flash and compares what is there then.
fn write(session: &mut Session, board: &Board, elf: &[u8], model: &[u8], progress: bool) -> Result<(), ProbeError> {
    let mut loader = session.target().flash_loader();
    loader.load_image(session, &mut Cursor::new(elf), ElfLoader(ElfOptions::default()), None)?;
    loader.add_data(board.model.address.into(), model)?;
    let mut options = DownloadOptions::new();
    options.verify = true;
    if progress {
        options.progress = bars();
    }
    loader.commit(session, options)?;
    Ok(())
}

/// One bar for each step.
fn bars() -> FlashProgress<'static> {
    let mut bar = ProgressBar::hidden();
    FlashProgress::new(move |event| match event {
        ProgressEvent::AddProgressBar { .. } => {}
        ProgressEvent::Started(operation) => bar = ProgressBar::new(0).with_style(style()).with_message(word(operation)),
        ProgressEvent::Progress { size, .. } => {
            bar.inc_length(size);
            bar.inc(size);
        }
        ProgressEvent::Finished(_) => bar.finish(),
        ProgressEvent::Failed(_) => bar.abandon(),
        _ => {}
    })
}
