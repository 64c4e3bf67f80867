//! The engine against TensorFlow Lite's reference kernels: zero differing bytes
//! over the golden vectors of `tests/vectors`, whose README says how they were
//! made.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::num::{NonZeroU8, NonZeroU16};
use std::path::Path;

use espalier::quantise::factor;
use espalier::quantise::{Block, ModelFile, WrittenLayer};
use proptest::prelude::*;
use serde::Deserialize;
use shared::arith::scale;
use shared::kernels::Storage;
use shared::layer::{
    Activation, Add, Conv2d, Dense, DepthwiseConv2d, Layer, Padding, Pool2d, Shape, Size2,
};
use shared::model::{ChannelLayout, Node, Quant, Resize, Sources};
use shared::{Engine, Model};

/// Fewest cases that each kind must have.
const MIN_CASES: usize = 200;

#[derive(Deserialize)]
struct File {
    kind: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    input: Tensor,
    input2: Option<Tensor>,
    weights: Option<Weights>,
    #[serde(default)]
    bias: Vec<i32>,
    layer: Parameters,
    output: Tensor,
}

#[derive(Deserialize)]
struct Tensor {
    shape: (usize, usize, usize),
    scale: f32,
    zero_point: i8,
    data: String,
}

#[derive(Deserialize)]
struct Weights {
    scales: Vec<f32>,
    data: String,
}

#[derive(Deserialize)]
struct Parameters {
    kernel: Option<Size2>,
    stride: Option<Size2>,
    #[serde(default)]
    padding: Padding,
    #[serde(default)]
    activation: Activation,
    filters: Option<NonZeroU16>,
    depth_multiplier: Option<NonZeroU8>,
    units: Option<NonZeroU16>,
}

impl Tensor {
    fn shape(&self) -> Shape {
        Shape::new(self.shape.0, self.shape.1, self.shape.2).unwrap()
    }

    fn quant(&self) -> Quant {
        Quant {
            scale: self.scale,
            zero_point: self.zero_point,
        }
    }
}

fn bytes(hex: &str) -> Vec<i8> {
    let pair = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap() as i8;
    (0..hex.len()).step_by(2).map(pair).collect()
}

impl Case {
    fn layer(&self, kind: &str) -> Layer {
        let p = &self.layer;
        let pool = || Pool2d {
            kernel: p.kernel.unwrap(),
            stride: p.stride,
            padding: p.padding,
            activation: p.activation,
        };
        match kind {
            "conv2d" => Layer::Conv2d(Conv2d {
                filters: p.filters.unwrap(),
                kernel: p.kernel.unwrap(),
                stride: p.stride.unwrap(),
                padding: p.padding,
                activation: p.activation,
            }),
            "depthwise_conv2d" => Layer::DepthwiseConv2d(DepthwiseConv2d {
                multiplier: p.depth_multiplier.unwrap(),
                kernel: p.kernel.unwrap(),
                stride: p.stride.unwrap(),
                padding: p.padding,
                activation: p.activation,
            }),
            "dense" => Layer::Dense(Dense {
                units: p.units.unwrap(),
                activation: p.activation,
            }),
            "max_pool2d" => Layer::MaxPool2d(pool()),
            "avg_pool2d" => Layer::AvgPool2d(pool()),
            "add" => Layer::Add(Add {
                activation: p.activation,
            }),
            "softmax" => Layer::Softmax,
            other => panic!("no layer is called {other}"),
        }
    }

