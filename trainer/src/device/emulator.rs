//! Runs the firmware in QEMU.
//!
//! One nanosecond of the emulated clock is one instruction (`-icount shift=0`), so SysTick counts instructions and every
//! run gives the same number. The firmware reads and writes files of a folder that lives as long as the run.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use shared::report::{Exit, Report};
use tempfile::TempDir;

use super::RefusedModel;
use super::board::{Board, BoardError};
use super::log::{Words, WordsError};
use super::run::DeviceRun;
use super::slots::Image;
use super::verify::Questions;

const QEMU: &str = "qemu-system-arm";

/// Why a run gave nothing, or nothing to trust.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// QEMU knows no such board.
    #[error(
        "{0} is a real board, not an emulated one: use `espalier flash`, or choose a board whose board.toml has an [emulator]"
    )]
    NotEmulated(&'static str),
    /// The board has no room for the model.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// QEMU is not there.
    #[error(
        "{QEMU} is not installed: `apt install --no-install-recommends qemu-system-arm` on Debian and Ubuntu, \
         `brew install qemu` on macOS, or from https://www.qemu.org/download"
    )]
    NotInstalled,
    /// A file could not be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The ELF has no log.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// It did not end in time.
    #[error(
        "the firmware was stopped after {limit:?}; a larger model needs a larger time limit. The end of its log:\n{log}"
    )]
    Timeout {
        /// The limit.
        limit: Duration,
        /// The end of its log.
        log: String,
    },
    /// The self-test failed.
    #[error(
        "{} of the model's {} golden vectors give other bytes on {board} than on the host",
        .run.report.self_test_failures, .run.report.self_tests
    )]
    SelfTest {
        /// The board.
        board: &'static str,
        /// The run, complete otherwise.
        run: Box<DeviceRun>,
    },
    /// The firmware refused the model.
    #[error(transparent)]
    Model(#[from] RefusedModel),
    /// The firmware refused something else.
    #[error("{} The end of its log:\n{log}", refusal(.exit))]
    Refused {
        /// Its exit code.
        exit: Exit,
        /// The end of its log.
        log: String,
    },
    /// QEMU itself failed, or the firmware met a fault that it could not report.
    #[error("the emulator ended with {status}{}; what it said:\n{stderr}\nThe end of the firmware's log:\n{log}", hint(.stderr))]
    Broken {
        /// How it ended.
        status: ExitStatus,
        /// The first of QEMU's own messages.
        stderr: String,
        /// The end of the firmware's log.
        log: String,
    },
    /// The firmware left no report, or one that this version does not read.
    #[error(
        "the firmware's report can not be read: the firmware is of another version, build it again"
    )]
    NoReport,
}

/// The stack is the first thing in RAM. What grows below it faults, and has no stack left to report that. Some of QEMU's
/// boards do not fault there but read zeroes, so that the firmware goes astray, even into a call of the host.
fn hint(stderr: &str) -> &'static str {
    if stderr.contains("Lockup") || stderr.contains("Unsupported SemiHosting") {
        "; this mostly means that `stack` in board.toml is too small"
    } else {
        ""
    }
}

fn refusal(exit: &Exit) -> &'static str {
    match exit {
        Exit::ModelRefused => "The firmware refuses the model.",
        Exit::ArenaTooSmall => {
            "The model's activations do not fit into the board's RAM: compress further, or choose a larger board."
        }
        Exit::WrongInputs => {
            "The inputs do not have the size of the model's input: preprocess them for this model."
        }
        Exit::HostFiles => {
            "The firmware can not use the run's files: is the temporary folder full?"
        }
        Exit::NoModel => "The firmware finds no model in either slot.",
        Exit::Success | Exit::SelfTestFailed | Exit::Crashed => "The firmware crashed.",
    }
}

/// Says whether there is an emulator.
pub fn find() -> Result<(), EmulatorError> {
    let mut qemu = Command::new(QEMU);
    qemu.arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match qemu.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EmulatorError::NotInstalled),
        Err(source) => Err(file_error(Path::new(QEMU), source)),
    }
}

/// Runs a model, the only one in flash, with the inputs, which lie one behind the other. Kills the emulator when the
/// limit is over.
pub fn run(
    board: &Board,
    elf: &Path,
    model: &[u8],
    inputs: &[i8],
    limit: Duration,
) -> Result<DeviceRun, EmulatorError> {
    answer(board, elf, model, Questions::of(inputs), limit)
}

