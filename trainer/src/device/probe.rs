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

use indicatif::ProgressBar;
use probe_rs::flashing::{
    DownloadOptions, ElfLoader, ElfOptions, FileDownloadError, FlashError, FlashProgress,
    ProgressEvent, ProgressOperation,
};
use probe_rs::probe::list::{Accessibility, Lister};
use probe_rs::probe::{DebugProbeError, DebugProbeSelector};
use probe_rs::rtt::{self, ChannelMode, Rtt, ScanRegion};
use probe_rs::{Core, MemoryInterface, Permissions, Session};
use shared::report::{Exit, Report};
use shared::slots::{Record, Slot};

use super::RefusedModel;
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
    /// The probe does not open.
    #[error("the debug probe does not open ({0}): does another program use it?")]
    Open(#[from] DebugProbeError),
    /// The chip does not answer, or stopped to.
    #[error(
        "the chip does not answer ({0}): check its power, the cable, and that it is the one that board.toml names"
    )]
    Chip(#[from] probe_rs::Error),
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
    #[error(
        "the firmware's log can not be read ({0}): did the firmware start? Press reset and try again"
    )]
    Log(#[from] rtt::Error),
    /// The firmware refused the model.
    #[error(transparent)]
    Model(#[from] RefusedModel),
    /// The firmware stopped before it was done.
    #[error("the firmware stopped: {0:?}; its log says why")]
    Stopped(Exit),
    /// The firmware did not end in time, or was not waited for.
    #[error("the firmware was not done {0}; its log shows how far it came")]
    NotDone(&'static str),
    /// The firmware left no report that can be read.
    #[error(
        "the firmware's report can not be read: the firmware is of another version, build it again"
    )]
    NoReport,
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
    let chip = &board
        .probe
        .as_ref()
        .ok_or(ProbeError::NotReal(board.name))?
        .chip;
    board.admit_file(model.len())?;
    let elf = fs::read(elf).map_err(|source| ProbeError::File {
        path: elf.display().to_string(),
        source,
    })?;
    let words = Words::from_elf(&elf)?;
    let places = Places::of_elf(&elf)?;
    let mut session = open(options.probe)?.attach(chip.as_str(), Permissions::new())?;
    write(&mut session, board, &elf, model, options.progress)?;
    let mut listener = Listener {
        places,
        decoder: words.decoder(),
        on_log,
    };
    match listener.listen(&mut session.core(0)?, options) {
        Err(ProbeError::Stopped(Exit::ModelRefused)) => Err(RefusedModel::new(model).into()),
        ended => ended,
    }
}

/// The descriptions of all connected probes.
pub fn connected() -> Vec<String> {
    Lister::new()
        .list_all()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn open(selector: Option<&str>) -> Result<probe_rs::probe::Probe, ProbeError> {
    let wanted = selector.map(|text| {
        DebugProbeSelector::from_str(text).map_err(|_| ProbeError::Selector(text.to_owned()))
    });
    let wanted = wanted.transpose()?;
    let probes = Lister::new().list_all_with_access();
    let fits = |index: usize| {
        wanted.as_ref().is_none_or(|wanted| {
            probes
                .get(index)
                .is_some_and(|probe| wanted.matches_probe(&probe.info))
        })
    };
    let names: Vec<String> = probes.iter().map(|probe| probe.info.to_string()).collect();
    let index = choose(&names, fits, selector)?;
    let probe = probes.get(index).ok_or_else(|| ProbeError::NoProbe {
        chosen: None,
        connected: names.clone(),
    })?;
    if probe.accessibility == Accessibility::PermissionDenied {
        return Err(ProbeError::Denied(probe.info.to_string()));
    }
    Ok(probe.info.open()?)
}

/// The index of the only one that fits.
fn choose(
    names: &[String],
    fits: impl Fn(usize) -> bool,
    chosen: Option<&str>,
) -> Result<usize, ProbeError> {
    let fitting: Vec<usize> = (0..names.len()).filter(|&index| fits(index)).collect();
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(ProbeError::NoProbe {
            chosen: chosen.map(str::to_owned),
            connected: names.to_vec(),
        }),
        _ => {
            let some = names
                .iter()
                .enumerate()
                .filter(|(index, _)| fitting.contains(index));
            Err(ProbeError::ManyProbes(
                some.map(|(_, name)| name.clone()).collect(),
            ))
        }
    }
}

