//! Flashing, asking and hearing a board: with a target that is a program, and with the firmware of a real board in QEMU
//! behind its GDB stub. Nothing here was tried on hardware.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use espalier::device::probe::{self, Flashed, Options, ProbeError};
use espalier::device::verify::{Questions, verify};
use espalier::device::{Board, DeviceRun, firmware};
use espalier_tests::command::can_emulate;
use espalier_tests::models;
use espalier_tests::probe::firmware::{ASKED, Bug, RTT};
use espalier_tests::probe::gdb::{Machine, Trick};
use espalier_tests::probe::target::{Desk, Wrong};
use espalier_tests::probe::{elf, faults};
use shared::Model;
use shared::model::VERSION;
use shared::slots::{self, Slot};
use tempfile::TempDir;

/// A board with one target, and a firmware for it.
struct Bench {
    board: Board,
    desk: Desk,
    folder: TempDir,
    stop: AtomicBool,
}

impl Bench {
    fn new(wrong: Wrong) -> Self {
        let board = Board::named("nrf52840-dk").unwrap();
        Self {
            desk: Desk::new(&board, wrong),
            board,
            folder: tempfile::tempdir().unwrap(),
            stop: AtomicBool::new(false),
        }
    }

    fn with_bug(bug: Bug) -> Self {
        Self::new(Wrong {
            bug: Some(bug),
            ..Wrong::default()
        })
    }

    /// An ELF whose image is like any other but for the bytes behind 8,192.
    fn elf(&self, bytes: usize, salt: u8) -> PathBuf {
        let path = self.folder.path().join("firmware.elf");
        std::fs::write(&path, elf::build(bytes, salt, VERSION)).unwrap();
        path
    }

    fn options(&self) -> Options<'_> {
        Options {
            probe: None,
            limit: Duration::from_secs(20),
            stop: &self.stop,
            progress: false,
        }
    }

    fn flash(&self, elf: &std::path::Path, model: &[u8]) -> Result<Flashed, ProbeError> {
        let hear = &mut |_: &str| {};
        probe::flash(&self.desk, &self.board, elf, model, &self.options(), hear).map(|it| it.0)
    }

    fn answer(&self, model: &[u8], questions: Questions) -> Result<DeviceRun, ProbeError> {
        let (elf, hear) = (self.elf(10_000, 0), &mut |_: &str| {});
        probe::answer(
            &self.desk,
            &self.board,
            &elf,
            model,
            questions,
            &self.options(),
            hear,
        )
    }

    fn operations(&self) -> usize {
        self.desk.target.borrow().flash_operations
    }

    /// The model that the firmware would start with.
    fn stored(&self) -> (Slot, Vec<u8>) {
        let target = self.desk.target.borrow();
        let at = self.board.model.address as usize;
        let region = &target.flash()[at..at + self.board.model.bytes as usize];
        let [Some(newest), _] = slots::stored(region) else {
            unreachable!("a slot with a record")
        };
        assert!(newest.parse().is_ok());
        (newest.slot, newest.file.to_vec())
    }
}

fn inputs(model: &Model, count: usize) -> Vec<i8> {
    let mut inputs = vec![0; count * model.input_shape().len()];
    shared::golden::fill(9, 1, &mut inputs);
    inputs
}

#[test]
fn every_fault_ends_in_an_error_that_says_what_to_do() {
    let tried = faults::try_all();
    assert!(tried.missed.is_empty(), "{}", tried.missed.join("\n\n"));
    assert_eq!(tried.handled(), tried.tried);
}

#[test]
fn only_what_changed_is_written() {
    let bench = Bench::new(Wrong::default());
    let model = models::every_kind().to_bytes().unwrap();
    let first = bench.flash(&bench.elf(10_000, 0), &model).unwrap();
    assert_eq!((first.firmware_written, first.firmware_kept), (0x3000, 0));
    assert_eq!((first.slot, first.model_written), ("A", true));
    let written = bench.operations();

    let again = bench.flash(&bench.elf(10_000, 0), &model).unwrap();
    assert_eq!((again.firmware_written, again.firmware_kept), (0, 0x3000));
    assert_eq!((again.slot, again.model_written), ("A", false));
    assert_eq!(bench.operations(), written);

    // Longer by a sector: the first three are as they were, but for what lay behind the end in the third.
    let longer = bench.flash(&bench.elf(0x3001, 0), &model).unwrap();
    assert_eq!(
        (longer.firmware_written, longer.firmware_kept),
        (0x2000, 0x2000)
    );
    assert!(!longer.model_written);
}

