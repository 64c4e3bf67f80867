//! What the int8 engine costs on an emulated Cortex-M4: instructions, not
//! cycles.

use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use espalier::device::footprint::Footprint;
use espalier::device::verify::compare;
use espalier::device::{Board, emulator, firmware};
use espalier::quantise::{Block, ModelFile, WrittenLayer, layout};
use serde_json::{Map, Value, json};
use shared::Model;
use shared::kernels::Storage;
use shared::layer::{Activation, Conv2d, Dense, DepthwiseConv2d, Layer, Padding, Shape, Size2};

use crate::models::{Random, preset, prune, share, single};

/// The emulated board, a Cortex-M4F.
const BOARD: &str = "mps2-an386";
/// Inferences of each model.
const INPUTS: usize = 2;
/// After this long the emulator is stopped.
const LIMIT: Duration = Duration::from_secs(120);

/// Preset, its input, its classes, and the multiply-accumulates it is known by
/// (of MLPerf Tiny for all but the first).
const NETWORKS: [(&str, [usize; 3], usize, u64); 3] = [
    ("article", [28, 28, 1], 10, 2_528_000),
    ("resnet8", [32, 32, 3], 10, 12_501_632),
    ("dscnn", [49, 10, 1], 12, 2_656_768),
];

/// The two layers that are measured a second time with 90 % of their weights
/// zero.
const PRUNED: [&str; 2] = ["conv3x3_32_64", "dense_1600_64"];
/// Those that are measured once more with coded weights.
const CODED: [&str; 3] = ["conv3x3_32_64", "depthwise3x3_64", "dense_1600_64"];
/// Names of the ratios of the sparse ones in the JSON object.
const RATIOS: [&str; 2] = ["conv_ratio", "dense_ratio"];

/// What one model costs.
#[derive(Debug)]
pub struct Cost {
    /// Name of the network or layer.
    pub name: &'static str,
    /// Multiply-accumulates of one inference, products with padding counted.
    pub macs: u64,
    /// Mean instructions of one inference.
    pub instructions: u64,
    /// RAM for activations in bytes.
    pub arena_bytes: usize,
    /// Deepest stack in bytes.
    pub stack_bytes: u32,
    /// Output bytes that differ between the chip and this machine.
    pub mismatched_bytes: usize,
    /// Instructions of the only layer, a convolution or a dense one, as export
    /// estimates them.
    pub estimate: Option<u64>,
}

impl Cost {
    /// Instructions for each multiply-accumulate.
    pub fn per_mac(&self) -> f64 {
        self.instructions as f64 / self.macs as f64
    }

    fn json(&self) -> Value {
        json!({
            "instructions": self.instructions,
            "macs": self.macs,
            "per_mac": self.per_mac(),
            "arena_bytes": self.arena_bytes,
            "stack_bytes": self.stack_bytes,
        })
    }
}

/// What the engine costs.
#[derive(Debug)]
pub struct Costs {
    /// Whole networks.
    pub networks: Vec<Cost>,
    /// Single layers.
    pub layers: Vec<Cost>,
    /// Two of them once more, with 90 % of their weights zero.
    pub sparse: Vec<Cost>,
    /// Three of them once more, coded, with 15 values.
    pub coded: Vec<Cost>,
    /// Flash of the firmware without a model, in bytes.
    pub firmware_flash_bytes: u64,
    /// Flash of the engine alone, with the start-up code and the vector table of
    /// `firmware/examples/bare.rs`, in bytes.
    pub engine_flash_bytes: u64,
}