/// As [`run`], with what every layer computes where that is asked for.
pub fn answer(
    board: &Board,
    elf: &Path,
    model: &[u8],
    questions: Questions,
    limit: Duration,
) -> Result<DeviceRun, EmulatorError> {
    answer_from(elf, &Image::with(board, model)?, questions, limit)
}

/// As [`answer`], with all that lies in the slots of a board.
pub fn answer_from(
    elf: &Path,
    image: &Image,
    questions: Questions,
    limit: Duration,
) -> Result<DeviceRun, EmulatorError> {
    let board = image.board();
    let words = Words::from_elf(&fs::read(elf).map_err(|source| file_error(elf, source))?)?;
    let folder = Folder::new()?;
    folder.write("slots.bin", image.bytes())?;
    folder.write("inputs.bin", bytemuck::cast_slice(questions.inputs))?;
    if questions.layers {
        folder.write("layers.bin", &[])?;
    }
    let ended = Emulator::start(board, elf, &folder)?.wait(limit);
    let log = words.decode(&folder.read("log.bin")?);
    match ended.map_err(|source| file_error(Path::new(QEMU), source))? {
        Some(status) => outcome(image, &folder, status, log),
        None => Err(EmulatorError::Timeout {
            limit,
            log: last(&log),
        }),
    }
}

/// Runs the model's self-test one instruction at a time, slowly: `each` gets the address of
/// every instruction and the name of the function that it belongs to.
pub fn trace(
    board: &Board,
    elf: &Path,
    model: &[u8],
    mut each: impl FnMut(u32, &str),
) -> Result<(), EmulatorError> {
    let folder = Folder::new()?;
    folder.write("slots.bin", Image::with(board, model)?.bytes())?;
    folder.write("inputs.bin", &[])?;
    let mut command = command_line(board, elf)?;
    command
        .args(["-singlestep", "-d", "exec,nochain"])
        .current_dir(folder.0.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut emulator = Emulator::spawn(command)?;
    let broken = |source| file_error(Path::new(QEMU), source);
    let mut lines = emulator.0.stderr.take().map(BufReader::new);
    let mut line = String::new();
    while let Some(lines) = &mut lines
        && lines.read_line(&mut line).map_err(broken)? > 0
    {
        if let Some((address, function)) = traced(&line) {
            each(address, function);
        }
        line.clear();
    }
    let status = emulator.0.wait().map_err(broken)?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if Exit::from_code(code) == Some(Exit::Success) => Ok(()),
        _ => Err(EmulatorError::Broken {
            status,
            stderr: String::new(),
            log: String::new(),
        }),
    }
}

/// Address and function of a line such as `Trace 0: 0x7f.. [00800400/00009bb2/..] main`.
fn traced(line: &str) -> Option<(u32, &str)> {
    let (_, rest) = line.strip_prefix("Trace ")?.split_once('[')?;
    let (places, function) = rest.split_once(']')?;
    let address = places.split('/').nth(1)?;
    Some((u32::from_str_radix(address, 16).ok()?, function.trim()))
}

fn outcome(
    image: &Image,
    folder: &Folder,
    status: ExitStatus,
    log: Vec<String>,
) -> Result<DeviceRun, EmulatorError> {
    let board = image.board();
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match code.and_then(Exit::from_code) {
        Some(Exit::Success) => collect(board, folder, log),
        Some(Exit::SelfTestFailed) => {
            let run = Box::new(collect(board, folder, log)?);
            Err(EmulatorError::SelfTest {
                board: board.name,
                run,
            })
        }
        Some(Exit::ModelRefused) => Err(image.refused().into()),
        Some(exit) => Err(EmulatorError::Refused {
            exit,
            log: last(&log),
        }),
        None => {
            let stderr = head(&String::from_utf8_lossy(&folder.read("stderr.txt")?), 4);
            Err(EmulatorError::Broken {
                status,
                stderr,
                log: last(&log),
            })
        }
    }
}

