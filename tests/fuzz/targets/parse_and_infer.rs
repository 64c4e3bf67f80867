//! Whatever the bytes are: parsing ends in an error or in a model, and a model
//! gives the same output whatever its arena held and however large it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::layer::Shape;
use shared::model::{CRC_RANGE, HEADER_BYTES, MAGIC, VERSION, crc32};
use shared::{Engine, Model, ParseError, golden};

/// What a longer run would teach no more about.
const MAX_ARENA: usize = 1 << 20;
const MAX_COST: u64 = 5_000_000;
/// Files are extended up to this length where their descriptor asks for it.
const MAX_FILE: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&repaired(bytes));
});

/// The same bytes with a header and a length that let the reader get to what
/// lies behind.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file.resize(file.len().max(HEADER_BYTES), 0);
    loop {
        write_header(&mut file);
        let length = match Model::parse(&file) {
            Err(ParseError::CutOff { needed, .. }) if needed > file.len() => needed,
            Err(ParseError::Stray { offset }) if ends_at(&file, offset) => offset,
            _ => return file,
        };
        if length > MAX_FILE {
            return file;
        }
        file.resize(length, 0);
    }
}

/// Whether the file is whole without what lies behind `offset`.
fn ends_at(file: &[u8], offset: usize) -> bool {
    let mut whole = file.get(..offset).unwrap_or_default().to_vec();
    whole.len() >= HEADER_BYTES && {
        write_header(&mut whole);
        Model::parse(&whole).is_ok()
    }
}

fn write_header(file: &mut [u8]) {
    let length = file.len() as u32;
    file[..8].copy_from_slice(&MAGIC);
    file[8..10].copy_from_slice(&VERSION.to_le_bytes());
    file[12..16].copy_from_slice(&length.to_le_bytes());
    let crc = crc32(file);
    file[CRC_RANGE].copy_from_slice(&crc.to_le_bytes());
}

fn check(bytes: &[u8]) {
    let Ok(model) = Model::parse(bytes) else {
        return;
    };
    assert!(model.class_names().all(|name| name.len() <= 64));
    if model.arena_bytes() > MAX_ARENA || cost(&model) > MAX_COST {
        return;
    }
    let seed = crc32(bytes);
    let first = infer(&model, 0, 0x55, seed);
    let second = infer(&model, 33, -0x56, seed);
    assert_eq!(first, second);
}

/// Outputs for a random input and for the two extremes.
fn infer(model: &Model, spare: usize, garbage: i8, seed: u32) -> Vec<i8> {
    let mut arena = vec![garbage; model.arena_bytes() + spare];
    let mut engine = Engine::new(model, &mut arena).expect("the arena is as large as it says");
    let mut outputs = engine.infer(|input| golden::fill(seed, 0, input)).to_vec();
    for extreme in [i8::MIN, i8::MAX] {
        outputs.extend_from_slice(engine.infer(|input| input.fill(extreme)));
    }
    outputs
}

/// Reads of the input, the measure of how long an inference takes.
fn cost(model: &Model) -> u64 {
    let shape = |tensor: u8| -> Shape { model.tensor(tensor).shape };
    let steps = model.steps().map(|step| {
        let window = step.layer.window(shape(step.inputs[0]));
        let area = window.map_or(1, |window| window.kernel.area());
        model.macs(&step) + (shape(step.output).len() * area) as u64
    });
    steps.sum()
}