impl Costs {
    /// Builds the firmware and runs every model in the emulator.
    pub fn measure() -> Self {
        let board = Board::named(BOARD).expect("a board of the firmware");
        let elf = firmware::build(&board).unwrap_or_else(|error| panic!("{error}"));
        let bare = firmware::build_bare(&board).unwrap_or_else(|error| panic!("{error}"));
        let run = |(name, model): (&'static str, ModelFile)| measure(&board, &elf, name, &model);
        let networks: Vec<Cost> = networks().map(run).collect();
        for (cost, (name, .., macs)) in networks.iter().zip(NETWORKS) {
            assert_eq!(cost.macs, macs, "{name} is not the published network");
        }
        Self {
            networks,
            layers: layers().into_iter().map(run).collect(),
            sparse: sparse_layers().map(run).collect(),
            coded: coded_layers().map(run).collect(),
            firmware_flash_bytes: flash(&elf),
            engine_flash_bytes: flash(&bare),
        }
    }

    /// Networks and layers, the sparse and coded ones left out.
    pub fn dense(&self) -> impl Iterator<Item = &Cost> {
        self.networks.iter().chain(&self.layers)
    }

    /// Name, and instructions with 90 % of the weights zero over instructions
    /// without.
    pub fn sparse_ratios(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.sparse.iter().map(|sparse| {
            let same = |cost: &&Cost| cost.name == sparse.name;
            let full = self.layers.iter().find(same).expect("a measured layer");
            let ratio = sparse.instructions as f64 / full.instructions as f64;
            (sparse.name, ratio)
        })
    }

    /// Output bytes that differ between the chip and this machine, of all
    /// models.
    pub fn mismatched_bytes(&self) -> usize {
        let all = self.dense().chain(&self.sparse).chain(&self.coded);
        all.map(|cost| cost.mismatched_bytes).sum()
    }

    /// Everything as one object.
    pub fn json(&self) -> Value {
        let named = |costs: &[Cost]| -> Map<String, Value> {
            let entries = costs.iter().map(|cost| (cost.name.to_owned(), cost.json()));
            entries.collect()
        };
        let mut object = named(&self.networks);
        let ratios = RATIOS.into_iter().zip(self.sparse_ratios());
        let ratios = ratios.map(|(key, (_, ratio))| (key.to_owned(), json!(ratio)));
        object.insert("sparse90".to_owned(), Value::Object(ratios.collect()));
        object.insert("layers".to_owned(), Value::Object(named(&self.layers)));
        object.insert("coded15".to_owned(), Value::Object(named(&self.coded)));
        let numbers = [
            ("engine_flash_bytes", json!(self.engine_flash_bytes)),
            ("firmware_flash_bytes", json!(self.firmware_flash_bytes)),
            ("mismatched_bytes", json!(self.mismatched_bytes())),
        ];
        object.extend(numbers.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(object)
    }
}

fn flash(elf: &Path) -> u64 {
    let bytes = std::fs::read(elf).expect("what was just built");
    let footprint = Footprint::of_elf(&bytes).expect("a program for a chip");
    footprint.flash()
}

fn measure(board: &Board, elf: &Path, name: &'static str, file: &ModelFile) -> Cost {
    let bytes = file.to_bytes().expect("a model that can be written");
    let model = Model::parse(&bytes).expect("a model that was just written");
    let mut random = Random::new(3);
    let inputs: Vec<i8> = (0..INPUTS * model.input_shape().len())
        .map(|_| random.number() as i8)
        .collect();
    let run = emulator::run(board, elf, &bytes, &inputs, LIMIT)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    Cost {
        name,
        macs: macs(&model),
        instructions: run.work_per_inference(),
        arena_bytes: model.arena_bytes(),
        stack_bytes: run.report.stack_bytes,
        mismatched_bytes: compare(&model, &inputs, &run).mismatched_bytes,
        estimate: estimate(&model),
    }
}

/// What export thinks that a model of one layer costs.
fn estimate(model: &Model) -> Option<u64> {
    let mut steps = model.steps();
    let (Some(step), None) = (steps.next(), steps.next()) else {
        return None;
    };
    Some(layout::cost(model, &step)?.instructions)
}

/// Layers of many shapes, each with all of its weights, with fewer and fewer without
/// the others, and coded: as they are, of 15 values, and mostly 0.
pub fn layouts() -> Vec<(String, Cost)> {
    let valid = Padding::Valid;
    let shapes = [
        ([13, 13, 32], conv2d(64, 3, valid)),
        ([28, 28, 1], conv2d(32, 3, valid)),
        ([25, 5, 64], conv2d(64, 1, valid)),
        ([16, 16, 16], conv2d(16, 3, valid)),
        ([8, 8, 64], conv2d(64, 3, valid)),
        ([9, 9, 32], conv2d(33, 3, valid)),
        ([14, 14, 3], conv2d(16, 3, valid)),
        ([18, 18, 8], conv2d(8, 5, valid)),
        ([25, 5, 64], depthwise(3, 1, Padding::Same)),
        ([16, 16, 16], depthwise(3, 1, valid)),
        ([7, 7, 128], depthwise(3, 1, Padding::Same)),
        ([16, 16, 32], depthwise(3, 2, Padding::Same)),
        ([12, 12, 8], depthwise(5, 1, valid)),
        ([8, 8, 24], depthwise(2, 1, Padding::Same)),
        ([10, 10, 8], depthwise(7, 1, Padding::Same)),
        ([1, 1, 1600], dense(64)),
        ([1, 1, 64], dense(10)),
        ([1, 1, 400], dense(120)),
        ([1, 1, 3000], dense(20)),
    ];
    let board = Board::named(BOARD).expect("a board of the firmware");
    let elf = firmware::build(&board).unwrap_or_else(|error| panic!("{error}"));
    let all = shapes.into_iter().flat_map(|(input, layer)| {
        let stored = stored(&single(shape(input), layer)).into_iter();
        stored.map(move |(stored, file)| (input, layer, stored, file))
    });
    let cost = |(input, layer, stored, file): (_, Layer, String, ModelFile)| {
        let channels = layer.params(shape(input)).map_or(0, |p| p.channels);
        let (kind, input) = (layer.kind(), shape(input));
        let name = format!("{kind} {input} to {channels}, {stored}");
        (name, measure(&board, &elf, "layer", &file))
    };
    all.map(cost).collect()
}

/// A layer stored in many ways, with the weights that these are made for.
fn stored(file: &ModelFile) -> Vec<(String, ModelFile)> {
    let depthwise = |layer: &WrittenLayer| matches!(layer.node.layer, Layer::DepthwiseConv2d(_));
    let zeros: &[usize] = match file.layers.iter().any(depthwise) {
        true => &[],
        false => &[50, 75, 90, 97],
    };
    let sparse = zeros.iter().map(|&zeros| {
        let name = format!("without {zeros} % zeros");
        (name, store(file, Storage::Sparse, zeros, 1))
    });
    let others = [
        ("all weights", Storage::Dense, 0, 1),
        ("coded, 255 values", Storage::Coded, 0, 1),
        ("coded, 15 values", Storage::Coded, 0, FIFTEEN),
        ("coded, 90 % zeros", Storage::Coded, 90, 1),
    ];
    let others = others
        .into_iter()
        .map(|(name, storage, zeros, step)| (name.to_owned(), store(file, storage, zeros, step)));
    others.chain(sparse).collect()
}

fn networks() -> impl Iterator<Item = (&'static str, ModelFile)> {
    let preset =
        |&(name, input, classes, _): &(_, _, _, _)| (name, preset(name, shape(input), classes));
    NETWORKS.iter().map(preset)
}

fn macs(model: &Model) -> u64 {
    model.steps().map(|step| model.macs(&step)).sum()
}

fn layers() -> [(&'static str, ModelFile); 5] {
    let (valid, same) = (Padding::Valid, Padding::Same);
    [
        (
            "conv3x3_32_64",
            single(shape([13, 13, 32]), conv2d(64, 3, valid)),
        ),
        (
            "conv3x3_1_32",
            single(shape([28, 28, 1]), conv2d(32, 3, valid)),
        ),
        (
            "depthwise3x3_64",
            single(shape([25, 5, 64]), depthwise(3, 1, same)),
        ),
        (
            "pointwise_64_64",
            single(shape([25, 5, 64]), conv2d(64, 1, valid)),
        ),
        ("dense_1600_64", single(shape([1, 1, 1600]), dense(64))),
    ]
}

fn sparse_layers() -> impl Iterator<Item = (&'static str, ModelFile)> {
    let chosen = layers()
        .into_iter()
        .filter(|(name, _)| PRUNED.contains(name));
    chosen.map(|(name, file)| (name, store(&file, Storage::Sparse, 90, 1)))
}

fn coded_layers() -> impl Iterator<Item = (&'static str, ModelFile)> {
    let chosen = layers().into_iter();
    let chosen = chosen.filter(|(name, _)| CODED.contains(name));
    chosen.map(|(name, file)| (name, store(&file, Storage::Coded, 0, FIFTEEN)))
}

/// A layer stored like this, with some of its weights zero and the others rounded.
fn store(file: &ModelFile, storage: Storage, zeros: usize, step: i8) -> ModelFile {
    let mut file = file.clone();
    prune(&mut file, zeros);
    for layer in &mut file.layers {
        layer.storage = storage;
        if let Block::Conv { weights, .. } | Block::Dense { weights, .. } = &mut layer.block {
            share(weights, step);
        }
    }
    file
}

/// Multiples of this are 15 values.
const FIFTEEN: i8 = 18;

fn shape([height, width, channels]: [usize; 3]) -> Shape {
    Shape::new(height, width, channels).expect("small enough")
}

fn square(side: u8) -> Size2 {
    Size2::new(side, side).expect("not 0")
}

fn count(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not 0")
}

fn conv2d(filters: u16, kernel: u8, padding: Padding) -> Layer {
    Layer::Conv2d(Conv2d {
        filters: count(filters),
        kernel: square(kernel),
        stride: Size2::ONE,
        padding,
        activation: Activation::Relu,
    })
}

fn depthwise(kernel: u8, stride: u8, padding: Padding) -> Layer {
    Layer::DepthwiseConv2d(DepthwiseConv2d {
        multiplier: std::num::NonZeroU8::MIN,
        kernel: square(kernel),
        stride: square(stride),
        padding,
        activation: Activation::Relu,
    })
}

fn dense(units: u16) -> Layer {
    Layer::Dense(Dense {
        units: count(units),
        activation: Activation::Relu,
    })
}
