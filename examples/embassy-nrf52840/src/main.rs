//! A model of espalier in an application that does other things as well: once a second it looks at a picture and logs
//! what it sees, and how long that took.
#![no_std]
#![no_main]

use defmt::{info, unwrap};
use defmt_rtt as _;
use embassy_executor::Spawner;
use embassy_time::{Duration, Instant, Ticker};
use espalier_shared::{Engine, Model};
use panic_probe as _;

/// What `espalier export` wrote. A file of your own goes here.
static MODEL: &[u8] = include_bytes!("../../fashion-mnist/4k/model.esp");
/// At least what `espalier inspect` calls the arena.
const ARENA_BYTES: usize = 9 * 1024;
/// The model's input, grey: height times width.
const PIXELS: usize = 28 * 28;

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    embassy_nrf::init(Default::default());
    // Both fail at the first start or never: the model is part of the program.
    let model = unwrap!(Model::parse(MODEL).ok(), "the model is damaged");
    let mut arena = [0; ARENA_BYTES];
    let mut engine = unwrap!(Engine::new(&model, &mut arena).ok(), "too small an arena");

    let mut second = Ticker::every(Duration::from_secs(1));
    for count in 0.. {
        let picture = take_picture(count);
        let start = Instant::now();
        engine.infer(|input| model.preprocessing().quantise(&picture, input));
        let micros = start.elapsed().as_micros();
        let class = model.class_names().nth(engine.answer()).unwrap_or("?");
        info!("{=str}, in {=u64} us", class, micros);
        // Other tasks run here; while the engine computes they wait, unless their executor has a higher priority.
        second.next().await;
    }
}

/// In place of a camera: a bright rectangle on black, wider with each picture.
fn take_picture(count: usize) -> [u8; PIXELS] {
    let width = 4 + count % 20;
    core::array::from_fn(|index| {
        let (y, x) = (index / 28, index % 28);
        let inside = (4..24).contains(&y) && x.abs_diff(14) <= width / 2;
        if inside { 200 } else { 0 }
    })
}