fn collect(board: &Board, folder: &Folder, log: Vec<String>) -> Result<DeviceRun, EmulatorError> {
    let report = Report::decode(&folder.read("report.bin")?).ok_or(EmulatorError::NoReport)?;
    let signed = |bytes: Vec<u8>| bytes.into_iter().map(|byte| byte as i8).collect();
    let layers = match folder.has("layers.bin") {
        true => folder.read("layers.bin")?,
        false => Vec::new(),
    };
    let sure = folder.read("sure.bin")?;
    Ok(DeviceRun {
        outputs: signed(folder.read("outputs.bin")?),
        sure: sure.into_iter().map(|byte| byte != 0).collect(),
        layers: signed(layers),
        log,
        ..DeviceRun::measured(board, report)
    })
}

/// The first lines of a text: QEMU says what is wrong, and then prints every register.
fn head(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().take(lines).collect();
    all.join("\n")
}

fn last(log: &[String]) -> String {
    log[log.len().saturating_sub(12)..].join("\n")
}

fn file_error(path: &Path, source: io::Error) -> EmulatorError {
    EmulatorError::File {
        path: path.display().to_string(),
        source,
    }
}

/// The files of one run.
struct Folder(TempDir);

impl Folder {
    fn new() -> Result<Self, EmulatorError> {
        tempfile::Builder::new()
            .prefix("espalier-")
            .tempdir()
            .map(Self)
            .map_err(|source| file_error(&std::env::temp_dir(), source))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), EmulatorError> {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).map_err(|source| file_error(&path, source))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, EmulatorError> {
        let path = self.0.path().join(name);
        fs::read(&path).map_err(|source| file_error(&path, source))
    }

    fn has(&self, name: &str) -> bool {
        self.0.path().join(name).is_file()
    }

    fn create(&self, name: &str) -> Result<File, EmulatorError> {
        let path = self.0.path().join(name);
        File::create(&path).map_err(|source| file_error(&path, source))
    }
}

/// A running QEMU; it does not outlive this value.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Emulator {
    fn start(board: &Board, elf: &Path, folder: &Folder) -> Result<Self, EmulatorError> {
        let mut command = command_line(board, elf)?;
        command.current_dir(folder.0.path()).stdin(Stdio::null());
        // Files, not pipes: nobody has to read them while it runs, and they are complete even after a kill.
        command
            .stdout(folder.create("log.bin")?)
            .stderr(folder.create("stderr.txt")?);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self, EmulatorError> {
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EmulatorError::NotInstalled)
            }
            Err(error) => Err(file_error(Path::new(QEMU), error)),
        }
    }

    /// How it ended, or nothing if it did not in time.
    fn wait(mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let status = self.0.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            sleep(Duration::from_millis(2));
        }
    }
}

