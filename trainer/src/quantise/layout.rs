//! Dense or sparse: what a layer costs with all of its weights, what with those
//! that are not 0, and which of both a model file gets.

use serde::{Deserialize, Serialize};
use shared::Model;
use shared::kernels::conv2d::POOL;
use shared::kernels::{lanes, sparse, tile};
use shared::layer::{Layer, ParamShape};
use shared::model::Step;

use super::sparse::{biases, encode};
use super::writer::{Block, ModelFile, WriteError};

/// What export makes small where it chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// Instructions: a layer is sparse where that takes fewer.
    #[default]
    Speed,
    /// The file: a layer is sparse where that takes fewer bytes.
    Size,
    /// RAM: no layer is sparse, because the scratch of a sparse convolution is twice
    /// as large.
    Ram,
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

/// Why the weights of a layer are stored all, or only those that are not 0.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Choice {
    /// Name of the layer.
    pub layer: String,
    /// Whether only those that are not 0 are; never where a bias would not hold what
    /// the input's zero point adds.
    pub is_sparse: bool,
    /// How many are 0, in percent.
    pub zeros_percent: f64,
    /// What all of them cost.
    pub dense: Cost,
    /// What those that are not 0 cost.
    pub sparse: Cost,
    /// From how many zeros on, in percent, sparse takes fewer instructions.
    pub faster_from_percent: f64,
}

/// Chooses for each convolution and dense layer; `names` are those of all layers.
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
        let mut choice = candidate.choose((*name).to_owned(), weights, prefer);
        choice.is_sparse &= may_be_sparse;
        layer.sparse = choice.is_sparse;
        choices.push(choice);
    }
    Ok(choices)
}

/// Instructions, fitted to what layers of many shapes take on the emulated
/// mps2-an386 (`tests/bench layouts`).
#[derive(Debug)]
struct Table {
    /// Positions of one tile.
    positions: usize,
    tile: f64,
    /// For each tap of a tile, where four channels are gathered at a time and where not.
    tap: [f64; 2],
    /// For each filter, and where of four positions only the largest is scaled.
    filter: [f64; 2],
    /// For each word of [`lanes`], or each entry of [`sparse`].
    weight: f64,
}

static CONV_DENSE: Table = Table {
    positions: tile::POSITIONS,
    tile: 340.0,
    tap: [9.0, 29.9],
    filter: [57.3, 44.4],
    weight: 12.46,
};
static CONV_SPARSE: Table = Table {
    positions: sparse::POSITIONS,
    tile: 27.7,
    tap: [19.4, 55.2],
    filter: [113.5, 65.0],
    weight: 13.25,
};
static DENSE_DENSE: Table = Table {
    positions: 1,
    tile: 1310.0,
    tap: [2.62; 2],
    filter: [99.5; 2],
    weight: 3.73,
};
static DENSE_SPARSE: Table = Table {
    positions: 1,
    tile: 1317.0,
    tap: [0.0; 2],
    filter: [117.0; 2],
    weight: 3.75,
};

/// A layer that may be sparse.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    params: ParamShape,
    dense: &'static Table,
    sparse: &'static Table,
    positions: usize,
    pooled: bool,
    /// Whether four channels are gathered at a time.
    fours: bool,
}

