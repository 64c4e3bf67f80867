//! One firmware for every board: it finds the newest model in flash that passes its own golden vectors, then answers
//! inferences and says what they cost. What differs between boards is in [`board`] and `boards/NAME/board.toml`.
#![no_std]
#![no_main]

mod board;
mod clock;

use core::cell::Cell;

use board::{Board, Requests};
use cortex_m_rt::entry;
use defmt::{error, info, warn};
use shared::model::MAX_LAYERS;
use shared::report::{Exit, Report};
use shared::slots::{self, Stored};
use shared::{Engine, Model};

#[entry]
fn main() -> ! {
    let outcome = Board::take().ok_or(Exit::Crashed).and_then(serve);
    board::exit(outcome.err().unwrap_or(Exit::Success))
}

/// Without the place and the words of the panic, which need the formatting of `core`.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    error!("panic");
    board::exit(Exit::Crashed)
}

/// Runs the newest model, and where that does not work, the one in the other slot.
fn serve(board: Board) -> Result<(), Exit> {
    let [newest, older] = slots::stored(board.models);
    let Some(newest) = newest else {
        error!("no model in the slots at {=usize:#x}", board::MODEL_ADDRESS);
        return Err(Exit::NoModel);
    };
    let first = Attempt {
        stored: &newest,
        fell_back: false,
        is_last: older.is_none(),
    };
    match (run(&first, board.arena), older) {
        (Err(Exit::ModelRefused | Exit::ArenaTooSmall | Exit::SelfTestFailed), Some(older)) => {
            warn!(
                "slot {=str} does not work, falling back to slot {=str}",
                newest.slot.name(),
                older.slot.name()
            );
            let second = Attempt {
                stored: &older,
                fell_back: true,
                is_last: true,
            };
            run(&second, board.arena)
        }
        (outcome, _) => outcome,
    }
}

/// A model, and when it is tried.
struct Attempt<'s> {
    stored: &'s Stored<'s>,
    /// A newer one does not work.
    fell_back: bool,
    /// No other is left: one whose self-test fails still answers, so that the host sees what it computes.
    is_last: bool,
}

/// Everything from a slot to the report.
#[inline(never)] // called twice
fn run(attempt: &Attempt, arena: &mut [i8]) -> Result<(), Exit> {
    let (slot, sequence) = (attempt.stored.slot.name(), attempt.stored.record.sequence);
    info!("slot {=str}, sequence {=u32}", slot, sequence);
    // The host, which has the same check, says why: the words for it would be a tenth of this firmware.
    let parsed = attempt.stored.parse();
    // Not moved: a second one would take another kilobyte of stack.
    let Ok(model) = &parsed else {
        error!("model refused");
        return Err(Exit::ModelRefused);
    };
    let mut engine = Engine::new(model, arena).map_err(|reason| {
        error!(
            "arena: the model needs {=usize} bytes, {=str} has {=usize}",
            reason.needed,
            board::NAME,
            reason.available
        );
        Exit::ArenaTooSmall
    })?;
    let mut tally = self_test(model, &mut engine);
    if tally.failures > 0 && !attempt.is_last {
        return Err(Exit::SelfTestFailed);
    }
    let tests = tally.runs;
    let inferences = answer(model, &mut engine, &mut tally)?;
    save(attempt, tests, inferences, &tally, model.steps().count())
}

/// Leaves the report for the host.
#[inline(never)] // its bytes take no stack while anything is inferred
fn save(
    attempt: &Attempt,
    tests: u32,
    inferences: u32,
    tally: &Tally,
    layers: usize,
) -> Result<(), Exit> {
    let ticks = tally.layer_ticks.get(..layers).unwrap_or_default();
    let report = Report {
        slot: attempt.stored.slot,
        sequence: attempt.stored.record.sequence,
        fell_back: attempt.fell_back,
        self_tests: tests as u16,
        self_test_failures: tally.failures,
        inferences,
        ticks: tally.ticks,
        stack_bytes: board::stack_used() as u32,
        layer_ticks: ticks.try_into().unwrap_or_default(),
    };
    info!(
        "{=u32} inferences, {=u64} ticks, {=u32} bytes of stack",
        report.inferences, report.ticks, report.stack_bytes
    );
    board::save(&report)?;
    if report.self_test_failures == 0 {
        Ok(())
    } else {
        Err(Exit::SelfTestFailed)
    }
}

