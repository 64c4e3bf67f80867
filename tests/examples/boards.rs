//! `tests/bench boards [--json]`: every board of the firmware, what emulated ones compute, what
//! cut power and faults of the probe's path come to, and the chips that are known.

use std::process::ExitCode;
use std::time::Duration;

use espalier::data::{self, Part, Source};
use espalier::device::chips::Chip;
use espalier::device::footprint::Footprint;
use espalier::device::verify::{Questions, verify};
use espalier::device::{Board, emulator, firmware};
use espalier::simulate::{inputs, options};
use espalier_tests::command::workspace;
use espalier_tests::power::{install, power_cuts};
use espalier_tests::probe::faults;
use serde_json::{Map, Value, json};
use shared::Model;

type Failure = Box<dyn std::error::Error>;

/// A model that every board takes.
const MODEL: &str = "examples/fashion-mnist/4k/model.esp";
/// Pictures of examples/fashion that each emulated board answers.
const PICTURES: usize = 100;
/// How long it may take for them.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    espalier_tests::bench::run(measure, print)
}

fn measure() -> Result<Value, Failure> {
    let bytes = std::fs::read(workspace().join(MODEL))?;
    let mut boards = Vec::new();
    let mut mismatched = Map::new();
    for name in Board::names() {
        let board = Board::named(name)?;
        let elf = firmware::build(&board)?;
        let firmware = Footprint::of_elf(&std::fs::read(&elf)?)?;
        boards.push(json!({
            "name": name,
            "target": board.target,
            "compiled": true,
            "emulated": board.emulator.is_some(),
            "flash_bytes": firmware.flash(),
            "ram_bytes": u64::from(board.stack) + u64::from(board.arena) + firmware.statics(),
        }));
        if board.emulator.is_some() {
            mismatched.insert(name.to_owned(), of_board(&board, &elf, &bytes)?);
        }
    }
    let (cuts, faults) = (power_cuts(install), faults::try_all());
    for missed in &faults.missed {
        eprintln!("not handled: {missed}");
    }
    Ok(json!({
        "boards": boards,
        "verify_mismatched_bytes": mismatched,
        "power_cuts": { "tried": cuts.tried, "lost": cuts.lost },
        "probe_faults": { "tried": faults.tried, "handled": faults.handled() },
        "chips_known": Chip::all().len(),
    }))
}

/// Bytes in which a board differs from this machine, over all inputs and layers.
fn of_board(board: &Board, elf: &std::path::Path, bytes: &[u8]) -> Result<Value, Failure> {
    let model = Model::parse(bytes)?;
    let source = Source::parse(workspace().join("examples/fashion"), &workspace())?;
    let mut test = data::load(&source, Part::Test, &options(&model))?;
    test.pictures.truncate(PICTURES);
    let inputs = inputs(&model, &test);
    let ask = |questions: Questions| emulator::answer(board, elf, bytes, questions, LIMIT);
    let verified = verify(&model, &inputs, false, ask)?;
    Ok(json!(verified.outputs.mismatched_bytes))
}

fn print(results: &Value) {
    for board in results["boards"].as_array().into_iter().flatten() {
        let name = board["name"].as_str().unwrap_or_default();
        let differ = match &results["verify_mismatched_bytes"][name] {
            Value::Null => "compiled, not tried on hardware".to_owned(),
            bytes => format!("emulated: {bytes} output bytes of {PICTURES} pictures differ"),
        };
        println!(
            "{name:<18} {:<27} flash {:>6}  RAM {:>8}  {differ}",
            board["target"].as_str().unwrap_or_default(),
            board["flash_bytes"],
            board["ram_bytes"]
        );
    }
    let of = |key: &str, what: &str| results[key][what].clone();
    println!(
        "power cut at {} points: {} models lost",
        of("power_cuts", "tried"),
        of("power_cuts", "lost")
    );
    println!(
        "{} faults of the probe's path tried, {} handled",
        of("probe_faults", "tried"),
        of("probe_faults", "handled")
    );
    println!("{} chips known", results["chips_known"]);
}
