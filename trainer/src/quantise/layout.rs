//! Dense, sparse or coded: what a layer costs with all of its weights, with those that
//! are not 0, with all of them in as few bits as they need, and which of these a model
//! file gets.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shared::Model;
use shared::kernels::coded::{Coded, SHORT};
use shared::kernels::conv2d::POOL;
use shared::kernels::{
    ConvParams, DenseParams, DepthwiseParams, DepthwiseWeights, Storage, Weights, lanes, sparse,
    tile,
};
use shared::layer::{DepthwiseConv2d, Layer, ParamShape, Shape, Size2};
use shared::model::{ChannelLayout, Data, Step, WeightLayout, weight_bytes};

use super::coded;
use super::sparse::{biases, encode};
use super::writer::{Block, ModelFile, WriteError};

/// What export makes small where it chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// Instructions: a layer is sparse where that takes fewer.
    #[default]
    Speed,
    /// The file: a layer is stored as it takes the fewest bytes, with factors rounded to
    /// [`MANTISSA_BITS`](shared::kernels::channels::MANTISSA_BITS).
    Size,
    /// RAM: all layers are dense, because the scratch of a sparse convolution is twice
    /// as large, and that of a coded one holds its weights.
    Ram,
}

impl Prefer {
    /// How biases and factors lie in the file, where they can. Only a small file is worth
    /// a factor of fewer bits.
    pub fn channels(self) -> ChannelLayout {
        match self {
            Self::Size => ChannelLayout::Compact,
            Self::Speed | Self::Ram => ChannelLayout::Wide,
        }
    }
}

/// What the weights of a layer cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Cost {
    /// Instructions of one inference on a Cortex-M4, estimated from measurements in
    /// the emulator: `tests/bench layouts` shows both. Not cycles.
    pub instructions: u64,
    /// Bytes in the file.
    pub bytes: usize,
}

/// How the weights of a layer are stored, and why.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Choice {
    /// Name of the layer.
    pub layer: String,
    /// How its weights are stored.
    pub storage: Storage,
    /// How many are 0, in percent.
    pub zeros_percent: f64,
    /// What all of them cost, a byte each.
    pub dense: Cost,
    /// What those that are not 0 cost; none for a depthwise layer, nor where a bias
    /// would not hold what the input's zero point adds.
    pub sparse: Option<Cost>,
    /// What all of them cost in as few bits as they need; none where one is -128.
    pub coded: Option<Cost>,
    /// From how many zeros on, in percent, sparse takes fewer instructions than dense;
    /// none for a depthwise layer.
    pub faster_from_percent: Option<f64>,
}

/// Chooses for each layer with weights; `names` are those of all layers.
pub fn choose(
    file: &mut ModelFile,
    names: &[&str],
    prefer: Prefer,
) -> Result<Vec<Choice>, WriteError> {
    let bytes = file.to_bytes_untested()?;
    let model = Model::parse(&bytes)?;
    let mut choices = Vec::new();
    for ((layer, step), name) in file.layers.iter_mut().zip(model.steps()).zip(names) {
        let (Block::Conv { weights, bias, .. } | Block::Dense { weights, bias, .. }) = &layer.block
        else {
            continue;
        };
        let Some(candidate) = Candidate::new(&model, &step) else {
            continue;
        };
        let zero_point = model.tensor(step.inputs[0]).zero_point;
        let may_be_sparse = biases(weights, bias, zero_point).is_some();
        let choice = candidate.choose((*name).to_owned(), weights, may_be_sparse, prefer);
        layer.storage = choice.storage;
        layer.channels = prefer.channels();
        choices.push(choice);
    }
    Ok(choices)
}

/// What a layer with weights costs as it is stored in a model; `None` for another one.
pub fn cost(model: &Model, step: &Step) -> Option<Cost> {
    let candidate = Candidate::new(model, step)?;
    match (step.layout.weights, model.data(step)) {
        (WeightLayout::Dense, _) => Some(candidate.dense()),
        (WeightLayout::Sparse { entries }, _) => candidate.sparse(entries as usize),
        (
            WeightLayout::Coded { bytes },
            Data::Conv(ConvParams {
                weights: Weights::Coded(coded),
                ..
            })
            | Data::Dense(DenseParams {
                weights: Weights::Coded(coded),
                ..
            })
            | Data::Depthwise(DepthwiseParams {
                weights: DepthwiseWeights::Coded(coded),
                ..
            }),
        ) => Some(candidate.coded(&coded, bytes as usize)),
        _ => None,
    }
}

