//! Two slots for models: power that fails while one is written loses none, and boot falls back to the one that works.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::time::Duration;

use espalier::device::emulator::{self, EmulatorError};
use espalier::device::slots::Image;
use espalier::device::verify::Questions;
use espalier::device::{Board, DeviceRun, firmware};
use espalier_tests::command::can_emulate;
use espalier_tests::models;
use espalier_tests::power::{
    ARENA_BYTES, FlashError, SimulatedFlash, boots, file, install, power_cuts,
};
use shared::Model;
use shared::layer::Shape;
use shared::report::Exit;
use shared::slots::{Install, InstallError, Installed, PAGE_BYTES, Record, Slot, Unfit, working};

#[test]
fn power_that_fails_anywhere_loses_no_model() {
    let cuts = power_cuts(install);
    println!("{cuts:?}");
    assert_eq!(cuts.lost, 0, "{cuts:?}");
    assert!(cuts.tried > 500, "{cuts:?}");
}

/// The test above can fail.
#[test]
fn writing_over_the_model_that_runs_loses_it() {
    let cuts = power_cuts(|flash, file, arena| {
        let slots = flash.slots();
        let runs = working(flash, slots, arena).map_err(InstallError::Flash)?;
        let other = runs.map(|it| it.slot.other());
        let mut install = Install::start(flash, slots, other, file.len())?;
        install.write(file)?;
        install.activate(arena).map(|_| ())
    });
    assert!(cuts.lost > cuts.tried / 4, "{cuts:?}");
}

fn flash() -> SimulatedFlash {
    SimulatedFlash::erased(0x2000, 0x400)
}

#[test]
fn installs_take_turns_and_count() {
    let (mut flash, mut arena) = (flash(), vec![0; ARENA_BYTES]);
    let slots = flash.slots();
    for (sequence, slot) in (1..).zip([Slot::A, Slot::B, Slot::A, Slot::B]) {
        let file = file(sequence.into(), false);
        let record = Record::of(&file, sequence);
        let installed = shared::slots::install(&mut flash, slots, &file, &mut arena).unwrap();
        assert_eq!(installed, Installed { slot, record });
        assert_eq!(
            working(&mut flash, slots, &mut arena).unwrap(),
            Some(installed)
        );
        assert_eq!(boots(&flash, &mut arena), Some(&file[..]));
    }
}

#[test]
fn a_model_that_arrives_in_parts_lies_there_as_a_whole_one() {
    let (mut whole, mut parts, mut arena) = (flash(), flash(), vec![0; ARENA_BYTES]);
    let (file, slots) = (file(1, false), whole.slots());
    install(&mut whole, &file, &mut arena).unwrap();
    let mut install = Install::start(&mut parts, slots, None, file.len()).unwrap();
    let (mut left, mut size) = (&file[..], 1);
    while !left.is_empty() {
        let (part, rest) = left.split_at(size.min(left.len()));
        install.write(part).unwrap();
        (left, size) = (rest, size * 3);
    }
    install.activate(&mut arena).unwrap();
    assert!(file.len() > 2 * PAGE_BYTES && parts.bytes == whole.bytes);
}

#[test]
fn too_few_or_too_many_bytes_are_not_activated() {
    let (mut flash, mut arena) = (flash(), vec![0; ARENA_BYTES]);
    let (file, slots) = (file(1, false), flash.slots());
    let (all, fewer) = (file.len(), file.len() - 1);
    let mut install = Install::start(&mut flash, slots, None, all).unwrap();
    install.write(&file[..fewer]).unwrap();
    let error = install.activate(&mut arena).unwrap_err();
    assert_eq!(
        error,
        InstallError::Length {
            announced: all,
            written: fewer
        }
    );
    let mut install = Install::start(&mut flash, slots, None, fewer).unwrap();
    let error = install.write(&file).unwrap_err();
    assert_eq!(
        error,
        InstallError::Length {
            announced: fewer,
            written: all
        }
    );
    assert_eq!(boots(&flash, &mut arena), None);
}

#[test]
fn a_model_that_would_not_work_is_not_activated() {
    let (mut flash, mut arena) = (flash(), vec![0; ARENA_BYTES]);
    let (good, slots) = (file(1, false), flash.slots());
    install(&mut flash, &good, &mut arena).unwrap();
    let mut damaged = file(2, false);
    damaged[100] ^= 4;
    let long = vec![0; slots.capacity() + 1];
    let mut refused = |file: &[u8], arena: &mut [i8]| {
        let error = shared::slots::install(&mut flash, slots, file, arena).unwrap_err();
        assert_eq!(boots(&flash, &mut vec![0; ARENA_BYTES]), Some(&good[..]));
        error
    };
    type Error = InstallError<FlashError>;
    assert!(matches!(
        refused(&damaged, &mut arena),
        Error::Unfit(Unfit::Model(_))
    ));
    assert!(matches!(refused(&long, &mut arena), Error::TooLong { .. }));
    let broken = refused(&file(2, true), &mut arena);
    assert_eq!(broken, Error::Unfit(Unfit::SelfTest { vector: 1 }));
}

