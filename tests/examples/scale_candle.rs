//! Training on Candle and on Flex: pictures a second of the article's network at batch 64,
//! on all cores, as one JSON object. Both take turns, and the median of each counts.

#![allow(clippy::expect_used)]

use std::time::Instant;

use espalier::augment::Augmentation;
use espalier::data::{Dataset, Picture, PictureShape, Resize};
use espalier::network::NetworkSpec;
use espalier::train::{Backend, Hooks, TrainOptions, start, train};
use shared::layer::Shape;

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PICTURES: usize = 1024;
const BATCH: usize = 64;
/// Turns of each; one more before them does not count.
const TURNS: usize = 5;

fn main() {
    let data = pictures();
    let (mut candle, mut flex) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let speeds = (speed(&data, Backend::Candle), speed(&data, Backend::Flex));
        if turn > 0 {
            candle.push(speeds.0);
            flex.push(speeds.1);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let result =
        serde_json::json!({ "candle": median(candle), "flex": median(flex), "cores": cores });
    println!("{result}");
}

/// Of 28x28x1 and ten classes; what is on them does not change the work.
fn pictures() -> Dataset {
    let picture = |at: usize| Picture {
        pixels: (0..784).map(|i| (i * (at + 3) % 256) as u8).collect(),
        label: at % 10,
    };
    Dataset {
        shape: PictureShape {
            height: 28,
            width: 28,
            channels: 1,
        },
        classes: (0..10).map(|class| class.to_string()).collect(),
        pictures: (0..PICTURES).map(picture).collect(),
    }
}

/// Pictures a second in one epoch.
fn speed(data: &Dataset, backend: Backend) -> f64 {
    let options = TrainOptions {
        epochs: 1,
        batch: BATCH,
        ..TrainOptions::default()
    };
    let spec: NetworkSpec = toml::from_str("preset = 'article'").expect("a network");
    let shape = Shape::new(28, 28, 1).expect("a shape");
    let network = spec.build(shape, 10).expect("ten classes");
    let from = start(network, data, Resize::default(), &options).expect("a checkpoint");
    let hooks = Hooks {
        backend,
        ..Hooks::default()
    };
    let begin = Instant::now();
    let augmentation = Augmentation::default();
    train(from, None, data, None, &options, &augmentation, &hooks).expect("a training");
    PICTURES as f64 / begin.elapsed().as_secs_f64()
}

fn median(mut speeds: Vec<f64>) -> f64 {
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2].round()
}