#[test]
fn a_new_model_goes_to_the_other_slot_and_leaves_the_firmware_alone() {
    let bench = Bench::new(Wrong::default());
    let elf = bench.elf(10_000, 0);
    let (old, new) = (models::every_kind(), models::convolutions(3));
    let (old, new) = (old.to_bytes().unwrap(), new.to_bytes().unwrap());
    bench.flash(&elf, &old).unwrap();
    let flashed = bench.flash(&elf, &new).unwrap();
    assert_eq!((flashed.firmware_written, flashed.slot), (0, "B"));
    assert_eq!(bench.stored(), (Slot::B, new.clone()));
    bench.flash(&elf, &old).unwrap();
    assert_eq!(bench.stored(), (Slot::A, old));
}

#[test]
fn a_cable_pulled_at_any_operation_leaves_a_model_that_works() {
    let (old, new) = (models::every_kind(), models::convolutions(3));
    let (old, new) = (old.to_bytes().unwrap(), new.to_bytes().unwrap());
    let mut points = 0;
    loop {
        let bench = Bench::new(Wrong::default());
        let elf = bench.elf(10_000, 0);
        bench.flash(&elf, &old).unwrap();
        let pulled = bench.operations() + points;
        bench.desk.target.borrow_mut().wrong.pulled_at_flash = Some(pulled);
        match bench.flash(&elf, &new) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, ProbeError::ModelHalfWritten(_)), "{error}"),
        }
        assert_eq!(bench.stored(), (Slot::A, old.clone()));
        bench.desk.target.borrow_mut().wrong.pulled_at_flash = None;
        bench.flash(&elf, &new).unwrap();
        assert_eq!(bench.stored().1, new);
        points += 1;
    }
    assert_eq!(points, 4, "two erases, the model, the record");
}

#[test]
fn a_board_answers_what_this_machine_answers() {
    for seed in 0..8 {
        let bytes = models::random(seed, 6).to_bytes().unwrap();
        let model = Model::parse(&bytes).unwrap();
        let bench = Bench::new(Wrong::default());
        let inputs = inputs(&model, 5);
        for layers in [false, true] {
            let ask = |questions: Questions| bench.answer(&bytes, questions);
            let verified = verify(&model, &inputs, layers, ask).unwrap();
            assert_eq!(verified.outputs.mismatched_bytes, 0, "seed {seed}");
            assert_eq!(verified.outputs.mismatched_decisions, 0, "seed {seed}");
            assert_eq!(verified.parting, None, "seed {seed}");
            assert_eq!(verified.layer_bytes > 0, layers, "seed {seed}");
            assert_eq!(verified.run.report.inferences, 5);
            assert_eq!(verified.run.log.last().unwrap(), "info answered");
        }
    }
}

#[test]
fn a_board_that_computes_a_layer_wrong_is_told_which() {
    let bench = Bench::with_bug(Bug::WrongLayer(11));
    let bytes = models::every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let inputs = inputs(&model, 2);
    let ask = |questions: Questions| bench.answer(&bytes, questions);
    let verified = verify(&model, &inputs, false, ask).unwrap();
    assert_eq!(verified.outputs.first_mismatch, Some((0, 0)));
    let parting = verified.parting.unwrap();
    assert_eq!(
        (parting.inference, parting.layer, parting.element),
        (0, 11, [0, 0, 0])
    );
}