    fn block(&self, layer: &Layer) -> Block {
        let (input, output) = (self.input.scale, self.output.scale);
        let factors = || {
            let scales = &self.weights.as_ref().unwrap().scales;
            let scale = |channel| scales[if scales.len() == 1 { 0 } else { channel }];
            let real = move |channel| factor::real(input, scale(channel), output);
            (0..self.bias.len()).map(real)
        };
        let weights = || bytes(&self.weights.as_ref().unwrap().data);
        match layer {
            Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) => Block::Conv {
                weights: weights(),
                bias: self.bias.clone(),
                factors: factors().map(|f| factor::multiplier(f).unwrap()).collect(),
            },
            Layer::Dense(_) => Block::Dense {
                weights: weights(),
                bias: self.bias.clone(),
                factors: factors().collect(),
            },
            Layer::Add(_) => {
                let second = self.input2.as_ref().unwrap().scale;
                Block::Add(factor::add(input, second, output).unwrap())
            }
            Layer::Softmax => Block::Softmax(factor::softmax(input).unwrap().0),
            _ => Block::None,
        }
    }

    /// Runs a model of this one layer.
    fn run(&self, kind: &str) -> Vec<i8> {
        let layer = self.layer(kind);
        let written = WrittenLayer {
            node: Node {
                layer,
                sources: Sources::One(0),
                output: self.output.quant(),
            },
            block: self.block(&layer),
            storage: Storage::Dense,
            channels: ChannelLayout::Wide,
        };
        let file = ModelFile {
            input: self.input.shape(),
            input_quant: self.input.quant(),
            resize: Resize::Exact,
            classes: Vec::new(),
            layers: vec![written],
            golden: 0,
        };
        let file = file.to_bytes().unwrap();
        let model = Model::parse(&file).unwrap();
        let mut arena = vec![0; model.arena_bytes()];
        let mut engine = Engine::new(&model, &mut arena).unwrap();
        let input = bytes(&self.input.data);
        engine.infer(|to| to.copy_from_slice(&input)).to_vec()
    }

    /// An addition on its own: a model has one input and an addition reads two
    /// tensors, so the kernel is called as the engine calls it.
    fn run_add(&self) -> Vec<i8> {
        use shared::kernels::{View, add::add};
        let layer = self.layer("add");
        let Block::Add(factors) = self.block(&layer) else {
            unreachable!("an addition has an addition's block");
        };
        let second = self.input2.as_ref().unwrap();
        let mut memory = [bytes(&self.input.data), bytes(&second.data)].concat();
        let view = |tensor: &Tensor, start| View {
            shape: tensor.shape(),
            zero_point: tensor.zero_point.into(),
            start,
        };
        let (a, b) = (view(&self.input, 0), view(second, memory.len() / 2));
        let clamp = shared::model::clamp_of(layer.activation(), self.output.quant());
        add(&mut memory, a, b, factors, view(&self.output, 0), clamp);
        memory.truncate(self.output.shape().len());
        memory
    }
}

fn check(kind: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("vectors/{kind}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let file: File = serde_json::from_str(&text).unwrap();
    assert_eq!(file.kind, kind);
    assert!(file.cases.len() >= MIN_CASES, "{} cases", file.cases.len());
    let mut differing = 0;
    for (number, case) in file.cases.iter().enumerate() {
        let expected = bytes(&case.output.data);
        let got = match kind {
            "add" => case.run_add(),
            _ => case.run(kind),
        };
        assert_eq!(got.len(), expected.len(), "case {number}");
        differing += got.iter().zip(&expected).filter(|(a, b)| a != b).count();
    }
    assert_eq!(differing, 0, "{kind}: differing bytes");
}

#[test]
fn conv2d() {
    check("conv2d");
}

#[test]
fn depthwise_conv2d() {
    check("depthwise_conv2d");
}

#[test]
fn dense() {
    check("dense");
}

#[test]
fn max_pool2d() {
    check("max_pool2d");
}

#[test]
fn avg_pool2d() {
    check("avg_pool2d");
}

#[test]
fn add() {
    check("add");
}

#[test]
fn softmax() {
    check("softmax");
}

/// As [`shared::arith::scale`] says it, in `f64`.
fn scale_in_f64(x: i32, factor: f64) -> i32 {
    (f64::from(x) * factor).round() as i32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn dense_factors_scale_as_f64_does(x: i32, bits: u64, exponent in 960..1060u64, ties: bool) {
        let any = f64::from_bits(bits & !(1 << 63));
        let usual = f64::from_bits(bits & ((1 << 52) - 1) | exponent << 52);
        // A half and its neighbours, times a power of two that makes it a tie.
        let half = f64::from_bits((0.5f64.to_bits() - exponent % 8) + bits % 3);
        for factor in [any, usual, half, 0.0, -0.0] {
            if factor.is_finite() {
                let x = if ties { x >> (bits % 31) | 1 } else { x };
                prop_assert_eq!(scale(x, factor), scale_in_f64(x, factor), "{} {:e}", x, factor);
            }
        }
    }
}
