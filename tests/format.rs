//! The model file: what the writer writes the reader reads, and whatever else
//! is in a file ends in an error that says what and where.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::BTreeSet;
use std::num::{NonZeroU8, NonZeroU16};

use espalier::quantise::{Block, ModelFile, WriteError, WrittenLayer};
use espalier_tests::command::workspace;
use espalier_tests::models::{
    Random, chain, code, compact, cost, documented, every_kind, random, sparsen,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use shared::arith::{MAX_BIAS, Multiplier};
use shared::kernels::conv2d::scratch_bytes;
use shared::kernels::lanes::Lanes;
use shared::kernels::{DepthwiseWeights, Storage, Way, Weights};
use shared::layer::{
    Activation, Add, Conv2d, Dense, DepthwiseConv2d, Layer, Padding, Pool2d, Shape, ShapeError,
    Size2,
};
use shared::model::{
    CRC_RANGE, ChannelLayout, Confidence, Data, HEADER_BYTES, MAX_FILE, Node, Quant, Sources,
    VERSION, WeightLayout, crc32, weight_bytes, weights_start,
};
use shared::slots::Record;
use shared::{ArenaTooSmall, Engine, Model, ParseError};

/// Where the header holds the length of the file.
const LENGTH: std::ops::Range<usize> = 12..16;
/// Where the header holds the length of the descriptor.
const DESCRIPTOR: std::ops::Range<usize> = 20..24;

// What is written comes back.

#[test]
fn every_layer_kind_comes_back() {
    let written = every_kind();
    let kinds: BTreeSet<&str> = written.layers.iter().map(|l| l.node.layer.kind()).collect();
    assert_eq!(kinds.len(), 9);
    comes_back(&written);
    comes_back(&documented());
}

fn comes_back(written: &ModelFile) {
    let bytes = written.to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    assert_eq!(model.file(), bytes);
    assert_eq!(model.input_shape(), written.input);
    assert_eq!(quant_of(&model, 0), written.input_quant);
    assert_eq!(model.preprocessing().resize, written.resize);
    assert!(
        model
            .class_names()
            .eq(written.classes.iter().map(String::as_str))
    );
    assert_eq!(model.steps().count(), written.layers.len());
    for (step, layer) in model.steps().zip(&written.layers) {
        assert_eq!(step.layer, layer.node.layer);
        assert_eq!(step.inputs, inputs(layer.node.sources));
        assert_eq!(quant_of(&model, step.output), layer.node.output);
        let zero_point = written.input_of(layer).zero_point;
        let same = is_same(model.data(&step), &layer.block, zero_point);
        assert!(same, "{step:?}");
        assert_eq!(step.layout.weights.storage(), layer.storage);
        // A bias that has taken in the zero point may not fit a word.
        if step.layout.channels != layer.channels {
            assert!(!is_compact(model.data(&step), &layer.block, zero_point));
        }
    }
    self_test_passes(&model, written.golden);
}

/// Whether all biases, as they should lie in the file, have 16 bits.
fn is_compact(read: Data, written: &Block, zero_point: i8) -> bool {
    let (weights, of) = match (read, written) {
        (Data::Conv(read), Block::Conv { weights, bias, .. }) => {
            (weights, biases(read.weights, weights, bias, zero_point))
        }
        (Data::Dense(read), Block::Dense { weights, bias, .. }) => {
            (weights, biases(read.weights, weights, bias, zero_point))
        }
        _ => return true,
    };
    !weights.is_empty() && of.iter().all(|&bias| i16::try_from(bias).is_ok())
}

fn quant_of(model: &Model, tensor: u8) -> Quant {
    let tensor = model.tensor(tensor);
    Quant {
        scale: tensor.scale,
        zero_point: tensor.zero_point,
    }
}

fn inputs(sources: Sources) -> [u8; 2] {
    match sources {
        Sources::One(a) => [a, a],
        Sources::Two(a, b) => [a, b],
    }
}

fn is_same(read: Data, written: &Block, zero_point: i8) -> bool {
    match (read, written) {
        (
            Data::Conv(read),
            Block::Conv {
                weights,
                bias,
                factors,
            },
        ) => {
            let biases = biases(read.weights, weights, bias, zero_point);
            let channels = biases.into_iter().zip(factors.iter().copied());
            has_weights(read.weights, weights, bias.len())
                && read.channels.iter().take(bias.len()).eq(channels)
        }
        (
            Data::Depthwise(read),
            Block::Conv {
                weights,
                bias,
                factors,
            },
        ) => {
            let channels = bias.iter().copied().zip(factors.iter().copied());
            let area = weights.len() / bias.len();
            let depthwise = match read.weights {
                DepthwiseWeights::Plain(weights) => weights.to_vec(),
                DepthwiseWeights::Coded(coded) => {
                    let mut decoded = vec![0; weights.len()];
                    coded.decoder().weights(&mut decoded);
                    decoded
                }
            };
            let same = |(index, &w): (usize, &i8)| {
                let (tap, channel) = (index / bias.len(), index % bias.len());
                depthwise[channel * area + tap] == w
            };
            weights.iter().enumerate().all(same)
                && read.channels.iter().take(bias.len()).eq(channels)
        }
        (
            Data::Dense(read),
            Block::Dense {
                weights,
                bias,
                factors,
            },
        ) => {
            let biases = biases(read.weights, weights, bias, zero_point);
            let units = biases.into_iter().zip(factors.iter().copied());
            has_weights(read.weights, weights, bias.len())
                && read.units.iter().take(bias.len()).eq(units)
        }
        (Data::Add(read), Block::Add(factors)) => read == *factors,
        (Data::Softmax(read), Block::Softmax(factor)) => read.0 == *factor,
        (Data::None, Block::None) => true,
        _ => false,
    }
}

/// The weights, all of them.
fn has_weights(read: Weights, weights: &[i8], filters: usize) -> bool {
    let fan_in = weights.len() / filters;
    let in_lanes = |lanes: Lanes| {
        let read = |index| lanes.weight(index / fan_in, index % fan_in);
        let same = |(index, &w): (usize, &i8)| read(index) == i16::from(w);
        weights.iter().enumerate().all(same)
    };
    match read {
        Weights::Lanes(lanes) => in_lanes(lanes),
        Weights::Coded(coded) => in_lanes(coded.lanes(&mut vec![0; coded.lane_words()])),
        Weights::Sparse(read) => {
            let mut all = vec![0; weights.len()];
            for (filter, row) in read.filters().zip(all.chunks_mut(fan_in)) {
                filter.taps().for_each(|(tap, weight)| row[tap] = weight);
            }
            all == weights
        }
    }
}

/// The biases as they should lie in the file.
fn biases(read: Weights, weights: &[i8], bias: &[i32], zero_point: i8) -> Vec<i32> {
    let fan_in = weights.len() / bias.len();
    let rows = weights.chunks(fan_in).zip(bias);
    let folded = |(weights, &bias): (&[i8], &i32)| match read {
        Weights::Lanes(_) | Weights::Coded(_) => bias,
        Weights::Sparse(_) => {
            let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
            bias - sum * i32::from(zero_point)
        }
    };
    rows.map(folded).collect()
}

fn self_test_passes(model: &Model, count: u8) {
    let golden = model.golden();
    assert_eq!(golden.count(), usize::from(count));
    let mut arena = vec![0; model.arena_bytes()];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    for index in 0..golden.count() {
        let output = engine.infer(|input| golden.fill(index, input));
        assert_eq!(output, golden.expected(index));
    }
}

// What is not whole is refused.

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = every_kind().to_bytes().unwrap();
    for available in 0..bytes.len() {
        let needed = match available {
            0..HEADER_BYTES => HEADER_BYTES,
            _ => bytes.len(),
        };
        let cut = &bytes[..available];
        assert_eq!(refusal(cut), ParseError::CutOff { needed, available });
        // Nor is a part a model when its header agrees with it.
        let mut sealed = cut.to_vec();
        if available >= HEADER_BYTES {
            seal(&mut sealed);
            refusal(&sealed);
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let bytes = every_kind().to_bytes().unwrap();
    for mask in [0x01, 0x02, 0x10, 0x80, 0xFF] {
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            let error = refusal(&changed);
            let expected = match at {
                0..8 => matches!(error, ParseError::Magic),
                8..10 => matches!(error, ParseError::Version { .. }),
                12..16 => matches!(
                    error,
                    ParseError::CutOff { .. } | ParseError::TooLong { .. } | ParseError::Crc { .. }
                ),
                _ => matches!(error, ParseError::Crc { .. }),
            };
            assert!(expected, "byte {at} xor {mask:#x}: {error}");
        }
    }
}

#[test]
fn what_lies_behind_the_file_does_not_matter() {
    let bytes = every_kind().to_bytes().unwrap();
    for filler in [0x00, 0xFF, b'e'] {
        let mut region = bytes.clone();
        region.resize(4 * bytes.len(), filler);
        assert_eq!(Model::parse(&region).unwrap().file(), bytes);
    }
}

#[test]
fn every_check_says_what_and_where() {
    for (number, (wanted, found)) in refusals().into_iter().enumerate() {
        assert_eq!(wanted, found, "case {number}");
    }
}

#[test]
fn the_document_lists_every_error() {
    let reached: BTreeSet<String> = refusals().iter().map(|(error, _)| name(error)).collect();
    let text = document();
    let (_, section) = text.split_once("## Errors").unwrap();
    let first_cell = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    let listed: BTreeSet<String> = section.lines().filter_map(first_cell).collect();
    assert_eq!(listed, reached);
}

/// The error's variant.
fn name(error: &ParseError) -> String {
    let debug = format!("{error:?}");
    debug.split(' ').next().unwrap().to_owned()
}

/// Every error, as it should be and as it is, each from a file whose only flaw
/// it is.
fn refusals() -> Vec<(ParseError, ParseError)> {
    [
        in_the_header(),
        in_the_descriptor(),
        in_the_network(),
        in_the_parameters(),
        in_the_words(),
        in_the_entries(),
        in_the_codes(),
        in_the_plan(),
        in_the_confidence(),
        left_over(),
    ]
    .concat()
}

fn in_the_header() -> Vec<(ParseError, ParseError)> {
    let bytes = documented().to_bytes().unwrap();
    let length = bytes.len();
    let cut_off = |needed, available| ParseError::CutOff { needed, available };
    let patched = |at: usize, new: &[u8]| refusal(&patched(&bytes, at, new));
    let crc = |stored| ParseError::Crc {
        stored,
        found: crc32(&bytes),
    };
    let newer = VERSION + 1;
    vec![
        (cut_off(HEADER_BYTES, 0), refusal(b"")),
        (
            ParseError::Magic,
            refusal(b"Espalier and what else a file may hold"),
        ),
        (ParseError::Magic, refusal(b"esq")),
        (
            ParseError::Version { found: newer },
            patched(8, &newer.to_le_bytes()),
        ),
        (ParseError::Version { found: 0 }, patched(8, &[0, 0])),
        (
            ParseError::TooLong {
                length: MAX_FILE + 1,
            },
            patched(LENGTH.start, &(MAX_FILE as u32 + 1).to_le_bytes()),
        ),
        (
            cut_off(MAX_FILE, length),
            patched(LENGTH.start, &(MAX_FILE as u32).to_le_bytes()),
        ),
        (
            cut_off(HEADER_BYTES, HEADER_BYTES - 1),
            patched(LENGTH.start, &(HEADER_BYTES as u32 - 1).to_le_bytes()),
        ),
        (cut_off(HEADER_BYTES, 0), patched(LENGTH.start, &[0; 4])),
        (crc(1), patched(CRC_RANGE.start, &[1, 0, 0, 0])),
        (ParseError::Stray { offset: 10 }, resealed(&bytes, 10, &[1])),
        (ParseError::Stray { offset: 11 }, resealed(&bytes, 11, &[1])),
        (
            ParseError::Descriptor { offset: 20 },
            resealed(&bytes, DESCRIPTOR.start, &[0xFF; 4]),
        ),
        (
            ParseError::Descriptor { offset: 24 },
            resealed(&bytes, DESCRIPTOR.start, &[0; 4]),
        ),
    ]
}

fn in_the_descriptor() -> Vec<(ParseError, ParseError)> {
    let written = documented();
    let bytes = written.to_bytes().unwrap();
    let at = Places::of(&bytes);
    let unreadable = |offset| ParseError::Descriptor { offset };
    let classes = |names: &[&str]| {
        refused(ModelFile {
            classes: names.iter().map(|&name| name.to_owned()).collect(),
            ..written.clone()
        })
    };
    let layers = |layers: Vec<WrittenLayer>| {
        refused(ModelFile {
            classes: Vec::new(),
            layers,
            ..written.clone()
        })
    };
    let flatten = plain(Layer::Flatten, written.input_quant);
    vec![
        // A side of 0, a resize rule and a layer kind that do not exist, bytes
        // that are no text, a length of a name in two bytes, a value cut off.
        (unreadable(at.head), resealed(&bytes, at.head, &[0])),
        (unreadable(at.head), resealed(&bytes, at.head + 8, &[3])),
        (unreadable(at.layer), resealed(&bytes, at.layer, &[9])),
        (
            unreadable(at.names),
            resealed(&bytes, at.names + 1, &[0xFF]),
        ),
        (unreadable(at.names), resealed(&bytes, at.names, &[0x82, 0])),
        (
            unreadable(at.layer),
            resealed(&bytes, DESCRIPTOR.start, &[at.end as u8 - 25]),
        ),
        (
            unreadable(at.end),
            resealed(&bytes, DESCRIPTOR.start, &[at.end as u8 - 23]),
        ),
        (
            ParseError::Classes {
                names: 3,
                outputs: 2,
            },
            classes(&["a", "b", "c"]),
        ),
        (
            ParseError::Name { index: 1 },
            classes(&["no", &"y".repeat(65)]),
        ),
        (ParseError::LayerCount { count: 0 }, layers(Vec::new())),
        (
            ParseError::LayerCount { count: 65 },
            layers(vec![flatten; 65]),
        ),
    ]
}

fn in_the_network() -> Vec<(ParseError, ParseError)> {
    let quant = |scale, zero_point| Quant { scale, zero_point };
    let usual = quant(0.5, 0);
    let scale = |tensor, scale| {
        let mut file = documented();
        match tensor {
            0 => file.input_quant.scale = scale,
            _ => file.layers[0].node.output.scale = scale,
        }
        (ParseError::Scale { tensor }, refused(file))
    };
    let source = |index| {
        let mut file = documented();
        file.layers[0].node.sources = Sources::One(index);
        (ParseError::Source { layer: 0 }, refused(file))
    };
    let rescale = |layer: Layer, output| {
        let kind = layer.kind();
        let error = ParseError::Rescale { layer: 0, kind };
        (error, refused(one_layer((4, 4, 2), layer, output)))
    };
    let pool = Pool2d {
        kernel: square(2),
        stride: None,
        padding: Padding::Valid,
        activation: Activation::None,
    };
    let misfit = |input, layer, error| {
        let error = ParseError::Shape { layer: 0, error };
        (error, refused(one_layer(input, layer, usual)))
    };
    let mut unused = documented();
    unused.classes.clear();
    unused.layers.push(unused.layers[0].clone());
    let mut two_inputs = one_layer((4, 4, 2), Layer::Flatten, usual);
    two_inputs.layers[0].node.sources = Sources::Two(0, 0);
    vec![
        scale(0, 0.0),
        scale(0, f32::NAN),
        scale(1, -1.0),
        scale(1, f32::INFINITY),
        source(1),
        source(255),
        rescale(Layer::Flatten, quant(0.25, 0)),
        rescale(Layer::GlobalAvgPool2d, quant(0.5, 1)),
        rescale(Layer::MaxPool2d(pool), quant(f32::NAN, 0)),
        rescale(Layer::AvgPool2d(pool), quant(1.0, 0)),
        rescale(Layer::Softmax, usual),
        misfit((300, 300, 1), Layer::Flatten, ShapeError::Size),
        misfit((1, 1, 40_000), depthwise(2, Size2::ONE), ShapeError::Size),
        misfit((4, 4, 1), conv2d(5), ShapeError::WindowTooLarge),
        misfit(
            (256, 1, 1),
            Layer::GlobalAvgPool2d,
            ShapeError::WindowTooLarge,
        ),
        misfit((181, 182, 1), dense(1), ShapeError::FanIn),
        misfit((1, 1, 4097), Layer::Softmax, ShapeError::Softmax),
        misfit((4, 4, 2), add(), ShapeError::Inputs),
        (
            ParseError::Shape {
                layer: 0,
                error: ShapeError::Inputs,
            },
            refused(two_inputs),
        ),
        (
            ParseError::Shape {
                layer: 1,
                error: ShapeError::AddShapes,
            },
            refused(add_of_two_shapes()),
        ),
        (ParseError::Unused { tensor: 1 }, refused(unused)),
    ]
}

fn in_the_parameters() -> Vec<(ParseError, ParseError)> {
    let bytes = every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let step = |kind| {
        model
            .steps()
            .find(|step| step.layer.kind() == kind)
            .unwrap()
    };
    // The part of channel 1's parameters that lies `words` words of all
    // channels behind the weights.
    let wrong = |kind, words: usize, width: usize, new: &[u8]| {
        let step = step(kind);
        let params = model.params(&step).unwrap();
        let channels = params.channels.next_multiple_of(2);
        let parts = weight_bytes(&step.layer, step.layout.weights, params) + 4 * words * channels;
        let layer = usize::from(step.output) - 1;
        let at = step.block as usize + parts + width;
        let error = ParseError::Parameter { layer, channel: 1 };
        (error, resealed(&bytes, at, new))
    };
    // Behind an odd number of channels nothing is anything but 0.
    let behind_the_last = |width: usize, words: usize| {
        let step = step("dense");
        let params = model.params(&step).unwrap();
        let parts = weight_bytes(&step.layer, step.layout.weights, params)
            + 4 * words * (params.channels + 1);
        let at = step.block as usize + parts + params.channels * width;
        let layer = usize::from(step.output) - 1;
        let error = ParseError::Parameter {
            layer,
            channel: params.channels,
        };
        (error, resealed(&bytes, at, &[1]))
    };
    let wrong_pair = |kind, channel: usize, mantissa: i32, shift: i32| {
        let step = step(kind);
        let pair = [mantissa.to_le_bytes(), shift.to_le_bytes()].concat();
        let layer = usize::from(step.output) - 1;
        let error = ParseError::Parameter { layer, channel };
        (
            error,
            resealed(&bytes, step.block as usize + 8 * channel, &pair),
        )
    };
    let bias = (MAX_BIAS + 1).to_le_bytes();
    let half = 1 << 30;
    vec![
        wrong("conv2d", 0, 4, &bias),
        wrong("conv2d", 0, 4, &i32::MIN.to_le_bytes()),
        wrong("conv2d", 1, 4, &1i32.to_le_bytes()),
        wrong("conv2d", 1, 4, &(-1i32).to_le_bytes()),
        wrong("depthwise_conv2d", 2, 1, &[32]),
        wrong("depthwise_conv2d", 2, 1, &[-32i8 as u8]),
        wrong("dense", 0, 4, &bias),
        wrong("dense", 1, 8, &f64::NAN.to_le_bytes()),
        wrong("dense", 1, 8, &f64::INFINITY.to_le_bytes()),
        wrong("dense", 1, 8, &(-1f64).to_le_bytes()),
        behind_the_last(4, 0),
        behind_the_last(8, 1),
        wrong_pair("add", 0, half, 1),
        wrong_pair("add", 1, half - 1, 0),
        wrong_pair("add", 2, half, 32),
        // Only a reader of the whole word sees that this is not a shift of 0.
        wrong_pair("add", 2, half, 256),
        wrong_pair("softmax", 0, half, -1),
    ]
}

/// Compact channels of a dense layer with three units.
fn in_the_words() -> Vec<(ParseError, ParseError)> {
    let bytes = compact(every_kind()).to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let mut steps = model.steps();
    let step = steps.find(|step| step.layer.kind() == "dense").unwrap();
    let params = model.params(&step).unwrap();
    assert_eq!(
        (params.channels, step.layout.channels),
        (3, ChannelLayout::Compact)
    );
    let weights = weight_bytes(&step.layer, step.layout.weights, params);
    let layer = usize::from(step.output) - 1;
    let wrong = |channel, at: usize, new: u8| {
        let at = step.block as usize + weights + 4 * channel + at;
        let error = ParseError::Parameter { layer, channel };
        (error, resealed(&bytes, at, &[new]))
    };
    // A shift of 0, and something but 0 behind the last unit.
    vec![
        wrong(0, 3, 0x07),
        wrong(2, 3, 0),
        wrong(3, 0, 1),
        wrong(3, 3, 0x08),
    ]
}

/// Bytes that are not 0 or not there where they should be.
fn left_over() -> Vec<(ParseError, ParseError)> {
    let bytes = documented().to_bytes().unwrap();
    let at = Places::of(&bytes);
    let stray = |offset| (ParseError::Stray { offset }, resealed(&bytes, offset, &[1]));
    let behind = |bytes: &[u8]| {
        let mut longer = bytes.to_vec();
        longer.push(0);
        seal(&mut longer);
        let offset = bytes.len();
        (ParseError::Stray { offset }, refusal(&longer))
    };
    vec![
        stray(at.end),
        stray(at.weights - 1),
        behind(&bytes),
        behind_nine_weights(),
        behind_two_shifts(),
    ]
}

/// A depthwise convolution of 3x3 weights, of which the last word has one.
fn behind_nine_weights() -> (ParseError, ParseError) {
    let quant = documented().input_quant;
    let mut file = one_layer((4, 4, 1), depthwise(1, square(3)), quant);
    file.layers[0].block = Block::Conv {
        weights: vec![1; 9],
        bias: vec![0],
        factors: vec![Multiplier::new(0, 0).unwrap()],
    };
    let bytes = file.to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let offset = model.steps().next().unwrap().block as usize + 11;
    (ParseError::Stray { offset }, resealed(&bytes, offset, &[1]))
}

/// A convolution whose block is filled up to whole words.
fn behind_two_shifts() -> (ParseError, ParseError) {
    let quant = documented().input_quant;
    let mut file = one_layer((1, 1, 1), conv2d(1), quant);
    file.layers[0].block = Block::Conv {
        weights: vec![1],
        bias: vec![0],
        factors: vec![Multiplier::new(0, 0).unwrap()],
    };
    let bytes = file.to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let block = model.steps().next().unwrap().block as usize;
    let offset = block + 4 + 2 * (4 + 4 + 1);
    (ParseError::Stray { offset }, resealed(&bytes, offset, &[1]))
}

#[test]
fn a_weight_that_has_no_code_keeps_its_layer_dense() {
    let quant = documented().input_quant;
    let mut file = one_layer((4, 4, 1), depthwise(1, square(3)), quant);
    let mut stored = |weight| {
        file.layers[0].storage = Storage::Coded;
        file.layers[0].block = Block::Conv {
            weights: vec![weight; 9],
            bias: vec![0],
            factors: vec![Multiplier::new(0, 0).unwrap()],
        };
        let bytes = file.to_bytes().unwrap();
        let step = Model::parse(&bytes).unwrap().steps().next().unwrap();
        step.layout.weights
    };
    assert_eq!(stored(-127), WeightLayout::Coded { bytes: 8 });
    assert_eq!(stored(i8::MIN), WeightLayout::Dense);
}

fn in_the_entries() -> Vec<(ParseError, ParseError)> {
    let mut file = documented();
    file.layers[0].storage = Storage::Sparse;
    let bytes = file.to_bytes().unwrap();
    let at = Places::of(&bytes);
    let entries = at.place - 2; // how many there are
    assert_eq!(bytes[entries - 1..=entries], [1, 12]);
    // Two counts; five entries and two bytes of 0 for each of two units.
    let wrong = |filter, at: usize, new: &[u8]| {
        let error = ParseError::Entries { layer: 0, filter };
        (error, resealed(&bytes, at, new))
    };
    let first = at.weights + 4;
    // A convolution becomes a depthwise one of the same bytes.
    let mut file = one_layer((1, 1, 1), conv2d(1), documented().input_quant);
    file.layers[0].block = Block::Conv {
        weights: vec![1],
        bias: vec![0],
        factors: vec![Multiplier::new(1 << 30, 0).unwrap()],
    };
    file.layers[0].storage = Storage::Sparse;
    let conv = file.to_bytes().unwrap();
    let layer = conv.windows(5).position(|w| w == [0, 1, 1, 1, 1]);
    let layer = layer.unwrap();
    vec![
        (
            ParseError::Layout { layer: 0 },
            resealed(&conv, layer, &[1]),
        ),
        (
            ParseError::CutOff {
                needed: at.weights + 4 + 2 * 127,
                available: bytes.len(),
            },
            resealed(&bytes, entries, &[127]),
        ),
        wrong(0, at.weights, &[13]),
        wrong(1, at.weights + 2, &[7]),
        wrong(1, at.weights + 2, &[6]),
        wrong(2, at.weights + 2, &[4]),
        wrong(0, first + 1, &[1]),
        wrong(0, first + 3, &[0]),
        wrong(0, first + 10, &[1]),
        wrong(1, first + 23, &[1]),
    ]
}

fn in_the_codes() -> Vec<(ParseError, ParseError)> {
    let mut file = documented();
    file.layers[0].storage = Storage::Coded;
    let bytes = file.to_bytes().unwrap();
    let at = Places::of(&bytes);
    let length = at.place - 2; // how many bytes there are
    assert_eq!(bytes[length - 1..=length], [2, 20]);
    // Six codes of 3 and four of 4 bits, in a codebook of 14 bytes; 34 bits.
    assert_eq!(bytes[at.weights + 2..at.weights + 4], [6, 4]);
    let codebook = |at: usize, new: &[u8]| {
        let error = ParseError::Codebook { layer: 0 };
        (error, resealed(&bytes, at, new))
    };
    let stream = |at: usize, new: &[u8]| {
        let error = ParseError::Stream { layer: 0 };
        (error, resealed(&bytes, at, new))
    };
    let values = at.weights + 4;
    vec![
        (
            ParseError::CutOff {
                needed: at.weights + 127,
                available: bytes.len(),
            },
            resealed(&bytes, length, &[127]),
        ),
        codebook(at.weights + 2, &[5]),
        codebook(at.weights + 2, &[7]),
        codebook(at.weights, &[1]),
        codebook(at.weights + 3, &[200]),
        codebook(values + 1, &[bytes[values]]),
        codebook(values, &[0x80]),
        codebook(length, &[12]),
        stream(length, &[16]),
        stream(length, &[17]),
        stream(length, &[24]),
        stream(values + 14, &[1]),
        stream(values + 15, &[bytes[values + 15] | 1]),
        stream(values + 15, &[bytes[values + 15] | 0x20]),
    ]
}

fn in_the_plan() -> Vec<(ParseError, ParseError)> {
    let bytes = documented().to_bytes().unwrap();
    let at = Places::of(&bytes);
    let placed = |offset: u8, scratch: u8| resealed(&bytes, at.place, &[offset, scratch]);
    let model = Model::parse(&bytes).unwrap();
    let scratch = model.arena_bytes() - 3 - usize::from(bytes[at.place + 1]);
    vec![
        // On the input; on the input's last byte; scratch on the output; not aligned.
        (ParseError::Plan { tensor: 1 }, placed(0, 16)),
        (ParseError::Plan { tensor: 1 }, placed(4, 16)),
        (ParseError::Plan { tensor: 1 }, placed(8, 8)),
        (ParseError::Plan { tensor: 1 }, placed(8, 17)),
        (
            ParseError::Arena {
                bytes: 100 + scratch as u32,
            },
            placed(90, 100),
        ),
    ]
}

fn in_the_confidence() -> Vec<(ParseError, ParseError)> {
    let good = confidence();
    let with = |bad: Confidence| {
        let bytes = documented().to_bytes().unwrap();
        match espalier::quantise::with_confidence(&bytes, &bad) {
            Err(WriteError::Refused(error)) => (ParseError::Confidence, error),
            other => panic!("{other:?}"),
        }
    };
    let temperature = |temperature| {
        with(Confidence {
            temperature,
            ..good
        })
    };
    vec![
        temperature(0.0),
        temperature(-1.0),
        temperature(f32::INFINITY),
        temperature(f32::NAN),
        with(Confidence {
            answered: 301,
            ..good
        }),
        with(Confidence {
            correct: 201,
            ..good
        }),
    ]
}

fn confidence() -> Confidence {
    Confidence {
        temperature: 0.75,
        margin: 27,
        pictures: 300,
        answered: 200,
        correct: 190,
    }
}

#[test]
fn confidence_lies_behind_the_layers() {
    let plain = documented().to_bytes().unwrap();
    let bytes = espalier::quantise::with_confidence(&plain, &confidence()).unwrap();
    let (at, model) = (Places::of(&plain), Model::parse(&bytes).unwrap());
    assert_eq!(model.confidence(), Some(confidence()));
    assert_eq!(Model::parse(&plain).unwrap().confidence(), None);
    // As the document says: f32, u8, and three varints.
    let said = [0, 0, 0x40, 0x3F, 27, 0xAC, 2, 0xC8, 1, 0xBE, 1];
    assert_eq!(bytes[at.end..at.end + said.len()], said);
    assert_eq!(model.steps().count(), 1);
    // Only the answer that is far enough ahead counts.
    let mut arena = vec![0; model.arena_bytes()];
    let mut engine = shared::Engine::new(&model, &mut arena).unwrap();
    let mut sure = |input: [i8; 5]| {
        engine.infer(|to| to.copy_from_slice(&input));
        let margin = shared::margin(engine.logits());
        assert_eq!(engine.is_sure(), margin >= 27);
        engine.is_sure()
    };
    assert!(sure([127, -128, 127, -128, 127]) && !sure([-1, -1, -1, -1, -18]));
    // Nothing may follow.
    let end = bytes[DESCRIPTOR.start];
    let error = resealed(&bytes, DESCRIPTOR.start, &[end + 1]);
    assert_eq!(
        error,
        ParseError::Stray {
            offset: at.end + said.len()
        }
    );
}

/// Offsets in the file of [`documented`].
struct Places {
    head: usize,
    names: usize,
    layer: usize,
    /// Of the layer: its output's offset, then its scratch's.
    place: usize,
    /// Of the descriptor.
    end: usize,
    weights: usize,
}

impl Places {
    fn of(documented: &[u8]) -> Self {
        let word = documented[DESCRIPTOR].try_into().unwrap();
        let descriptor = u32::from_le_bytes(word) as usize;
        let names = documented.windows(3).position(|w| w == b"\x02no").unwrap();
        Self {
            head: HEADER_BYTES,
            names,
            layer: names + "\x02no\x03yes".len(),
            place: HEADER_BYTES + descriptor - 2,
            end: HEADER_BYTES + descriptor,
            weights: weights_start(descriptor),
        }
    }
}

fn refusal(bytes: &[u8]) -> ParseError {
    match Model::parse(bytes) {
        Err(error) => error,
        Ok(_) => panic!("{} bytes were accepted", bytes.len()),
    }
}

/// Why the reader refuses what the writer has written.
fn refused(file: ModelFile) -> ParseError {
    match file.to_bytes() {
        Err(WriteError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn patched(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

fn resealed(bytes: &[u8], at: usize, new: &[u8]) -> ParseError {
    let mut bytes = patched(bytes, at, new);
    seal(&mut bytes);
    refusal(&bytes)
}

/// Makes length and checksum agree with the rest.
fn seal(bytes: &mut [u8]) {
    let length = bytes.len() as u32;
    bytes[LENGTH].copy_from_slice(&length.to_le_bytes());
    let crc = crc32(bytes);
    bytes[CRC_RANGE].copy_from_slice(&crc.to_le_bytes());
}

fn square(side: u8) -> Size2 {
    Size2::new(side, side).unwrap()
}

fn conv2d(kernel: u8) -> Layer {
    Layer::Conv2d(Conv2d {
        filters: NonZeroU16::MIN,
        kernel: square(kernel),
        stride: Size2::ONE,
        padding: Padding::Valid,
        activation: Activation::None,
    })
}

fn depthwise(multiplier: u8, kernel: Size2) -> Layer {
    Layer::DepthwiseConv2d(DepthwiseConv2d {
        multiplier: NonZeroU8::new(multiplier).unwrap(),
        kernel,
        stride: Size2::ONE,
        padding: Padding::Valid,
        activation: Activation::None,
    })
}

fn dense(units: u16) -> Layer {
    Layer::Dense(Dense {
        units: NonZeroU16::new(units).unwrap(),
        activation: Activation::None,
    })
}

fn add() -> Layer {
    Layer::Add(Add {
        activation: Activation::None,
    })
}

/// A layer that reads the input and has no block.
fn plain(layer: Layer, output: Quant) -> WrittenLayer {
    let sources = Sources::One(0);
    WrittenLayer {
        node: Node {
            layer,
            sources,
            output,
        },
        block: Block::None,
        storage: Storage::Dense,
        channels: ChannelLayout::Wide,
    }
}

fn one_layer(input: (usize, usize, usize), layer: Layer, output: Quant) -> ModelFile {
    ModelFile {
        input: Shape::new(input.0, input.1, input.2).unwrap(),
        input_quant: Quant {
            scale: 0.5,
            zero_point: 0,
        },
        classes: Vec::new(),
        layers: vec![plain(layer, output)],
        golden: 0,
        ..documented()
    }
}

/// A 4x4x2 tensor and its 1x1x32 self.
fn add_of_two_shapes() -> ModelFile {
    let quant = Quant {
        scale: 0.5,
        zero_point: 0,
    };
    let mut file = one_layer((4, 4, 2), Layer::Flatten, quant);
    let mut sum = plain(add(), quant);
    sum.node.sources = Sources::Two(0, 1);
    file.layers.push(sum);
    file
}

// What is accepted runs.

fn any_model() -> impl Strategy<Value = ModelFile> {
    let storages = [Storage::Dense, Storage::Sparse, Storage::Coded];
    let any = (
        any::<u64>(),
        1..=14usize,
        select(storages.to_vec()),
        any::<bool>(),
    );
    any.prop_map(|(seed, layers, storage, is_compact)| {
        let model = match is_compact {
            true => compact(random(seed, layers)),
            false => random(seed, layers),
        };
        match storage {
            Storage::Dense => model,
            Storage::Sparse => sparsen(model, seed),
            Storage::Coded => code(model, seed),
        }
    })
}

/// A place in the descriptor or anywhere behind it, and a new byte for it.
fn any_change() -> impl Strategy<Value = (bool, Index, u8)> {
    let byte = prop_oneof![any::<u8>(), 0..16u8, Just(0x7F), Just(0x80), Just(0xFF)];
    (any::<bool>(), any::<Index>(), byte)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_models_come_back(file in any_model()) {
        comes_back(&file);
    }

    #[test]
    fn how_parameters_are_stored_changes_no_output(seed: u64, layers in 1..=8usize, coded: bool) {
        let make = if coded { code } else { sparsen };
        let stored = ModelFile { golden: 3, ..compact(make(random(seed, layers), seed)) };
        let mut dense = stored.clone();
        for layer in &mut dense.layers {
            (layer.storage, layer.channels) = (Storage::Dense, ChannelLayout::Wide);
        }
        let outputs = |file: ModelFile| {
            let bytes = file.to_bytes().unwrap();
            let golden = Model::parse(&bytes).unwrap().golden();
            (0..3).map(|index| golden.expected(index).to_vec()).collect::<Vec<_>>()
        };
        prop_assert_eq!(outputs(stored), outputs(dense));
    }

    #[test]
    fn an_inference_does_not_depend_on_the_arena(file in any_model(), seed: u64) {
        let bytes = file.to_bytes().unwrap();
        infers_the_same(&Model::parse(&bytes).unwrap(), seed);
    }

    #[test]
    fn changed_models_are_refused_or_run(
        file in any_model(),
        changes in prop::collection::vec(any_change(), 1..6),
        seed: u64,
    ) {
        let mut bytes = file.to_bytes().unwrap();
        let descriptor = u32::from_le_bytes(bytes[DESCRIPTOR].try_into().unwrap()) as usize;
        for (in_descriptor, index, new) in changes {
            let end = if in_descriptor { HEADER_BYTES + descriptor } else { bytes.len() };
            bytes[HEADER_BYTES + index.index(end - HEADER_BYTES)] = new;
        }
        seal(&mut bytes);
        if let Ok(model) = Model::parse(&bytes) {
            infers_the_same(&model, seed);
        }
    }

    #[test]
    fn random_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        refusal(&bytes);
        if bytes.len() >= HEADER_BYTES {
            bytes[..10].copy_from_slice(b"espalier\x05\0");
            seal(&mut bytes);
            refusal(&bytes);
        }
    }
}

/// Three inferences give the same bytes in arenas of different content and
/// size.
fn infers_the_same(model: &Model, seed: u64) {
    // A changed descriptor may ask for more than a test has time for.
    if cost(model) > 20_000_000 {
        return;
    }
    let infer = |spare: usize, arena_seed: u64| {
        let mut arena = Random::new(arena_seed).bytes(model.arena_bytes() + spare);
        let mut engine = Engine::new(model, &mut arena).unwrap();
        let mut inputs = Random::new(seed);
        let mut infer = || {
            let input = inputs.bytes(model.input_shape().len());
            engine.infer(|to| to.copy_from_slice(&input)).to_vec()
        };
        [infer(), infer(), infer()]
    };
    let outputs = infer(0, seed ^ 1);
    assert_eq!(outputs[0].len(), model.output_shape().len());
    assert_eq!(outputs, infer(0, seed ^ 2));
    assert_eq!(outputs, infer(1000, seed ^ 3));
}

// The arena.

#[test]
fn an_arena_one_byte_short_is_refused() {
    let bytes = every_kind().to_bytes().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let needed = model.arena_bytes();
    assert!(Engine::new(&model, &mut vec![0; needed]).is_ok());
    let available = needed - 1;
    let error = Engine::new(&model, &mut vec![0; available]).unwrap_err();
    assert_eq!(error, ArenaTooSmall { needed, available });
}

#[test]
fn flatten_costs_nothing() {
    let quant = documented().input_quant;
    let mut file = one_layer((4, 4, 2), Layer::Flatten, quant);
    file.input_quant = quant;
    let bytes = file.to_bytes().unwrap();
    // 3 bytes may have to be skipped to a multiple of 4.
    assert_eq!(Model::parse(&bytes).unwrap().arena_bytes(), 32 + 3);
}

proptest! {
    #[test]
    fn a_chain_needs_no_more_than_two_neighbours(sizes in prop::collection::vec(1..200u16, 2..20)) {
        let bytes = chain(&sizes).to_bytes().unwrap();
        let needed = Model::parse(&bytes).unwrap().arena_bytes();
        let aligned = |size: u16| usize::from(size).next_multiple_of(4);
        let shape = |size: u16| Shape::new(1, 1, size.into()).unwrap();
        // With scratch behind both; at the least the larger one, over which the
        // other one may lie.
        let steps = |of: fn(usize, usize) -> usize| {
            sizes.windows(2).map(move |pair| {
                let scratch = scratch_bytes(pair[0].into(), shape(pair[0]), shape(pair[1]), Way::default());
                of(aligned(pair[0]), aligned(pair[1])) + scratch + 3
            })
        };
        prop_assert!(Some(needed) <= steps(|a, b| a + b).max());
        prop_assert!(Some(needed) >= steps(usize::max).max());
    }
}

// The document.

fn document() -> String {
    std::fs::read_to_string(workspace().join("docs/format.md")).unwrap()
}

/// The bytes of an example of the document.
fn example(number: usize) -> Vec<u8> {
    let text = document();
    let block = text.split("```hex\n").nth(1 + number).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let mut bytes = Vec::new();
    for line in block.lines() {
        let (offset, rest) = line.split_once(':').unwrap();
        assert_eq!(offset.parse(), Ok(bytes.len()), "{line}");
        let hex = rest.split(';').next().unwrap().split_whitespace();
        bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_documented_bytes_are_what_is_written() {
    let file = documented().to_bytes().unwrap();
    assert_eq!(example(0), file);
    let record = Record::of(&file, 1).encode();
    assert_eq!(example(1), record[..Record::BYTES]);
}

// The fuzzer's first inputs.

fn fuzz_seeds() -> Vec<(String, Vec<u8>)> {
    let named = [("every_kind", every_kind()), ("documented", documented())];
    let small = (0..).map(|seed| (seed, random(seed, 1 + seed as usize % 6)));
    let small = small.map(|(seed, file)| (format!("random_{seed}"), file.to_bytes().unwrap()));
    let named = named.map(|(name, file)| (name.to_owned(), file.to_bytes().unwrap()));
    let mut seeds = named.to_vec();
    seeds.extend(small.filter(|(_, bytes)| bytes.len() < 700).take(14));
    seeds.extend(stored_seeds("sparse", Storage::Sparse, sparsen));
    seeds.extend(stored_seeds("coded", Storage::Coded, code));
    let packed = |file, seed| compact(code(file, seed));
    seeds.extend(stored_seeds("compact", Storage::Coded, packed));
    seeds
}

/// Small models that have a layer stored like this.
fn stored_seeds(
    name: &str,
    storage: Storage,
    make: fn(ModelFile, u64) -> ModelFile,
) -> impl Iterator<Item = (String, Vec<u8>)> {
    let made = (0..).map(move |seed| (seed, make(random(seed, 1 + seed as usize % 6), seed)));
    let made = made.map(move |(seed, file)| (format!("{name}_{seed}"), file.to_bytes().unwrap()));
    let small = move |(_, bytes): &(String, Vec<u8>)| {
        let model = Model::parse(bytes).unwrap();
        bytes.len() < 700
            && model
                .steps()
                .any(|step| step.layout.weights.storage() == storage)
    };
    made.filter(small).take(8)
}

/// Set to anything, this makes the test below write the files it compares.
const WRITE_SEEDS: &str = "ESPALIER_WRITE_SEEDS";

#[test]
fn fuzz_seeds_are_what_the_writer_writes() {
    let folder = workspace().join("tests/fuzz/seeds");
    for (name, bytes) in fuzz_seeds() {
        let file = folder.join(name).with_extension("esp");
        if std::env::var_os(WRITE_SEEDS).is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        assert!(std::fs::read(&file).unwrap() == bytes, "{}", file.display());
    }
}