/// Two models in the emulated board's flash, the older one in slot A, and what came of it.
fn run(board: &str, older: &[u8], newest: &[u8]) -> Result<DeviceRun, EmulatorError> {
    let board = Board::named(board).unwrap();
    let mut image = Image::erased(&board);
    image.put(Slot::A, 7, older).unwrap();
    image.put(Slot::B, 8, newest).unwrap();
    let elf = firmware::build(&board).unwrap();
    let inputs = first_vector(older);
    emulator::answer_from(
        &elf,
        &image,
        Questions::of(&inputs),
        Duration::from_secs(60),
    )
}

fn first_vector(file: &[u8]) -> Vec<i8> {
    let model = Model::parse(file).unwrap();
    let mut input = vec![0; model.input_shape().len()];
    model.golden().fill(0, &mut input);
    input
}

/// The older model runs, and both the log and the report say so.
fn falls_back(board: &str, newest: &[u8], reason: &str) {
    if !can_emulate(&format!("falling back on {board}")) {
        return;
    }
    let older = file(1, false);
    let run = run(board, &older, newest).unwrap();
    let report = &run.report;
    assert_eq!(
        (report.slot, report.sequence, report.fell_back),
        (Slot::A, 7, true)
    );
    let log = run.log.join("\n");
    assert!(
        log.contains("slot B does not work, falling back to slot A"),
        "{log}"
    );
    assert!(log.contains(reason), "{log}");
    let expected = Model::parse(&older).unwrap().golden().expected(0).to_vec();
    assert_eq!(run.outputs, expected);
}

fn flipped(seed: u64) -> Vec<u8> {
    let mut file = file(seed, false);
    let middle = file.len() / 2;
    file[middle] ^= 0x10;
    file
}

#[test]
fn a_flipped_bit_in_the_newest_model_brings_the_older_one_back() {
    falls_back("mps2-an386", &flipped(2), "model refused");
}

#[test]
fn a_newest_model_that_fails_its_self_test_brings_the_older_one_back() {
    falls_back("mps2-an386", &file(2, true), "golden vector 1 gives");
}

#[test]
fn a_newest_model_for_more_ram_brings_the_older_one_back() {
    let large = models::preset("resnet8", Shape::new(32, 32, 3).unwrap(), 10);
    falls_back(
        "microbit",
        &large.to_bytes().unwrap(),
        "arena: the model needs",
    );
}

#[test]
fn the_newest_model_runs_and_a_damaged_older_one_does_not_matter() {
    if !can_emulate("the newest model runs") {
        return;
    }
    let (board, newest) = (Board::named("mps2-an386").unwrap(), file(2, false));
    let elf = firmware::build(&board).unwrap();
    let mut image = Image::erased(&board);
    image.put(Slot::A, 1 << 31, &newest).unwrap();
    image.put(Slot::B, (1 << 31) - 1, &flipped(1)).unwrap();
    let inputs = first_vector(&newest);
    let run = emulator::answer_from(
        &elf,
        &image,
        Questions::of(&inputs),
        Duration::from_secs(60),
    )
    .unwrap();
    assert_eq!((run.report.slot, run.report.fell_back), (Slot::A, false));
    assert_eq!(run.report.sequence, 1 << 31);
}

#[test]
fn two_models_that_do_not_work_are_an_error() {
    if !can_emulate("two models that do not work") {
        return;
    }
    let board = "mps2-an386";
    let mut refused = flipped(1);
    refused[..8].copy_from_slice(b"nonsense");
    let image_board = Board::named(board).unwrap();
    let mut image = Image::erased(&image_board);
    image.put(Slot::A, 1, &refused).unwrap();
    image.put(Slot::B, 2, &file(2, true)).unwrap();
    let elf = firmware::build(&image_board).unwrap();
    let error = emulator::answer_from(&elf, &image, Questions::of(&[]), Duration::from_secs(60))
        .unwrap_err();
    assert!(matches!(error, EmulatorError::Model(_)), "{error}");
    // The last one answers all the same, so that the host sees what it computes.
    let error = run(board, &file(1, true), &flipped(2)).unwrap_err();
    let EmulatorError::SelfTest { run, .. } = &error else {
        panic!("{error}")
    };
    assert!(run.report.fell_back && run.report.self_test_failures == 1);
    assert!(!run.outputs.is_empty());
}

#[test]
fn erased_flash_holds_no_model() {
    if !can_emulate("erased flash") {
        return;
    }
    let board = Board::named("mps2-an386").unwrap();
    let elf = firmware::build(&board).unwrap();
    let image = Image::erased(&board);
    let error = emulator::answer_from(&elf, &image, Questions::of(&[]), Duration::from_secs(60))
        .unwrap_err();
    let EmulatorError::Refused { exit, log } = &error else {
        panic!("{error}")
    };
    assert_eq!(*exit, Exit::NoModel);
    assert!(log.contains("no model in the slots"), "{log}");
}
