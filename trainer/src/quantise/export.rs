//! A float network and its ranges as a model file.

use serde::{Deserialize, Serialize};
use shared::arith::{MAX_BIAS, Multiplier};
use shared::kernels::Storage;
use shared::layer::Layer;
use shared::model::{ChannelLayout, Node as WireNode, Quant, SOFTMAX_QUANT, Sources};

use super::calibrate::{Method, Ranges};
use super::dead::remove_dead_channels;
use super::factor;
use super::grid::{Grid, Levels};
use super::layout::{Choice, Prefer, choose};
use super::writer::{Block, ModelFile, WriteError, WrittenLayer};
use crate::checkpoint::{Checkpoint, Folded};
use crate::network::Node;

/// The `[export]` section: how a checkpoint becomes a model file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportOptions {
    /// Training pictures whose ranges are measured.
    pub calibration: usize,
    /// How a range follows from the values that were seen.
    pub method: Method,
    /// Self-test vectors in the model file.
    pub golden: u8,
    /// Whether [`remove_dead_channels`] goes over the network.
    pub remove_dead: bool,
    /// What decides how the weights of each layer are stored.
    pub prefer: Prefer,
    /// Share of right answers, above 0 and up to 1, that the model is to have among those
    /// that it gives: it then says that it is not sure of the others. Decided on validation
    /// pictures; it always answers where not given.
    pub abstain: Option<f64>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            calibration: 500,
            method: Method::default(),
            golden: 4,
            remove_dead: true,
            prefer: Prefer::default(),
            abstain: None,
        }
    }
}

/// Why a checkpoint has no model file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Scales too far apart for a 31-bit factor.
    #[error(
        "layer `{layer}`: its scales are too far apart for int8; train it for longer or with a smaller rate"
    )]
    Factor {
        /// The layer.
        layer: String,
    },
    /// A weight or a range that is no finite number.
    #[error(
        "layer `{layer}` holds a number that is not finite: the checkpoint is damaged or its training diverged"
    )]
    NotFinite {
        /// The layer.
        layer: String,
    },
    /// The file does not hold it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A model file, and what of the checkpoint is not in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// The layers that lost channels.
    pub dead_channels: Vec<DeadChannels>,
    /// How each layer with weights is stored, and why.
    pub layouts: Vec<Choice>,
}

/// Output channels of one layer that are not in the model file because they
/// cannot change its output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeadChannels {
    /// Name of the layer.
    pub layer: String,
    /// Channels that are gone.
    pub removed: usize,
    /// Channels that it had.
    pub of: usize,
}

/// Quantises a checkpoint with the ranges of [`super::calibrate()`], leaves out
/// its dead channels, chooses how the weights of each layer are stored, and writes
/// the model file.
pub fn export(
    checkpoint: &Checkpoint,
    ranges: &Ranges,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let mut file = quantise(checkpoint, ranges, options)?;
    let removed = match options.remove_dead {
        true => remove_dead_channels(&mut file),
        false => Vec::new(),
    };
    let layers = checkpoint.network.nodes.iter().zip(removed);
    let lost = layers.filter(|&(_, removed)| removed > 0);
    let dead_channels = lost.map(|(node, removed)| DeadChannels {
        layer: node.name.clone(),
        removed,
        of: node.output.channels(),
    });
    let nodes = checkpoint.network.nodes.iter();
    let names: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
    Ok(Exported {
        dead_channels: dead_channels.collect(),
        layouts: choose(&mut file, &names, options.prefer)?,
        bytes: file.to_bytes()?,
    })
}

fn quantise(
    checkpoint: &Checkpoint,
    ranges: &Ranges,
    options: &ExportOptions,
) -> Result<ModelFile, ExportError> {
    let input_quant = Quant {
        scale: checkpoint.input.scale,
        // q = pixel - 128, so the mean pixel, which is real 0, becomes this.
        zero_point: (i16::from(checkpoint.input.mean) - 128) as i8,
    };
    let mut quants = vec![input_quant];
    let mut layers = Vec::new();
    for (index, node) in checkpoint.network.nodes.iter().enumerate() {
        let inputs: Vec<Quant> = node.inputs.iter().map(|&t| quants[t]).collect();
        let output = output_quant(node, inputs[0], ranges.of(index));
        let block = block(checkpoint, node, &inputs, output, options.prefer)?;
        quants.push(output);
        let node = WireNode {
            layer: node.layer,
            sources: sources(node),
            output,
        };
        layers.push(WrittenLayer {
            node,
            block,
            storage: Storage::Dense,
            channels: ChannelLayout::default(),
        });
    }
    Ok(ModelFile {
        input: checkpoint.network.input,
        input_quant,
        resize: checkpoint.resize,
        classes: checkpoint.classes.clone(),
        layers,
        golden: options.golden,
    })
}