/// Writes both to flash and compares what is there then.
fn write(
    session: &mut Session,
    board: &Board,
    elf: &[u8],
    model: &[u8],
    progress: bool,
) -> Result<(), ProbeError> {
    let mut loader = session.target().flash_loader();
    loader.load_image(
        session,
        &mut Cursor::new(elf),
        ElfLoader(ElfOptions::default()),
        None,
    )?;
    let record = board.slots().record(Slot::A).start as u64;
    let record = u64::from(board.model.address) + record;
    loader.add_data(board.model.address.into(), model)?;
    loader.add_data(record, &Record::of(model, 1).encode())?;
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
    let mut totals = [0; 4];
    let mut bar = ProgressBar::hidden();
    FlashProgress::new(move |event| match event {
        ProgressEvent::AddProgressBar { operation, total } => {
            totals[step(operation).0] += total.unwrap_or(0)
        }
        ProgressEvent::Started(operation) => {
            let (index, name) = step(operation);
            bar = ProgressBar::new(totals[index]).with_message(name);
        }
        ProgressEvent::Progress { size, .. } => bar.inc(size),
        ProgressEvent::Finished(_) => bar.finish(),
        ProgressEvent::Failed(_) => bar.abandon(),
        ProgressEvent::FlashLayoutReady { .. } => {}
        ProgressEvent::DiagnosticMessage { message } => {
            tracing::debug!("flash algorithm: {message}")
        }
    })
}

fn step(operation: ProgressOperation) -> (usize, &'static str) {
    match operation {
        ProgressOperation::Fill => (0, "read"),
        ProgressOperation::Erase => (1, "erase"),
        ProgressOperation::Program => (2, "write"),
        ProgressOperation::Verify => (3, "verify"),
    }
}

/// Where the firmware's variables for the host lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    log: u64,
    exit: u64,
    report: u64,
}

impl Places {
    fn of_elf(elf: &[u8]) -> Result<Self, FootprintError> {
        let file = object::File::parse(elf)?;
        let address = |name| symbol(&file, name).map(|symbol| symbol.address);
        Ok(Self {
            log: address("_SEGGER_RTT")?,
            exit: address("ESPALIER_EXIT")?,
            report: address("ESPALIER_REPORT")?,
        })
    }
}

/// Hears a running firmware.
struct Listener<'w, 'f> {
    places: Places,
    decoder: Decoder<'w>,
    on_log: &'f mut dyn FnMut(&str),
}

impl Listener<'_, '_> {
    /// Starts the firmware. A log from before the reset must not be taken for the new one.
    fn start(&self, core: &mut Core, limit: Duration) -> Result<Rtt, ProbeError> {
        let region = ScanRegion::Exact(self.places.log);
        core.reset_and_halt(Duration::from_secs(1))?;
        Rtt::clear_control_block(core, &region)?;
        core.run()?;
        let mut log = rtt::try_attach_to_rtt(core, limit.min(Duration::from_secs(5)), &region)?;
        if let Some(channel) = log.up_channel(0) {
            channel.set_mode(core, ChannelMode::BlockIfFull)?;
        }
        Ok(log)
    }

