//! How fast the article's network is trained at batch 64: by one single-threaded worker, by
//! one on each core, with Candle, and by PyTorch where there is one. They take turns, and
//! medians count. Then what training on two hosts (in network namespaces of this machine)
//! and in two parts changes, and what becomes of faults.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use espalier::train::{Backend, Hooks, TrainOptions};
use espalier_tests::bench;
use espalier_tests::scale::{split, two_hosts};
use espalier_tests::speed::{Trial, median, pictures};
use serde_json::{Value, json};

/// That of `espalier` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns of each; one more before them does not count.
const TURNS: usize = 5;
/// Steps of a turn.
const STEPS: usize = 100;
/// Of Candle, which is slower.
const CANDLE_STEPS: usize = 20;
const BATCH: usize = 64;

fn main() -> ExitCode {
    bench::run(measure, print)
}

fn measure() -> Result<Value, Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?.get();
    let data = pictures(BATCH * STEPS)?;
    let few = pictures(BATCH * CANDLE_STEPS)?;
    let speed = |data, workers, backend| {
        let trial = Trial {
            data,
            preset: "article",
            workers,
            options: TrainOptions {
                epochs: 1,
                batch: BATCH,
                ..Default::default()
            },
        };
        trial.speed(&Hooks {
            backend,
            ..Hooks::default()
        })
    };
    let mut pytorch = PyTorch::start()?;
    let mut turns = Vec::new();
    for turn in 0..=TURNS {
        let figures = Turn {
            pytorch: pytorch.as_mut().map(PyTorch::speed).transpose()?,
            one_worker: speed(&data, 1, Backend::Flex)?,
            all_cores: speed(&data, cores, Backend::Flex)?,
            candle: speed(&few, cores, Backend::Candle)?,
        };
        if turn > 0 {
            turns.push(figures);
        }
    }
    let of = |pick: fn(&Turn) -> Option<f64>| {
        let figures: Option<Vec<f64>> = turns.iter().map(pick).collect();
        figures.map(median)
    };
    Ok(json!({
        "cores": cores,
        "batch": BATCH,
        "images_per_s": {
            "one_worker": of(|turn| Some(turn.one_worker)),
            "all_cores": of(|turn| Some(turn.all_cores)),
            "candle": of(|turn| Some(turn.candle)),
            "pytorch": of(|turn| turn.pytorch),
        },
        "speedup_all_cores": of(|turn| Some(turn.all_cores / turn.one_worker)),
        "ratio_to_pytorch": of(|turn| Some(turn.all_cores / turn.pytorch?)),
        "pytorch": pytorch.as_ref().map(|pytorch| &pytorch.version),
        "two_hosts": two_hosts()?,
        "split": split()?,
    }))
}

/// Pictures a second.
struct Turn {
    pytorch: Option<f64>,
    one_worker: f64,
    all_cores: f64,
    candle: f64,
}

fn print(results: &Value) {
    let figure = |value| bench::figure(value, 0);
    let speeds = &results["images_per_s"];
    println!(
        "pictures a second, batch {}, {} cores",
        results["batch"], results["cores"]
    );
    for (name, key) in [
        ("one worker", "one_worker"),
        ("all cores", "all_cores"),
        ("Candle", "candle"),
        ("PyTorch", "pytorch"),
    ] {
        println!("{name:<12}{:>8}", figure(&speeds[key]));
    }
    let ratio = |value| bench::figure(value, 2);
    println!(
        "all cores to one worker  {}",
        ratio(&results["speedup_all_cores"])
    );
    match results["pytorch"].as_str() {
        Some(version) => println!(
            "to PyTorch {version}  {}",
            ratio(&results["ratio_to_pytorch"])
        ),
        None => println!(
            "no PyTorch: python3 -m venv DIR, DIR/bin/pip install torch, and ESPALIER_PYTHON=DIR/bin/python"
        ),
    }
    let hosts = &results["two_hosts"];
    println!(
        "two hosts: losses of {} steps differ by at most {}; {} faults tried, {} survived",
        hosts["steps"], hosts["loss_difference"], hosts["faults_tried"], hosts["faults_survived"]
    );
    let split = &results["split"];
    println!(
        "in two parts: losses of {} steps differ by at most {}; {} bytes to and fro in each",
        split["steps"], split["loss_difference"], split["bytes_per_step"]
    );
}

/// A process that trains with PyTorch whenever it is asked.
struct PyTorch {
    process: Child,
    ask: ChildStdin,
    hear: BufReader<ChildStdout>,
    /// Of PyTorch, and its threads.
    version: String,
}

impl PyTorch {
    /// `None` where `ESPALIER_PYTHON` (or `python3`) has no PyTorch.
    fn start() -> Result<Option<Self>, Box<dyn Error>> {
        let python = std::env::var_os("ESPALIER_PYTHON").unwrap_or_else(|| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scale.py");
        let mut process = Command::new(python)
            .arg(script)
            .args([BATCH.to_string(), STEPS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(ask), Some(hear)) = (process.stdin.take(), process.stdout.take()) else {
            return Ok(None);
        };
        let mut hear = BufReader::new(hear);
        let mut version = String::new();
        hear.read_line(&mut version)?;
        let version = version.trim().to_owned();
        let there = !version.is_empty();
        Ok(there.then_some(Self {
            process,
            ask,
            hear,
            version,
        }))
    }

    fn speed(&mut self) -> Result<f64, Box<dyn Error>> {
        self.ask.write_all(b"\n")?;
        let mut answer = String::new();
        self.hear.read_line(&mut answer)?;
        Ok(answer.trim().parse()?)
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