#[test]
fn ctrl_c_leaves_the_firmware_running_and_says_so() {
    let bench = Bench::with_bug(Bug::Hangs);
    let model = models::documented().to_bytes().unwrap();
    bench.stop.store(true, Ordering::Relaxed);
    let error = bench.flash(&bench.elf(10_000, 0), &model).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("runs on") && error.contains("espalier monitor --board nrf52840-dk"),
        "{error}"
    );
    let target = bench.desk.target.borrow();
    assert!(target.is_running());
    // A log that nobody reads does not stop it.
    assert_eq!(target.ram().word(RTT + 24 + 20), 0);
}

#[test]
fn an_interrupted_question_leaves_a_firmware_that_waits_for_nobody() {
    let bench = Bench::with_bug(Bug::Hangs);
    let model = models::documented().to_bytes().unwrap();
    bench.stop.store(true, Ordering::Relaxed);
    let questions = Questions {
        inputs: &[0; 5],
        layers: false,
    };
    let error = bench.answer(&model, questions).unwrap_err();
    assert!(matches!(error, ProbeError::Interrupted(_)), "{error}");
    let target = bench.desk.target.borrow();
    assert!(target.is_running());
    assert_eq!(target.ram().word(ASKED), 0);
}

#[test]
fn a_monitor_hears_what_runs_and_changes_nothing() {
    let bench = Bench::with_bug(Bug::Hangs);
    let model = models::documented().to_bytes().unwrap();
    let elf = bench.elf(10_000, 0);
    bench.stop.store(true, Ordering::Relaxed);
    bench.flash(&elf, &model).unwrap_err();
    bench.stop.store(false, Ordering::Relaxed);
    for reset in [false, true] {
        let operations = bench.operations();
        bench.desk.target.borrow_mut().power_up();
        let mut log = Vec::new();
        let mut hear = |line: &str| {
            log.push(line.to_owned());
            bench.stop.store(true, Ordering::Relaxed);
        };
        probe::monitor(
            &bench.desk,
            &bench.board,
            &elf,
            reset,
            &bench.options(),
            &mut hear,
        )
        .unwrap();
        assert_eq!(log, ["info started"]);
        assert_eq!(bench.operations(), operations);
        assert!(bench.desk.target.borrow().is_running());
        bench.stop.store(false, Ordering::Relaxed);
    }
}

#[test]
fn a_monitor_says_when_the_board_is_reset_and_goes_on() {
    let bench = Bench::with_bug(Bug::ResetAfter(0));
    let elf = bench.elf(10_000, 0);
    let model = models::documented().to_bytes().unwrap();
    bench.flash(&elf, &model).unwrap_err();
    let mut log = Vec::new();
    let mut hear = |line: &str| {
        log.push(line.to_owned());
        let resets = log.iter().filter(|line| line.contains("reset")).count();
        bench.stop.store(resets > 2, Ordering::Relaxed);
    };
    probe::monitor(
        &bench.desk,
        &bench.board,
        &elf,
        true,
        &bench.options(),
        &mut hear,
    )
    .unwrap();
    assert!(log.contains(&"info self-test done".to_owned()), "{log:?}");
}

#[test]
fn a_monitor_refuses_a_firmware_that_it_has_no_words_for() {
    let bench = Bench::new(Wrong::default());
    let model = models::documented().to_bytes().unwrap();
    bench.flash(&bench.elf(10_000, 0), &model).unwrap();
    let other = bench.elf(10_000, 1);
    let hear = &mut |_: &str| {};
    let ended = probe::monitor(
        &bench.desk,
        &bench.board,
        &other,
        false,
        &bench.options(),
        hear,
    );
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("not the one that is built here") && error.contains("espalier flash"),
        "{error}"
    );
}

/// A machine that the firmware of a NUCLEO-F446RE runs on: QEMU's Netduino Plus 2 has an STM32F405, with the same core
/// and as much flash and RAM at the same addresses.
const F446: Machine = Machine {
    name: "netduinoplus2",
    flash: 0x0800_0000..0x0808_0000,
    sectors: &[
        (0x0800_0000, 0x4000),
        (0x0801_0000, 0x1_0000),
        (0x0802_0000, 0x2_0000),
    ],
    trick: None,
};

