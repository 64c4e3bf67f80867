//! What training costs as work grows: pictures a second, and seconds to 90 % of the held-back
//! pictures of Fashion-MNIST, by batch and workers; and what more machines would bring, by
//! calculation. Takes about 40 minutes on 2 cores; figures come as they are measured.

use std::error::Error;
use std::process::ExitCode;

use espalier::data::Dataset;
use espalier::score::Score;
use espalier::train::{Hooks, TrainOptions, answers};
use espalier_tests::bench;
use espalier_tests::speed::{Trial, median, pictures};
use serde_json::{Value, json};

/// That of `espalier` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Accuracy that is asked for.
const GOAL: f64 = 0.9;
/// Held back of the training pictures.
const HELD: f32 = 0.1;
/// Networks, and the epochs that are tried first for the goal.
const PRESETS: [(&str, usize); 2] = [("article", 6), ("article-1m", 3)];
const BATCHES: [usize; 5] = [32, 64, 128, 256, 512];
/// More are not tried.
const MOST_EPOCHS: usize = 12;
/// The highest learning rate for a batch of 64; it grows with the root of the batch.
const RATE: f64 = 0.002;
/// Pictures of a turn, and turns.
const PICTURES: usize = 4096;
const TURNS: usize = 3;
/// Machines, and bits a second of the cable of the one that holds the network.
const MACHINES: [usize; 5] = [4, 8, 16, 32, 64];
const CABLES: [f64; 2] = [1e9, 1e10];

fn main() -> ExitCode {
    bench::run(measure, print)
}

fn measure() -> Result<Value, Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?.get();
    let (train, held) = pictures(usize::MAX)?.split(HELD, 1)?;
    let few = train.subset(&(0..PICTURES).collect::<Vec<_>>());
    let cases = PRESETS.map(|(preset, first)| BATCHES.map(|batch| (preset, batch, first)));
    let cases = cases.concat();
    let mut rows = Vec::new();
    for &(preset, batch, _) in &cases {
        let [one, all] = [
            speed(&few, preset, batch, 1)?,
            speed(&few, preset, batch, cores)?,
        ];
        eprintln!("{preset}, batch {batch}: {one:.0} and {all:.0} pictures/s");
        rows.push(json!({
            "network": preset,
            "batch": batch,
            "images_per_s": { "one_worker": one, "all_cores": all },
            "to_goal": Value::Null,
        }));
    }
    for (row, (preset, batch, first)) in rows.iter_mut().zip(cases) {
        if let Some(epochs) = to_goal(&train, &held, (preset, batch), cores, first)? {
            // Workers do not change what is learnt.
            let pictures = (epochs * train.pictures.len()) as f64;
            let seconds = |workers: &str| Some(pictures / row["images_per_s"][workers].as_f64()?);
            row["to_goal"] = json!({
                "epochs": epochs,
                "seconds": { "one_worker": seconds("one_worker"), "all_cores": seconds("all_cores") },
            });
        }
    }
    let machines = calculate(&rows);
    Ok(json!({ "cores": cores, "goal": GOAL, "measured": rows, "calculated": machines }))
}

fn options(batch: usize, epochs: usize) -> TrainOptions {
    TrainOptions {
        batch,
        epochs,
        rate: Some(RATE * (batch as f64 / 64.0).sqrt()),
        smoothing: 0.0,
        ..Default::default()
    }
}

/// Pictures a second, the median of some turns.
fn speed(
    data: &Dataset,
    preset: &str,
    batch: usize,
    workers: usize,
) -> Result<f64, Box<dyn Error>> {
    let trial = Trial {
        data,
        preset,
        workers,
        options: options(batch, 1),
    };
    let turns: Result<Vec<f64>, _> = (0..TURNS).map(|_| trial.speed(&Hooks::default())).collect();
    turns.map(median)
}

/// The fewest epochs after which the network knows [`GOAL`] of the held-back pictures. Each
/// number of epochs is a training of its own, whose rate falls to 0 at its end; `first` is
/// tried first, and then more or fewer.
fn to_goal(
    data: &Dataset,
    held: &Dataset,
    (preset, batch): (&str, usize),
    workers: usize,
    first: usize,
) -> Result<Option<usize>, Box<dyn Error>> {
    let reached = |epochs| -> Result<bool, Box<dyn Error>> {
        let trial = Trial {
            data,
            preset,
            workers,
            options: options(batch, epochs),
        };
        let (network, _) = trial.train(&Hooks::default())?;
        let accuracy = Score::new(held, &answers(&network, held)?).accuracy;
        eprintln!("{preset}, batch {batch}, {epochs} epochs: {accuracy:.4}");
        Ok(accuracy >= GOAL)
    };
    for epochs in first..=MOST_EPOCHS {
        if !reached(epochs)? {
            continue;
        }
        let mut fewest = epochs;
        while epochs == first && fewest > 1 && reached(fewest - 1)? {
            fewest -= 1;
        }
        return Ok(Some(fewest));
    }
    Ok(None)
}

/// How much of their time machines like this one would compute, each with a batch of its own
/// of the size of the row: one of them sends the parameters to all others and hears as many
/// gradients, over one cable, and nothing of that while it computes.
fn calculate(rows: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for row in rows {
        let params = match row["network"].as_str() {
            Some("article") => 121_930.0,
            _ => 999_274.0,
        };
        let batch = row["batch"].as_f64().unwrap_or_default();
        let seconds = batch
            / row["images_per_s"]["all_cores"]
                .as_f64()
                .unwrap_or(f64::NAN);
        for cable in CABLES {
            let share = |machines: usize| {
                let bits = 2.0 * 32.0 * params * (machines - 1) as f64;
                seconds / (seconds + bits / cable)
            };
            all.push(json!({
                "network": row["network"],
                "batch_of_each": row["batch"],
                "gbit_per_s": cable / 1e9,
                "gradient_bytes": 4.0 * params,
                "step_seconds": seconds,
                "efficiency": MACHINES.map(|machines| json!({ "machines": machines, "share": share(machines) })),
            }));
        }
    }
    all
}

fn print(results: &Value) {
    let figure = |value| bench::figure(value, 0);
    println!(
        "{:<12}{:>6}{:>12}{:>12}{:>8}{:>12}{:>12}",
        "network", "batch", "one worker", "all cores", "epochs", "s, one", "s, all"
    );
    for row in results["measured"].as_array().into_iter().flatten() {
        println!(
            "{:<12}{:>6}{:>12}{:>12}{:>8}{:>12}{:>12}",
            row["network"].as_str().unwrap_or_default(),
            row["batch"].to_string(),
            figure(&row["images_per_s"]["one_worker"]),
            figure(&row["images_per_s"]["all_cores"]),
            figure(&row["to_goal"]["epochs"]),
            figure(&row["to_goal"]["seconds"]["one_worker"]),
            figure(&row["to_goal"]["seconds"]["all_cores"]),
        );
    }
    println!("\ncalculated, not measured: share of the time that machines compute");
    for row in results["calculated"].as_array().into_iter().flatten() {
        print!(
            "{:<12}{:>6}{:>4} Gbit/s",
            row["network"].as_str().unwrap_or_default(),
            row["batch_of_each"].to_string(),
            figure(&row["gbit_per_s"]),
        );
        for machines in row["efficiency"].as_array().into_iter().flatten() {
            let share = machines["share"].as_f64().unwrap_or(f64::NAN);
            print!(
                "{:>5}: {:>3.0} %",
                machines["machines"].to_string(),
                100.0 * share
            );
        }
        println!();
    }
}