/// What a row of inferences came to.
struct Tally {
    runs: u32,
    failures: u16,
    ticks: u64,
    layer_ticks: [u32; MAX_LAYERS],
}

impl Tally {
    /// Forgets all but the failures.
    fn restart(&mut self) {
        *self = Self::new(self.failures);
    }

    fn new(failures: u16) -> Self {
        Self {
            runs: 0,
            failures,
            ticks: 0,
            layer_ticks: [0; MAX_LAYERS],
        }
    }
}

/// Runs the model's golden vectors.
fn self_test(model: &Model, engine: &mut Engine) -> Tally {
    let golden = model.golden();
    let mut tally = Tally::new(0);
    for index in 0..golden.count() {
        let fill = |input: &mut [i8]| golden.fill(index, input);
        let output = timed(engine, &mut tally, fill, |_| false);
        if output != golden.expected(index) {
            tally.failures += 1;
            error!(
                "golden vector {=usize} gives {=[?]}, not {=[?]}",
                index,
                output,
                golden.expected(index)
            );
        }
    }
    let passed = tally.runs - u32::from(tally.failures);
    info!(
        "{=str}: {=u32} of {=u32} golden vectors pass, {=u64} ticks",
        board::NAME,
        passed,
        tally.runs,
        tally.ticks
    );
    tally
}

/// Answers what the host asks for, and says how many inferences that were. They
/// count in place of the self-tests, where there are any.
fn answer(model: &Model, engine: &mut Engine, tally: &mut Tally) -> Result<u32, Exit> {
    let requests = Requests::open(model.input_shape().len())?;
    if requests.count() == 0 {
        return Ok(0);
    }
    tally.restart();
    for _ in 0..requests.count() {
        let (mut read, mut shown) = (Ok(()), Ok(()));
        let fill = |input: &mut [i8]| read = requests.read(input);
        let show = |output: &[i8]| {
            let wanted = requests.wants_layers();
            if wanted && shown.is_ok() {
                shown = requests.write_layer(output);
            }
            wanted
        };
        let output = timed(engine, tally, fill, show);
        read.and(shown)?;
        requests.write(output)?;
        requests.write_sure(engine.is_sure())?;
        say_answer(model, engine);
    }
    Ok(tally.runs)
}

/// The class that the last inference has found, or that it is not sure enough of it.
#[inline(never)] // takes no stack while anything is inferred
fn say_answer(model: &Model, engine: &Engine) {
    if !engine.is_sure() {
        info!("not sure");
        return;
    }
    let class = engine.answer();
    match model.class_names().nth(class) {
        Some(name) => info!("{=str}", name),
        None => info!("class {=usize}", class),
    }
}

/// One inference. What `fill` costs is not counted, nor what `show` does with the output of a
/// layer where it says that it did anything: they are no part of the network.
fn timed<'e>(
    engine: &'e mut Engine,
    tally: &mut Tally,
    fill: impl FnOnce(&mut [i8]),
    mut show: impl FnMut(&[i8]) -> bool,
) -> &'e [i8] {
    let last = Cell::new(0);
    let filled = |input: &mut [i8]| {
        fill(input);
        last.set(clock::now());
    };
    let output = engine.infer_observed(filled, |layer, output| {
        board::feed();
        let now = clock::now();
        let ticks = now - last.replace(now);
        tally.ticks += ticks;
        if let Some(sum) = tally.layer_ticks.get_mut(layer) {
            *sum = sum.saturating_add(ticks.try_into().unwrap_or(u32::MAX));
        }
        if show(output) {
            last.set(clock::now());
        }
    });
    tally.runs += 1;
    output
}