fn command_line(board: &Board, elf: &Path) -> Result<Command, EmulatorError> {
    let machine = &board
        .emulator
        .as_ref()
        .ok_or(EmulatorError::NotEmulated(board.name))?
        .machine;
    let elf = std::path::absolute(elf).map_err(|source| file_error(elf, source))?;
    let mut command = Command::new(QEMU);
    command.args([
        "-machine", machine, "-display", "none", "-monitor", "none", "-serial", "null",
    ]);
    command.args(["-chardev", "stdio,id=log,signal=off"]);
    command.args(["-semihosting-config", "enable=on,target=native,chardev=log"]);
    command.args(["-icount", "shift=0"]);
    command.arg("-kernel").arg(elf);
    command.arg("-device").arg(format!(
        "loader,file=slots.bin,addr={:#x},force-raw=on",
        board.model.address
    ));
    Ok(command)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use shared::slots::Slot;

    use super::*;

    fn board() -> Board {
        Board::named("mps2-an386").unwrap()
    }

    fn report(failures: u16) -> Report {
        Report {
            slot: Slot::A,
            sequence: 1,
            fell_back: false,
            self_tests: 2,
            self_test_failures: failures,
            inferences: 1,
            ticks: 10,
            stack_bytes: 100,
            layer_ticks: [7, 3].into_iter().collect(),
        }
    }

    fn finished(failures: u16) -> Folder {
        let folder = Folder::new().unwrap();
        folder
            .write(
                "report.bin",
                report(failures).encode(&mut [0; Report::MAX_BYTES]),
            )
            .unwrap();
        folder.write("outputs.bin", &[1, 255]).unwrap();
        folder.write("sure.bin", &[1]).unwrap();
        folder.write("stderr.txt", b"qemu: nonsense").unwrap();
        folder
    }

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn ended_with(
        model: &[u8],
        folder: &Folder,
        status: ExitStatus,
        log: Vec<String>,
    ) -> Result<DeviceRun, EmulatorError> {
        outcome(&Image::with(&board(), model).unwrap(), folder, status, log)
    }

    #[test]
    fn the_command_line_counts_instructions_and_loads_the_model() {
        let command = command_line(&board(), Path::new("/a.elf")).unwrap();
        let line: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_str().unwrap())
            .collect();
        let line = line.join(" ");
        assert!(
            line.contains("-machine mps2-an386") && line.contains("-icount shift=0"),
            "{line}"
        );
        assert!(
            line.contains("loader,file=slots.bin,addr=0x40000,force-raw=on"),
            "{line}"
        );
    }

    #[test]
    fn a_traced_instruction_has_an_address_and_a_function() {
        let line = "Trace 0: 0x7f11f832ae00 [00800400/00009bb2/00000010/ff020201] conv2d\n";
        assert_eq!(traced(line), Some((0x9bb2, "conv2d")));
        assert_eq!(traced("qemu: nonsense"), None);
    }

    #[test]
    fn a_real_board_is_not_emulated() {
        let board = Board::named("nrf52840-dk").unwrap();
        let error = command_line(&board, Path::new("/a.elf")).unwrap_err();
        assert!(error.to_string().contains("espalier flash"), "{error}");
    }

    #[test]
    fn a_finished_run_is_collected() {
        let run = ended_with(&[], &finished(0), exit(0), vec![]).unwrap();
        assert_eq!(
            (&run.outputs, &run.report, run.work),
            (&vec![1, -1], &report(0), 400)
        );
        assert_eq!(run.work_by_layer(), [280, 120]);
    }

    #[test]
    fn a_failed_self_test_is_an_error_that_keeps_the_run() {
        let error = ended_with(&[], &finished(1), exit(10), vec![]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("1 of the model's 2 golden vectors"),
            "{error}"
        );
        assert!(matches!(error, EmulatorError::SelfTest { run, .. } if run.outputs == [1, -1]));
    }

    #[test]
    fn a_refusal_says_what_to_do_and_shows_the_log() {
        let log = vec!["ERROR it has too little".to_owned()];
        let message = ended_with(&[], &finished(0), exit(12), log)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("compress further") && message.contains("it has too little"),
            "{message}"
        );
    }

    #[test]
    fn a_refused_model_gets_the_words_that_this_program_has_for_it() {
        let message = ended_with(b"nothing", &finished(0), exit(11), vec![])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("it does not start with \"espalier\"")
                && message.contains("export it again"),
            "{message}"
        );
    }

    #[test]
    fn a_failure_of_qemu_is_told_from_one_of_the_firmware() {
        for status in [exit(1), ExitStatus::from_raw(6)] {
            let message = ended_with(&[], &finished(0), status, vec![])
                .unwrap_err()
                .to_string();
            assert!(message.contains("qemu: nonsense"), "{message}");
        }
    }

    #[test]
    fn a_stack_that_overflows_is_named() {
        let ends = [
            "qemu: fatal: Lockup: can't escalate\n\n",
            "qemu: Unsupported SemiHosting SWI 0xfffffffc\n",
        ];
        for end in ends {
            let folder = finished(0);
            let said = format!("{end}{}", "R00=0\n".repeat(40));
            folder.write("stderr.txt", said.as_bytes()).unwrap();
            let message = ended_with(&[], &folder, ExitStatus::from_raw(6), vec![])
                .unwrap_err()
                .to_string();
            assert!(message.contains("`stack` in board.toml"), "{message}");
        }
    }

    #[test]
    fn a_report_that_is_no_report_is_refused() {
        let folder = finished(0);
        folder.write("report.bin", &[]).unwrap();
        assert!(matches!(
            ended_with(&[], &folder, exit(0), vec![]),
            Err(EmulatorError::NoReport)
        ));
    }

    #[test]
    fn a_run_that_takes_too_long_is_killed() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let start = Instant::now();
        assert!(
            Emulator(child)
                .wait(Duration::from_millis(20))
                .unwrap()
                .is_none()
        );
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
