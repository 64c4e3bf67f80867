//! `tests/bench samples [--json]`: the committed curves over the number of pictures, and what
//! their committed models do now: on all test pictures in the host simulation, and on some
//! in the emulator. An example, so that it shares what the tests have compiled.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use espalier::data::Source;
use espalier::device::{Board, firmware};
use espalier::score::mean;
use espalier_tests::command::workspace;
use espalier_tests::measured::Measured;
use serde_json::{Map, Value, json};

type Failure = Box<dyn std::error::Error>;

/// Folders with a `curve.csv`; the models are in the first.
const CURVES: [&str; 3] = [
    "examples/fashion-mnist/samples",
    "examples/fashion-mnist/samples/all",
    "examples/digits",
];

fn main() -> ExitCode {
    espalier_tests::bench::run(measure, print)
}

fn measure() -> Result<Value, Failure> {
    let mut curves = Map::new();
    for folder in CURVES {
        curves.insert(folder.to_owned(), curve(&workspace().join(folder))?);
    }
    let board = Board::named("mps2-an386")?;
    let elf = firmware::build(&board)?;
    let source = Source::parse(Path::new("fashion-mnist"), Path::new(""))?;
    let mut models = Map::new();
    let folder = workspace().join(CURVES[0]);
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(|entry| entry.file_name());
    for path in files.into_iter().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "esp") {
            let bytes = std::fs::read(&path)?;
            let measured = Measured::new(&bytes, &source, &board, &elf)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            models.insert(name.into_owned(), of_model(&measured, bytes.len()));
        }
    }
    Ok(json!({ "curves": curves, "models": models, "board": board.name }))
}

fn of_model(measured: &Measured, bytes: usize) -> Value {
    json!({
        "params": measured.params,
        "model_bytes": bytes,
        "accuracy": measured.score.accuracy,
        "interval": measured.score.interval,
        "instructions": measured.instructions,
        "mismatched_bytes": measured.mismatched,
    })
}

/// The means over seeds of a file of `espalier curve`, by way and number of pictures.
fn curve(folder: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(folder.join("curve.csv"))?;
    let mut cells: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [method, shots, _, accuracy, ..] = fields[..] else {
            return Err(format!("{line}: not a row of a curve").into());
        };
        let cell = cells
            .entry((method.to_owned(), shots.parse()?))
            .or_default();
        cell.push(100.0 * accuracy.parse::<f64>()?);
    }
    let cell = |((method, shots), values): ((String, usize), Vec<f64>)| json!({ "method": method, "shots": shots, "accuracy": mean(&values), "seeds": values });
    Ok(cells.into_iter().map(cell).collect())
}

fn print(results: &Value) {
    for (folder, curve) in results["curves"].as_object().into_iter().flatten() {
        println!("{folder}: % right on the test part, mean and 95 % interval over seeds");
        for cell in curve.as_array().into_iter().flatten() {
            let (mean, half) = (&cell["accuracy"]["mean"], &cell["accuracy"]["half_width"]);
            println!(
                "  {:<11} {:>4} of each class {:>6.2} ± {:.2}, {} seeds",
                cell["method"].as_str().unwrap_or_default(),
                cell["shots"],
                mean.as_f64().unwrap_or(f64::NAN),
                half.as_f64().unwrap_or(f64::NAN),
                cell["accuracy"]["count"]
            );
        }
    }
    for (name, model) in results["models"].as_object().into_iter().flatten() {
        println!(
            "{name}: {:.2} % with {} parameters, {} bytes, {} instructions, {} outputs differ",
            100.0 * model["accuracy"].as_f64().unwrap_or(f64::NAN),
            model["params"],
            model["model_bytes"],
            model["instructions"],
            model["mismatched_bytes"]
        );
    }
    println!(
        "models over 10,000 test pictures in the host simulation; instructions, not cycles, on the emulated {}",
        results["board"]
    );
}
