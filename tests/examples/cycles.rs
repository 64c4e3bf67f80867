//! `tests/bench cycles [--json]`: how many cycles Arm's tables give for an instruction of an
//! inference, from the instructions that the emulated chips execute. An estimate: memory
//! without wait states, and no board has confirmed it.

use std::process::ExitCode;

use espalier::device::Board;
use espalier_tests::command::workspace;
use espalier_tests::cycles::mix;
use serde_json::{Map, Value, json};

type Failure = Box<dyn std::error::Error>;

/// Models of `examples/fashion-mnist`: dense and wide, coded, and of few channels.
const MODELS: [&str; 3] = ["50k", "4k", "fast"];
/// Boards whose cores Arm has published a table for.
const BOARDS: [&str; 2] = ["mps2-an386", "microbit"];

fn main() -> ExitCode {
    espalier_tests::bench::run(measure, print)
}

fn measure() -> Result<Value, Failure> {
    let mut boards = Map::new();
    for name in BOARDS {
        let board = Board::named(name)?;
        let mut models = Map::new();
        for model in MODELS {
            let file = workspace().join("examples/fashion-mnist").join(model);
            let bytes = std::fs::read(file.join("model.esp"))?;
            let parsed = shared::Model::parse(&bytes)?;
            if board.admit(bytes.len(), parsed.arena_bytes()).is_err() {
                continue;
            }
            let mix = mix(&board, &bytes)?;
            let per = |cycles: u64| cycles as f64 / mix.instructions as f64;
            let per_instruction = match board.target.starts_with("thumbv6m") {
                true => [per(mix.cortex_m0_plus()); 2],
                false => mix.cortex_m4().map(per),
            };
            let counts = json!({
                "instructions": mix.instructions,
                "loads_and_stores": mix.single,
                "of_several": mix.several,
                "registers_of_these": mix.registers,
                "branches_taken": mix.taken,
                "divisions": mix.divisions,
                "cycles_per_instruction": per_instruction,
            });
            models.insert(model.to_owned(), counts);
        }
        boards.insert(
            name.to_owned(),
            json!({ "core": board.core, "models": models }),
        );
    }
    Ok(Value::Object(boards))
}

fn print(results: &Value) {
    for (board, result) in results.as_object().into_iter().flatten() {
        println!(
            "{board} ({}), by Arm's tables, no wait states:",
            result["core"].as_str().unwrap_or_default()
        );
        for (model, counts) in result["models"].as_object().into_iter().flatten() {
            let cycles = &counts["cycles_per_instruction"];
            println!(
                "  {model:<6} {:.3} to {:.3} cycles for an instruction",
                cycles[0].as_f64().unwrap_or(0.0),
                cycles[1].as_f64().unwrap_or(0.0)
            );
        }
    }
}