impl Candidate {
    /// A convolution or a dense layer of a model; `None` for another one.
    pub fn new(model: &Model, step: &Step) -> Option<Self> {
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
            Layer::Conv2d(_) => (&CONV_DENSE, &CONV_SPARSE),
            Layer::Dense(_) => (&DENSE_DENSE, &DENSE_SPARSE),
            _ => return None,
        };
        Some(Self {
            params: model.params(step)?,
            dense,
            sparse,
            positions,
            pooled,
            fours: input.channels().is_multiple_of(4),
        })
    }

    /// What all weights cost.
    pub fn dense(&self) -> Cost {
        let ParamShape { channels, fan_in } = self.params;
        let words = lanes::words(fan_in) * channels.div_ceil(2);
        Cost {
            instructions: self.instructions(self.dense, words),
            bytes: lanes::bytes(fan_in, channels),
        }
    }

    /// What this many entries cost.
    pub fn sparse(&self, entries: usize) -> Cost {
        Cost {
            instructions: self.instructions(self.sparse, entries),
            bytes: sparse::bytes(self.params.channels, entries),
        }
    }

    fn instructions(&self, table: &Table, weights: usize) -> u64 {
        let of_tile = table.tile
            + table.tap[usize::from(!self.fours)] * self.params.fan_in as f64
            + table.filter[usize::from(self.pooled)] * self.params.channels as f64
            + table.weight * weights as f64;
        (of_tile * self.tiles(table)) as u64
    }

    fn tiles(&self, table: &Table) -> f64 {
        self.positions.div_ceil(table.positions) as f64
    }

    fn choose(&self, layer: String, weights: &[i8], prefer: Prefer) -> Choice {
        let zeros = weights.iter().filter(|&&w| w == 0).count();
        let entries = encode(weights, self.params.channels).entries;
        let (dense, sparse) = (self.dense(), self.sparse(entries));
        Choice {
            layer,
            is_sparse: match prefer {
                Prefer::Speed => sparse.instructions < dense.instructions,
                Prefer::Size => sparse.bytes < dense.bytes,
                Prefer::Ram => false,
            },
            zeros_percent: 100.0 * zeros as f64 / weights.len().max(1) as f64,
            dense,
            sparse,
            faster_from_percent: self.faster_from_percent(),
        }
    }

    /// Where both take as many instructions, 0 to 100.
    fn faster_from_percent(&self) -> f64 {
        let table = self.sparse;
        let saved = self.dense().instructions as f64 - self.sparse(0).instructions as f64;
        let entries = saved / (table.weight * self.tiles(table));
        (100.0 - 100.0 * entries / self.params.weights() as f64).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use shared::arith::MAX_BIAS;
    use shared::layer::{Activation, Dense, Shape};
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
                sparse: true,
            }],
            golden: 1,
        }
    }

    fn choice(nonzero_of: usize, prefer: Prefer) -> Choice {
        let weights = (0..4000).map(|i| i8::from(i % nonzero_of == 0)).collect();
        let mut file = dense_layer(weights);
        let choices = choose(&mut file, &["only"], prefer).unwrap();
        assert_eq!(file.layers[0].sparse, choices[0].is_sparse);
        choices.into_iter().next().unwrap()
    }

    #[test]
    fn many_zeroes_pay() {
        let choice = choice(10, Prefer::Speed);
        assert!(choice.is_sparse && choice.zeros_percent == 90.0);
        assert!(choice.sparse.instructions < choice.dense.instructions);
        assert_eq!((choice.dense.bytes, choice.sparse.bytes), (4000, 820));
    }

    #[test]
    fn few_zeroes_do_not() {
        let choice = choice(2, Prefer::Speed);
        assert!(!choice.is_sparse);
        assert!((50.0..80.0).contains(&choice.faster_from_percent));
    }

    #[test]
    fn the_limit_is_where_both_cost_the_same() {
        let candidate = Candidate {
            params: ParamShape {
                channels: 64,
                fan_in: 288,
            },
            dense: &CONV_DENSE,
            sparse: &CONV_SPARSE,
            positions: 121,
            pooled: false,
            fours: true,
        };
        let limit = candidate.faster_from_percent();
        let sparse = |percent: f64| {
            let entries = (1.0 - percent / 100.0) * (64.0 * 288.0);
            candidate.sparse(entries as usize).instructions
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
        assert!(choices[0].sparse.instructions < choices[0].dense.instructions);
        assert!(!choices[0].is_sparse && !file.layers[0].sparse);
    }

    #[test]
    fn what_is_preferred_counts() {
        assert!(!choice(10, Prefer::Ram).is_sparse);
        assert!(choice(3, Prefer::Size).is_sparse);
    }
}