/// Instructions, fitted to what layers of many shapes take on the emulated
/// mps2-an386 (`tests/bench layouts`).
#[derive(Clone, Copy, Debug)]
struct Table {
    /// Positions of one tile.
    positions: usize,
    tile: f64,
    /// For each tap of a tile, where four channels are gathered at a time and where not.
    tap: [f64; 2],
    /// For each filter, and where of four positions only the largest is scaled.
    filter: [f64; 2],
    /// For each word of [`lanes`], each entry of [`sparse`], or each weight of a
    /// depthwise layer.
    weight: f64,
    /// For each filter of a depthwise layer, once: its plane is made.
    plane: f64,
}

const CONV_DENSE: Table = Table {
    positions: tile::POSITIONS,
    tile: 340.0,
    tap: [9.0, 29.9],
    filter: [57.3, 44.4],
    weight: 12.46,
    plane: 0.0,
};
const CONV_SPARSE: Table = Table {
    positions: sparse::POSITIONS,
    tile: 27.7,
    tap: [19.4, 55.2],
    filter: [113.5, 65.0],
    weight: 13.25,
    plane: 0.0,
};
const DENSE_DENSE: Table = Table {
    positions: 1,
    tile: 1210.0,
    tap: [2.62; 2],
    filter: [130.0; 2],
    weight: 3.73,
    plane: 0.0,
};
const DENSE_SPARSE: Table = Table {
    positions: 1,
    tile: 1217.0,
    tap: [0.0; 2],
    filter: [148.0; 2],
    weight: 3.75,
    plane: 0.0,
};

impl Table {
    /// Of a depthwise convolution, whose weights meet one position of one channel.
    fn depthwise(layer: &DepthwiseConv2d, input: Shape) -> Self {
        let fast = Size2::new(3, 3) == Some(layer.kernel) && layer.stride == Size2::ONE;
        let rows = layer.kernel.height() as f64;
        let pixels = (input.height() * input.width()) as f64;
        let (filter, weight, plane) = match fast {
            true => (30.2, 0.0, 240.0),
            false => (76.0 + 33.0 * rows, 4.0, 4.5 * pixels),
        };
        Self {
            positions: 1,
            tile: 0.0,
            tap: [0.0; 2],
            filter: [filter; 2],
            weight,
            plane,
        }
    }
}

/// Instructions to decode weights, fitted to the same.
#[derive(Debug)]
struct Decoding {
    layer: f64,
    weight: f64,
    /// For each weight with a code of more than [`SHORT`] bits.
    long: f64,
    byte: f64,
}

static DECODING: Decoding = Decoding {
    layer: 4440.0,
    weight: 17.1,
    long: 34.3,
    byte: 4.03,
};

/// A layer with weights.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    layer: Layer,
    params: ParamShape,
    dense: Table,
    /// For a layer that may be sparse.
    sparse: Option<Table>,
    positions: usize,
    pooled: bool,
    /// Whether four channels are gathered at a time.
    fours: bool,
}

impl Candidate {
    /// `None` for a layer without weights.
    fn new(model: &Model, step: &Step) -> Option<Self> {
        let input = model.tensor(step.inputs[0]).shape;
        let output = model.tensor(step.output).shape;
        // A max pool of 2x2 leaves out a last row or column that is over.
        let even = |side: usize| side - side % POOL;
        let pooled = !model.is_stored(step.output);
        let positions = match pooled {
            true => even(output.height()) * even(output.width()),
            false => output.height() * output.width(),
        };
        let (dense, sparse) = match step.layer {
            Layer::Conv2d(_) => (CONV_DENSE, Some(CONV_SPARSE)),
            Layer::Dense(_) => (DENSE_DENSE, Some(DENSE_SPARSE)),
            Layer::DepthwiseConv2d(layer) => (Table::depthwise(&layer, input), None),
            _ => return None,
        };
        Some(Self {
            layer: step.layer,
            params: model.params(step)?,
            dense,
            sparse,
            positions,
            pooled,
            fours: input.channels().is_multiple_of(4),
        })
    }

    /// What all weights cost.
    fn dense(&self) -> Cost {
        let ParamShape { channels, fan_in } = self.params;
        let words = match self.layer {
            Layer::DepthwiseConv2d(_) => self.params.weights(),
            _ => lanes::words(fan_in) * channels.div_ceil(2),
        };
        Cost {
            instructions: self.instructions(self.dense, words),
            bytes: weight_bytes(&self.layer, WeightLayout::Dense, self.params),
        }
    }

