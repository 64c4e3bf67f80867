//! One firmware for every board: it finds a model in flash, checks it against its own golden vectors, then answers
//! inferences and says what they cost. What differs between boards is in [`board`] and `boards/NAME/board.toml`.
#![no_std]
#![no_main]

mod board;
mod clock;

use core::cell::Cell;

use board::{Board, Requests};
use cortex_m_rt::entry;
use defmt::{error, info};
use shared::model::MAX_LAYERS;
use shared::report::{Exit, Report};
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

/// Everything from boot to the report.
fn serve(board: Board) -> Result<(), Exit> {
    // The host, which has the same check, says why: the words for it would be a tenth of this firmware.
    let parsed = Model::parse(board.model);
    // Not moved: a second one would take another kilobyte of stack.
    let Ok(model) = &parsed else {
        error!("model at {=usize:#x} refused", board::MODEL_ADDRESS);
        return Err(Exit::ModelRefused);
    };
    let mut engine = Engine::new(model, board.arena).map_err(|reason| {
        error!(
            "arena: the model needs {=usize} bytes, {=str} has {=usize}",
            reason.needed,
            board::NAME,
            reason.available
        );
        Exit::ArenaTooSmall
    })?;
    let mut tally = self_test(model, &mut engine);
    let tests = tally.runs;
    let inferences = answer(model, &mut engine, &mut tally)?;
    save(tests, inferences, &tally, model.steps().count())
}

/// Leaves the report for the host.
#[inline(never)] // its bytes take no stack while anything is inferred
fn save(tests: u32, inferences: u32, tally: &Tally, layers: usize) -> Result<(), Exit> {
    let ticks = tally.layer_ticks.get(..layers).unwrap_or_default();
    let report = Report {
        self_tests: tests as u16,
        self_test_failures: tally.failures,
        inferences,
        ticks: tally.ticks,
        stack_bytes: board::stack_used() as u32,
        // There are never more than fit.
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
