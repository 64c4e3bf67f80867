//! `tests/bench compress [--json]`: what every committed compressed model does now: on all
//! test pictures in the host simulation, and on some in the emulator. An example, so that
//! it shares what the tests have compiled.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use espalier::checkpoint::Checkpoint;
use espalier::compress::scale::{ScaleMode, scale};
use espalier::data::{self, Dataset, Part, Source};
use espalier::device::{Board, emulator, firmware};
use espalier::quantise::{ExportOptions, calibrate, export};
use espalier::score::mean;
use espalier::simulate;
use espalier::train::answers;
use espalier_tests::bench;
use espalier_tests::command::workspace;
use espalier_tests::measured::{LIMIT, Measured};
use serde_json::{Map, Value, json};
use shared::Model;

type Failure = Box<dyn std::error::Error>;

/// The factor of the article.
const SCALE: f32 = 0.1;

fn main() -> ExitCode {
    bench::run(measure, print)
}

fn measure() -> Result<Value, Failure> {
    let folder = workspace().join("examples/fashion-mnist");
    let source = Source::parse(Path::new("fashion-mnist"), Path::new(""))?;
    let board = Board::named("mps2-an386")?;
    let elf = firmware::build(&board)?;
    let article = Checkpoint::load(&folder.join("article/float.safetensors"))?;
    let train = data::load(&source, Part::Train, &data::Options::default())?;
    let whole = Whole::measure(&article, &train, &board, &elf)?;
    let mut models = Map::new();
    let mut folders: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
    folders.sort_by_key(|entry| entry.file_name());
    for entry in folders {
        let file = entry.path().join("model.esp");
        if file.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let receipt = std::fs::read(entry.path().join("receipt.json"))?;
            let receipt = serde_json::from_slice(&receipt)?;
            let bytes = std::fs::read(file)?;
            models.insert(
                name,
                model(&bytes, &receipt, &source, &board, &elf, &whole)?,
            );
        }
    }
    for (row, seeds) in seeds(&folder.join("seeds.csv"))? {
        if let Some(model) = models.get_mut(&row) {
            model["seeds"] = seeds;
        }
    }
    let scaled = scaled(&article, &train, &source)?;
    Ok(json!({ "models": models, "scale": scaled, "board": board.name }))
}

/// What the recorded compressions of each model's project lost, over seeds.
fn seeds(file: &Path) -> Result<BTreeMap<String, Value>, Failure> {
    let text = std::fs::read_to_string(file)?;
    let mut rows: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [row, _, _, _, _, _, before, _, after, _] = fields[..] else {
            return Err(format!("{line}: not a row of seeds.csv").into());
        };
        let (before, after): (f64, f64) = (before.parse()?, after.parse()?);
        let [accuracies, drops] = rows.entry(row.to_owned()).or_default();
        accuracies.push(100.0 * after);
        drops.push(100.0 * (before - after));
    }
    let of_row = |(row, [accuracies, drops]): (String, [Vec<f64>; 2])| {
        let means = json!({ "accuracy": mean(&accuracies), "drop": mean(&drops) });
        (row, means)
    };
    Ok(rows.into_iter().map(of_row).collect())
}

/// The article's network in int8, not compressed.
struct Whole {
    params: usize,
    /// Of one inference, all layers dense.
    instructions: u64,
}

impl Whole {
    fn measure(
        article: &Checkpoint,
        train: &Dataset,
        board: &Board,
        elf: &Path,
    ) -> Result<Self, Failure> {
        let bytes = int8(article, train)?;
        let run = emulator::run(board, elf, &bytes, &[], LIMIT)?;
        Ok(Self {
            params: article.parameters(),
            instructions: run.work_per_inference(),
        })
    }
}