/// Asks the real firmware in QEMU.
fn ask_f446(
    machine: &Machine,
    model: &[u8],
    questions: Questions,
    limit: Duration,
) -> Result<DeviceRun, ProbeError> {
    let board = Board::named("nucleo-f446re").unwrap();
    let elf = firmware::build(&board).unwrap();
    let options = Options {
        probe: None,
        limit,
        stop: &AtomicBool::new(false),
        progress: false,
    };
    let hear = &mut |_: &str| {};
    probe::answer(machine, &board, &elf, model, questions, &options, hear)
}

#[test]
fn the_firmware_of_a_board_answers_what_this_machine_answers() {
    if !can_emulate("the_firmware_of_a_board_answers_what_this_machine_answers") {
        return;
    }
    let bytes = models::every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let inputs = inputs(&model, 30);
    let ask = |questions: Questions| ask_f446(&F446, &bytes, questions, Duration::from_secs(300));
    let verified = verify(&model, &inputs, true, ask).unwrap();
    assert_eq!(
        (
            verified.outputs.output_bytes,
            verified.outputs.mismatched_bytes
        ),
        (90, 0)
    );
    assert_eq!(verified.outputs.mismatched_decisions, 0);
    assert_eq!(verified.parting, None);
    assert!(verified.layer_bytes > 30 * 100);
    let report = &verified.run.report;
    assert_eq!(
        (
            report.self_tests,
            report.self_test_failures,
            report.inferences
        ),
        (2, 0, 30)
    );
    assert!(report.ticks > 0 && report.stack_bytes > 0);
    // Time, level, words, and where in the source.
    let log = verified.run.log;
    let line = log.iter().find(|line| line.contains("golden vectors pass"));
    let line = line.unwrap();
    assert!(
        line.contains("info nucleo-f446re: 2 of 2") && line.contains("(main.rs:"),
        "{line}"
    );
    assert!(line.starts_with("0."), "{line}");
    let answers = log
        .iter()
        .filter(|line| line.contains("main.rs") && !line.contains("vectors"));
    assert!(answers.count() >= 30, "{log:?}");
}

#[test]
fn the_firmware_of_a_board_that_nobody_asks_tests_itself_and_ends() {
    if !can_emulate("the_firmware_of_a_board_that_nobody_asks_tests_itself_and_ends") {
        return;
    }
    let board = Board::named("nucleo-f446re").unwrap();
    let elf = firmware::build(&board).unwrap();
    let model = models::every_kind().to_bytes().unwrap();
    let options = Options {
        probe: None,
        limit: Duration::from_secs(100),
        stop: &AtomicBool::new(false),
        progress: false,
    };
    let hear = &mut |_: &str| {};
    let (flashed, report) = probe::flash(&F446, &board, &elf, &model, &options, hear).unwrap();
    assert!(flashed.firmware_written > 0 && flashed.model_written);
    assert_eq!(
        (
            report.self_tests,
            report.self_test_failures,
            report.inferences
        ),
        (2, 0, 0)
    );
}

#[test]
fn a_firmware_that_is_reset_or_too_slow_is_told() {
    if !can_emulate("a_firmware_that_is_reset_or_too_slow_is_told") {
        return;
    }
    let bytes = models::every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let inputs = inputs(&model, 2000);
    let questions = Questions {
        inputs: &inputs,
        layers: true,
    };
    let resets = Machine {
        trick: Some(Trick::ResetAfter(200)),
        ..F446
    };
    let error = ask_f446(&resets, &bytes, questions, Duration::from_secs(100)).unwrap_err();
    assert!(matches!(error, ProbeError::Restarted { .. }), "{error}");
    let error = ask_f446(&F446, &bytes, questions, Duration::from_millis(500)).unwrap_err();
    let ProbeError::Hung { registers, log, .. } = &error else {
        unreachable!("{error}")
    };
    let flash = 0x0800_0000..0x0804_0000;
    assert!(
        flash.contains(&registers.pc) || registers.pc < 0x4_0000,
        "{registers:x?}"
    );
    assert!(
        (0x2000_0000..=0x2000_2000).contains(&registers.sp),
        "{registers:x?}"
    );
    assert!(!log.is_empty());
}
