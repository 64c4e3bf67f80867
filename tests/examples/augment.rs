//! What augmentation costs: microseconds for each picture of 28x28x1 on one thread, of each
//! operation and of all that a training usually has.

#![allow(clippy::expect_used)]

use std::time::Instant;

use espalier::augment::{Augmentation, Draw};
use espalier::data::{Dataset, Picture, PictureShape};

/// Pictures for each figure.
const PICTURES: u64 = 20_000;
/// The least of so many is taken: others had to share the machine.
const TRIES: usize = 5;

fn main() {
    let shape = PictureShape {
        height: 28,
        width: 28,
        channels: 1,
    };
    let picture = |at: usize| Picture {
        pixels: (0..784).map(|i| (i * (at + 3) % 256) as u8).collect(),
        label: at % 10,
    };
    let data = Dataset {
        shape,
        classes: (0..10).map(|class| class.to_string()).collect(),
        pictures: (0..100).map(picture).collect(),
    };
    let mut rows = vec![("none", Augmentation::default())];
    rows.extend(Augmentation::each());
    rows.push((
        "the example's",
        usual("rotate = 5\nshift = 0.08\ncrop = 0.05"),
    ));
    let all = "flip = true\nflip_vertical = true\nrotate = 5\nshear = 0.1\nscale = 0.1\ncrop = 0.1\nshift = 0.1\n\
               elastic = 0.1\nblur = 1\ncontrast = 0.3\nbrightness = 0.3\nnoise = 0.1\nerase = 0.3\nrandom = true";
    rows.push(("all but mixing", usual(all)));
    let json = std::env::args().any(|argument| argument == "--json");
    let figures: Vec<(&str, f64)> = rows
        .iter()
        .map(|(name, augmentation)| (*name, microseconds(&data, augmentation)))
        .collect();
    if json {
        let object: serde_json::Map<String, serde_json::Value> = figures
            .iter()
            .map(|(name, figure)| ((*name).to_owned(), (*figure).into()))
            .collect();
        println!("{}", serde_json::Value::from(object));
        return;
    }
    for (name, figure) in figures {
        println!("{name:<15} {figure:6.1} us");
    }
}

fn usual(text: &str) -> Augmentation {
    toml::from_str(text).expect("keys of [augment]")
}

fn microseconds(data: &Dataset, augmentation: &Augmentation) -> f64 {
    let border = data.border();
    let mut out = vec![0; data.shape.bytes()];
    let mut once = || {
        let begin = Instant::now();
        for at in 0..PICTURES {
            let draw = Draw {
                seed: 1,
                index: at % 100,
                epoch: at / 100,
            };
            std::hint::black_box(augmentation.view(data, border, draw, &mut out));
        }
        begin.elapsed().as_secs_f64() * 1e6 / PICTURES as f64
    };
    (0..TRIES).map(|_| once()).fold(f64::INFINITY, f64::min)
}