/// One model; what it was made from is in its receipt, whose instructions are those of
/// dense layers where the project prefers speed.
fn model(
    bytes: &[u8],
    receipt: &Value,
    source: &Source,
    board: &Board,
    elf: &Path,
    article: &Whole,
) -> Result<Value, Failure> {
    let measured = Measured::new(bytes, source, board, elf)?;
    let float = receipt["accuracy_before"]
        .as_f64()
        .ok_or("no accuracy_before in the receipt")?;
    let whole = &receipt["steps"][0];
    let dense = match whole["params"] == article.params {
        true => Some(article.instructions as f64),
        false => whole["on_chip"]["instructions"].as_f64(),
    };
    let dense = dense.ok_or("no instructions in the receipt")?;
    let (score, instructions) = (&measured.score, measured.instructions);
    Ok(json!({
        "params": measured.params,
        "nonzeros": receipt["nonzeros"],
        "params_before": whole["params"],
        "model_bytes": bytes.len(),
        "accuracy": score.accuracy,
        "interval": score.interval,
        "float_accuracy": float,
        "drop": 100.0 * (float - score.accuracy),
        "instructions": instructions,
        "instructions_ratio": instructions as f64 / dense,
        "mismatched_bytes": measured.mismatched,
    }))
}

/// A checkpoint as a model file, for speed.
fn int8(checkpoint: &Checkpoint, train: &Dataset) -> Result<Vec<u8>, Failure> {
    let options = ExportOptions::default();
    let ranges = calibrate(checkpoint, train, &options)?;
    Ok(export(checkpoint, &ranges, &options)?.bytes)
}

/// The float network with all weights times 0.1, which keeps every answer and every
/// parameter.
fn scaled(whole: &Checkpoint, train: &Dataset, source: &Source) -> Result<Value, Failure> {
    let test = data::load(source, Part::Test, &data::Options::default())?;
    let smaller = scale(whole, SCALE, ScaleMode::Exact)?;
    let (before, after) = (answers(whole, &test)?, answers(&smaller, &test)?);
    let int8 = |checkpoint: &Checkpoint| -> Result<Vec<usize>, Failure> {
        let bytes = int8(checkpoint, train)?;
        Ok(simulate::answers(&Model::parse(&bytes)?, &test))
    };
    let changed = |before: &[usize], after: &[usize]| {
        let pairs = before.iter().zip(after);
        pairs.filter(|(before, after)| before != after).count()
    };
    Ok(json!({
        "factor": SCALE,
        "pictures": before.len(),
        "answers_changed": changed(&before, &after),
        "int8_answers_changed": changed(&int8(whole)?, &int8(&smaller)?),
        "params_before": whole.parameters(),
        "params": smaller.parameters(),
    }))
}

/// Such as `0.41 ± 0.12 (3)`.
fn of_seeds(drop: &Value) -> String {
    let figure = |key: &str| bench::figure(&drop[key], 2);
    format!(
        "{} ± {} ({})",
        figure("mean"),
        figure("half_width"),
        bench::figure(&drop["count"], 0)
    )
}

fn print(results: &Value) {
    println!(
        "{:<14} {:>8} {:>8} {:>8} {:>9} {:>8} {:>6} {:>15} {:>13} {:>6}",
        "model",
        "params",
        "nonzero",
        "bytes",
        "accuracy",
        "float",
        "drop",
        "of all seeds",
        "instructions",
        "ratio"
    );
    for (name, model) in results["models"].as_object().into_iter().flatten() {
        let percent = |key: &str| 100.0 * model[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{name:<14} {:>8} {:>8} {:>8} {:>7.2} % {:>6.2} % {:>6.2} {:>15} {:>13} {:>6.3}",
            model["params"].to_string(),
            model["nonzeros"].to_string(),
            model["model_bytes"].to_string(),
            percent("accuracy"),
            percent("float_accuracy"),
            model["drop"].as_f64().unwrap_or(f64::NAN),
            of_seeds(&model["seeds"]["drop"]),
            model["instructions"].to_string(),
            model["instructions_ratio"].as_f64().unwrap_or(f64::NAN)
        );
    }
    let scale = &results["scale"];
    println!(
        "weights times {}: {} (int8: {}) of {} answers change, {} of {} parameters are left",
        scale["factor"],
        scale["answers_changed"],
        scale["int8_answers_changed"],
        scale["pictures"],
        scale["params"],
        scale["params_before"]
    );
    println!(
        "accuracy over 10,000 test pictures in the host simulation; instructions, not cycles, on the emulated {}",
        results["board"].as_str().unwrap_or_default()
    );
}