    /// Listens until the firmware halts, which it does when its report is there.
    fn listen(&mut self, core: &mut Core, options: &Flash) -> Result<Report, ProbeError> {
        let end = Instant::now() + options.limit;
        let mut log = self.start(core, options.limit)?;
        loop {
            let halted = core.status()?.is_halted();
            self.hear(core, &mut log)?;
            if halted {
                return self.report(core);
            }
            if options.stop.load(Ordering::Relaxed) {
                return Err(ProbeError::NotDone("when it was interrupted"));
            }
            if Instant::now() >= end {
                return Err(ProbeError::NotDone("when the time limit was over"));
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn hear(&mut self, core: &mut Core, log: &mut Rtt) -> Result<(), ProbeError> {
        let mut buffer = [0; 1024];
        let Some(channel) = log.up_channel(0) else {
            return Ok(());
        };
        loop {
            let count = channel.read(core, &mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.decoder
                .lines(buffer.get(..count).unwrap_or_default())
                .iter()
                .for_each(|line| (self.on_log)(line));
        }
    }

    fn report(&self, core: &mut Core) -> Result<Report, ProbeError> {
        let exit = core.read_word_8(self.places.exit)?;
        let mut bytes = [0; Report::MAX_BYTES];
        core.read_8(self.places.report, &mut bytes)?;
        verdict(exit, &bytes)
    }
}

/// What the firmware's exit code and report come to.
fn verdict(exit: u8, report: &[u8]) -> Result<Report, ProbeError> {
    match Exit::from_code(exit) {
        Some(Exit::Success | Exit::SelfTestFailed) => {
            Report::decode(report).ok_or(ProbeError::NoReport)
        }
        Some(exit) => Err(ProbeError::Stopped(exit)),
        None => Err(ProbeError::NotDone("when something else halted the chip")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["J-Link -- 1366:1015:1", "DAPLink -- 0d28:0204:2"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn the_only_probe_that_fits_is_taken() {
        assert_eq!(choose(&names()[..1], |_| true, None).unwrap(), 0);
        assert_eq!(
            choose(&names(), |index| index == 1, Some("0d28:0204")).unwrap(),
            1
        );
    }

    #[test]
    fn without_a_probe_the_hint_is_about_cables_and_permissions() {
        let message = choose(&[], |_| true, None).unwrap_err().to_string();
        assert!(
            message.contains("cable") && message.contains("udev"),
            "{message}"
        );
    }

    #[test]
    fn a_probe_that_is_not_there_lists_those_that_are() {
        let message = choose(&names(), |_| false, Some("dead:beef"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--probe dead:beef") && message.contains("0d28:0204:2"),
            "{message}"
        );
    }

    #[test]
    fn of_several_probes_one_must_be_chosen() {
        let message = choose(&names(), |_| true, None).unwrap_err().to_string();
        assert!(
            message.contains("1366:1015:1") && message.contains("0d28:0204:2"),
            "{message}"
        );
    }

    #[test]
    fn a_wrong_selector_says_how_a_right_one_looks() {
        let message = open(Some("the green one")).err().unwrap().to_string();
        assert!(message.contains("VID:PID"), "{message}");
    }

    #[test]
    fn an_emulated_board_is_not_flashed() {
        let board = Board::named("mps2-an386").unwrap();
        let stop = AtomicBool::new(false);
        let options = Flash {
            probe: None,
            limit: Duration::ZERO,
            stop: &stop,
            progress: false,
        };
        let error = flash(&board, Path::new("none.elf"), &[], &options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("espalier run"), "{error}");
    }

    #[test]
    fn the_verdict_is_a_report_or_a_reason() {
        let report = Report {
            slot: Slot::A,
            sequence: 1,
            fell_back: false,
            self_tests: 3,
            self_test_failures: 1,
            inferences: 0,
            ticks: 9,
            layer_ticks: [1, 2].into_iter().collect(),
            stack_bytes: 8,
        };
        let mut bytes = [0; Report::MAX_BYTES];
        report.encode(&mut bytes);
        assert_eq!(
            verdict(Exit::SelfTestFailed.code(), &bytes).unwrap(),
            report
        );
        assert!(matches!(
            verdict(Exit::Crashed.code(), &bytes),
            Err(ProbeError::Stopped(Exit::Crashed))
        ));
        assert!(matches!(
            verdict(Exit::RUNNING, &bytes),
            Err(ProbeError::NotDone(_))
        ));
        assert!(matches!(
            verdict(Exit::Success.code(), &[]),
            Err(ProbeError::NoReport)
        ));
    }
}