    /// What this many entries cost.
    fn sparse(&self, entries: usize) -> Option<Cost> {
        Some(Cost {
            instructions: self.instructions(self.sparse?, entries),
            bytes: sparse::bytes(self.params.channels, entries),
        })
    }

    /// What weights cost that are decoded from this many bytes.
    fn coded(&self, coded: &Coded, bytes: usize) -> Cost {
        let decoding = DECODING.layer
            + DECODING.weight * self.params.weights() as f64
            + DECODING.long * long_codes(coded) as f64
            + DECODING.byte * bytes as f64;
        Cost {
            instructions: self.dense().instructions + decoding as u64,
            bytes,
        }
    }

    fn instructions(&self, table: Table, weights: usize) -> u64 {
        let of_tile = table.tile
            + table.tap[usize::from(!self.fours)] * self.params.fan_in as f64
            + table.filter[usize::from(self.pooled)] * self.params.channels as f64
            + table.weight * weights as f64;
        (of_tile * self.tiles(table) + table.plane * self.params.channels as f64) as u64
    }

    fn tiles(&self, table: Table) -> f64 {
        self.positions.div_ceil(table.positions) as f64
    }

    fn choose(&self, layer: String, weights: &[i8], may_be_sparse: bool, prefer: Prefer) -> Choice {
        let zeros = weights.iter().filter(|&&w| w == 0).count();
        let dense = self.dense();
        let entries = may_be_sparse.then(|| encode(weights, self.params.channels).entries);
        let sparse = entries.and_then(|entries| self.sparse(entries));
        let coded = self.encoded(weights);
        let stored = [
            (Storage::Dense, Some(dense)),
            (Storage::Sparse, sparse),
            (Storage::Coded, coded),
        ];
        // The first one where two are the same.
        let least = |of: fn(Cost) -> u64| {
            let costs = stored
                .into_iter()
                .filter_map(|(storage, cost)| Some((storage, of(cost?))));
            costs
                .min_by_key(|&(_, cost)| cost)
                .map_or(Storage::Dense, |(storage, _)| storage)
        };
        Choice {
            layer,
            storage: match prefer {
                Prefer::Speed => least(|cost| cost.instructions),
                Prefer::Size => least(|cost| cost.bytes as u64),
                Prefer::Ram => Storage::Dense,
            },
            zeros_percent: 100.0 * zeros as f64 / weights.len().max(1) as f64,
            dense,
            sparse,
            coded,
            faster_from_percent: self.faster_from_percent(),
        }
    }

    /// What these weights cost coded.
    fn encoded(&self, weights: &[i8]) -> Option<Cost> {
        let bytes = coded::encode(weights, &self.layer, self.params.channels)?;
        // What was just encoded can be decoded.
        let coded = Coded::parse(&bytes, self.params).ok()?;
        Some(self.coded(&coded, bytes.len()))
    }

    /// Where dense and sparse take as many instructions, 0 to 100.
    fn faster_from_percent(&self) -> Option<f64> {
        let table = self.sparse?;
        let saved = self.dense().instructions as f64 - self.sparse(0)?.instructions as f64;
        let entries = saved / (table.weight * self.tiles(table));
        Some((100.0 - 100.0 * entries / self.params.weights() as f64).clamp(0.0, 100.0))
    }
}