fn sources(node: &Node) -> Sources {
    // A network has at most MAX_LAYERS layers, so every index fits.
    match *node.inputs.as_slice() {
        [a, b, ..] => Sources::Two(a as u8, b as u8),
        [a] => Sources::One(a as u8),
        [] => Sources::One(0),
    }
}

fn output_quant(node: &Node, input: Quant, (min, max): (f32, f32)) -> Quant {
    match node.layer {
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d | Layer::Flatten => {
            input
        }
        Layer::Softmax => SOFTMAX_QUANT,
        _ => factor::activation(min, max),
    }
}

fn block(
    checkpoint: &Checkpoint,
    node: &Node,
    inputs: &[Quant],
    output: Quant,
    prefer: Prefer,
) -> Result<Block, ExportError> {
    let layer = || node.name.clone();
    let no_factor = || ExportError::Factor { layer: layer() };
    let input = inputs[0].scale;
    match node.layer {
        Layer::Add(_) => factor::add(input, inputs[1].scale, output.scale)
            .map(Block::Add)
            .ok_or_else(no_factor),
        Layer::Softmax => factor::softmax(input)
            .map(|f| Block::Softmax(f.0))
            .ok_or_else(no_factor),
        Layer::Conv2d(_) | Layer::DepthwiseConv2d(_) | Layer::Dense(_) => {
            let Some(folded) = checkpoint.folded(node) else {
                return Ok(Block::None); // a checkpoint has the tensors of its layers
            };
            if !folded
                .weights
                .iter()
                .chain(&folded.bias)
                .all(|w| w.is_finite())
            {
                return Err(ExportError::NotFinite { layer: layer() });
            }
            let grid = checkpoint.grids.get(&node.name);
            let real = |scale: &f32| {
                let real = factor::real(input, *scale, output.scale);
                match prefer.channels() {
                    ChannelLayout::Wide => real,
                    ChannelLayout::Compact => factor::compact(real),
                }
            };
            let channels = Channels::quantise(&folded, &node.layer, input, grid, real);
            if matches!(node.layer, Layer::Dense(_)) {
                return Ok(Block::Dense {
                    factors: channels.scales.iter().map(real).collect(),
                    weights: channels.weights,
                    bias: channels.bias,
                });
            }
            let factors: Option<Vec<Multiplier>> = channels
                .scales
                .iter()
                .map(|scale| factor::multiplier(real(scale)))
                .collect();
            Ok(Block::Conv {
                factors: factors.ok_or_else(no_factor)?,
                weights: channels.weights,
                bias: channels.bias,
            })
        }
        _ => Ok(Block::None),
    }
}

/// The grid with integers so large that factors are below 1/2, as far as that goes. Weights
/// of few bits are small integers with large scales, and neither a compact channel nor the
/// fast kernels (`in_range` in `shared::kernels::dsp::tile`) take factors from 1/2 on.
fn below_half(mut grid: Grid, factor: impl Fn(&f32) -> f64) -> Grid {
    while grid.scales().iter().any(|scale| factor(scale) >= 0.5) {
        let Some(doubled) = grid.doubled() else { break };
        grid = doubled;
    }
    grid
}

/// Weights and biases as integers, with one scale for each output channel.
struct Channels {
    weights: Vec<i8>,
    bias: Vec<i32>,
    scales: Vec<f32>,
}

impl Channels {
    /// On the grid of the layer, or symmetric per output channel: scale = max |w| / 127.
    fn quantise(
        folded: &Folded,
        layer: &Layer,
        input_scale: f32,
        grid: Option<&Grid>,
        factor: impl Fn(&f32) -> f64,
    ) -> Self {
        let channel_of = folded.channel_of(layer);
        let fitted = || {
            let channels = folded.bias.len();
            Grid::fit(&folded.weights, &channel_of, channels, Levels::Bits(8))
        };
        let grid = grid.cloned().unwrap_or_else(fitted);
        let grid = below_half(grid, factor).with_room_for(&folded.bias, input_scale);
        let bias = folded
            .bias
            .iter()
            .zip(grid.scales())
            .map(|(&bias, &scale)| {
                let unit = f64::from(input_scale) * f64::from(scale);
                let limit = f64::from(MAX_BIAS);
                (f64::from(bias) / unit).round().clamp(-limit, limit) as i32
            });
        Self {
            bias: bias.collect(),
            weights: grid.integers(&folded.weights, &channel_of),
            scales: grid.scales().to_vec(),
        }
    }
}