/// How many weights have codes that take more than one step to find.
fn long_codes(coded: &Coded) -> usize {
    let short = coded.counts().iter().take(SHORT).copied().map(usize::from);
    let long: BTreeSet<i8> = coded.values().iter().copied().skip(short.sum()).collect();
    let mut weights = vec![0; coded.shape().weights()];
    coded.decoder().weights(&mut weights);
    weights
        .iter()
        .filter(|weight| long.contains(weight))
        .count()
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU8, NonZeroU16};

    use shared::arith::{MAX_BIAS, Multiplier};
    use shared::layer::{Activation, Dense, Padding};
    use shared::model::{Node, Quant, Resize, Sources};

    use super::super::writer::WrittenLayer;
    use super::*;

    fn dense_layer(weights: Vec<i8>) -> ModelFile {
        let quant = Quant {
            scale: 1.0,
            zero_point: 3,
        };
        let node = Node {
            layer: Layer::Dense(Dense {
                units: NonZeroU16::new(10).unwrap(),
                activation: Activation::None,
            }),
            sources: Sources::One(0),
            output: quant,
        };
        let block = Block::Dense {
            weights,
            bias: vec![0; 10],
            factors: vec![0.5; 10],
        };
        ModelFile {
            input: Shape::new(1, 1, 400).unwrap(),
            input_quant: quant,
            resize: Resize::Exact,
            classes: Vec::new(),
            layers: vec![WrittenLayer {
                node,
                block,
                storage: Storage::Sparse,
                channels: ChannelLayout::default(),
            }],
            golden: 1,
        }
    }

    fn choice(nonzero_of: usize, prefer: Prefer) -> Choice {
        let weights = (0..4000).map(|i| i8::from(i % nonzero_of == 0)).collect();
        let mut file = dense_layer(weights);
        let choices = choose(&mut file, &["only"], prefer).unwrap();
        assert_eq!(file.layers[0].storage, choices[0].storage);
        choices.into_iter().next().unwrap()
    }

    #[test]
    fn many_zeroes_pay() {
        let choice = choice(10, Prefer::Speed);
        assert_eq!(
            (choice.storage, choice.zeros_percent),
            (Storage::Sparse, 90.0)
        );
        let (sparse, coded) = (choice.sparse.unwrap(), choice.coded.unwrap());
        assert!(sparse.instructions < choice.dense.instructions);
        assert!(choice.dense.instructions < coded.instructions);
        let bytes = [choice.dense, sparse, coded].map(|cost| cost.bytes);
        assert_eq!(bytes, [4000, 820, 504]); // of 4000 bits and two values
    }

    #[test]
    fn few_zeroes_do_not() {
        let choice = choice(2, Prefer::Speed);
        assert_eq!(choice.storage, Storage::Dense);
        assert!((50.0..80.0).contains(&choice.faster_from_percent.unwrap()));
    }

    #[test]
    fn the_limit_is_where_both_cost_the_same() {
        let candidate = Candidate {
            layer: Layer::Softmax,
            params: ParamShape {
                channels: 64,
                fan_in: 288,
            },
            dense: CONV_DENSE,
            sparse: Some(CONV_SPARSE),
            positions: 121,
            pooled: false,
            fours: true,
        };
        let limit = candidate.faster_from_percent().unwrap();
        let sparse = |percent: f64| {
            let entries = (1.0 - percent / 100.0) * (64.0 * 288.0);
            candidate.sparse(entries as usize).unwrap().instructions
        };
        let dense = candidate.dense().instructions;
        assert!(sparse(limit + 1.0) < dense && dense < sparse(limit - 1.0));
    }

    #[test]
    fn a_bias_without_room_for_the_zero_point_keeps_the_zeros() {
        let weights = (0..4000).map(|i| -i8::from(i % 10 == 0)).collect();
        let mut file = dense_layer(weights);
        if let Block::Dense { bias, .. } = &mut file.layers[0].block {
            bias[0] = MAX_BIAS; // 40 weights of -1 and a zero point of 3 add 120
        }
        let choices = choose(&mut file, &["only"], Prefer::Speed).unwrap();
        assert_eq!(choices[0].sparse, None);
        assert_eq!(file.layers[0].storage, Storage::Dense);
    }

    #[test]
    fn a_depthwise_layer_is_coded_for_size() {
        let mut file = dense_layer(Vec::new());
        file.layers[0].node.layer = Layer::DepthwiseConv2d(DepthwiseConv2d {
            multiplier: NonZeroU8::MIN,
            kernel: Size2::ONE,
            stride: Size2::ONE,
            padding: Padding::Valid,
            activation: Activation::None,
        });
        file.layers[0].block = Block::Conv {
            weights: (0..400).map(|i| (i % 4) as i8).collect(),
            bias: vec![0; 400],
            factors: vec![Multiplier::new(1 << 30, 0).unwrap(); 400],
        };
        let choices = choose(&mut file, &["only"], Prefer::Size).unwrap();
        assert_eq!(choices[0].storage, Storage::Coded);
        assert_eq!(choices[0].sparse, None);
        let bytes = choices[0].coded.unwrap().bytes;
        assert_eq!((choices[0].dense.bytes, bytes), (400, 108)); // 2 bits each
        let choices = choose(&mut file, &["only"], Prefer::Speed).unwrap();
        assert_eq!(choices[0].storage, Storage::Dense);
    }

    #[test]
    fn what_is_preferred_counts() {
        assert_eq!(choice(10, Prefer::Ram).storage, Storage::Dense);
        assert_eq!(choice(10, Prefer::Size).storage, Storage::Coded);
        assert_eq!(choice(100, Prefer::Size).storage, Storage::Sparse);
    }
}
