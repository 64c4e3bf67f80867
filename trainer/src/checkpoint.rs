//! A trained float network in one safetensors file.
//!
//! The tensors lie in the file as any safetensors reader expects them; what
//! they mean (layers, classes, preprocessing) is one JSON text in the file's
//! `__metadata__`, under the key `espalier`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use shared::layer::Layer;
use shared::model::Resize;

use crate::data::Split;
use crate::network::{Definition, Network, NetworkError, Node, Role};
use crate::quantise::Grid;

/// The version of the description that this program writes and reads.
pub const VERSION: u32 = 1;

/// Added to the variance in batch normalisation; Burn's default.
pub const NORM_EPSILON: f64 = 1e-5;

/// Key of the description in the file's metadata.
const KEY: &str = "espalier";
/// Name of the tensor of bytes that holds the state of the optimiser.
const OPTIMISER: &str = "optimiser";
/// What names of the tensors of a mean begin with. No layer's name has a colon.
const AVERAGE: &str = "average:";
/// The same for those of the best epoch.
const BEST: &str = "best:";

/// Numbers in row-major order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Array {
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// As many numbers as the product of the sides.
    pub data: Vec<f32>,
}

/// How a pixel becomes a number: real = (pixel - mean) * scale.
///
/// The mean is a whole pixel value, so that int8 pixels (pixel - 128) with the
/// zero point mean - 128 stand for exactly the same numbers.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputScale {
    /// The pixel value that becomes 0.
    pub mean: u8,
    /// Finite and positive.
    pub scale: f32,
}

impl InputScale {
    /// The number for a pixel.
    pub fn real(self, pixel: u8) -> f32 {
        (f32::from(pixel) - f32::from(self.mean)) * self.scale
    }
}

/// Tensors by [`Node::tensor_name`].
pub type Tensors = BTreeMap<String, Array>;

/// Where an unfinished training stands.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TrainingState {
    /// Finished steps.
    pub step: usize,
    /// What is trained how, as JSON; a training goes on only under the same.
    pub run: String,
    /// The state of the optimiser, as Burn writes it.
    pub optimiser: Vec<u8>,
    /// The mean of the tensors so far.
    pub average: Option<Tensors>,
    /// The best epoch so far.
    pub best: Option<BestEpoch>,
}

/// What a network was when it did best on the validation pictures.
#[derive(Clone, PartialEq, Debug)]
pub struct BestEpoch {
    /// Which epoch, from 1.
    pub epoch: usize,
    /// Its tensors.
    pub tensors: Tensors,
}

/// A network with its tensors and all that is needed to use it.
///
/// Invariant, checked by [`Checkpoint::load`]: there is every tensor that the
/// network asks for, in the right shape and finite, and a class name for every
/// output.
#[derive(Clone, PartialEq, Debug)]
pub struct Checkpoint {
    /// The layers.
    pub network: Network,
    /// Names of the outputs.
    pub classes: Vec<String>,
    /// How pixels become numbers.
    pub input: InputScale,
    /// What was done to pictures of another size.
    pub resize: Resize,
    /// Which pictures it has learnt from; nothing where that is not known.
    pub split: Option<Split>,
    /// By [`Node::tensor_name`]; shapes as in [`Network::tensors_of`].
    pub tensors: Tensors,
    /// By the name of a layer, which values its weights may take; any where it has none.
    /// A layer with a grid has no batch normalisation.
    pub grids: BTreeMap<String, Grid>,
    /// Present while the training is not finished.
    pub training: Option<TrainingState>,
}

/// Weights and biases of one layer with batch normalisation folded in, laid out
/// as [`shared::layer::ParamShape`] says.
#[derive(Clone, PartialEq, Debug)]
pub struct Folded {
    /// `Conv2d` O H W I, `DepthwiseConv2d` H W O, `Dense` O I.
    pub weights: Vec<f32>,
    /// One for each output channel.
    pub bias: Vec<f32>,
}

impl Folded {
    /// From the position of a weight of `layer` to its output channel.
    pub fn channel_of(&self, layer: &Layer) -> impl Fn(usize) -> usize + use<> {
        let channels = self.bias.len().max(1);
        let fan_in = (self.weights.len() / channels).max(1);
        let is_innermost = matches!(layer, Layer::DepthwiseConv2d(_));
        move |index| match is_innermost {
            true => index % channels,
            false => index / fan_in,
        }
    }
}

/// Everything about a checkpoint that is not a tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    network: Network,
    classes: Vec<String>,
    input: InputScale,
    resize: Resize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<Split>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    grids: BTreeMap<String, Grid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    training: Option<Progress>,
}

/// A [`TrainingState`] without the tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    step: usize,
    run: String,
    #[serde(default)]
    averaged: bool,
    #[serde(default)]
    best_epoch: Option<usize>,
}

/// The version alone, to be read before anything that depends on it.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file is not there.
    #[error("{}: no such checkpoint; make one with `espalier train`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The operating system refused to read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused to write.
    #[error("{}: cannot be written: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{}: not a whole safetensors file: {reason}", file.display())]
    NotSafetensors {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A safetensors file of another program.
    #[error("{}: the file has tensors but no description of a network; give a checkpoint that `espalier train` or `espalier compress` wrote", file.display())]
    NoDescription {
        /// The file.
        file: PathBuf,
    },
    /// A description that does not parse.
    #[error("{}: the description of the network is damaged: {reason}", file.display())]
    BadDescription {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by another version, as a rule a newer one.
    #[error("{}: the checkpoint has version {found} and this build reads version {VERSION}; use the build that wrote it", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A tensor that the network needs is not there.
    #[error("{}: tensor `{tensor}` is missing; the file is not from espalier or was changed", file.display())]
    NoTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor is not what the network needs.
    #[error("{}: tensor `{tensor}` is {found} and must be {wanted}", file.display())]
    BadTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type and shape, or the number in it that is not finite.
        found: String,
        /// What the network needs.
        wanted: String,
    },
}

impl Checkpoint {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, CheckpointError> {
        let bytes = std::fs::read(file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CheckpointError::Missing {
                file: file.to_owned(),
            },
            _ => CheckpointError::Read {
                file: file.to_owned(),
                source,
            },
        })?;
        Self::parse(&bytes, file)
    }

    /// Checks the bytes of `file`.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, CheckpointError> {
        Reader::new(file, bytes)?.checkpoint()
    }

    /// Writes the file so that at every moment either the old or the new one is
    /// there as a whole.
    pub fn save(&self, file: &Path) -> Result<(), CheckpointError> {
        let write = |source| CheckpointError::Write {
            file: file.to_owned(),
            source,
        };
        let bytes = self.to_bytes().map_err(io::Error::other).map_err(write)?;
        crate::file::save(file, &bytes).map_err(write)
    }

    /// One tensor of a node. `None` where the layer has no such tensor.
    pub fn tensor(&self, node: &Node, role: Role) -> Option<&Array> {
        self.tensors.get(&node.tensor_name(role))
    }

    /// Weights and bias of a node as a device needs them: `None` for a layer
    /// without weights.
    ///
    /// Batch normalisation gamma (x - mean) / sqrt(variance + epsilon) + beta
    /// is linear, so that it becomes a factor for the weights of each channel
    /// and another bias. A weight of 0 stays 0.
    pub fn folded(&self, node: &Node) -> Option<Folded> {
        let weight = self.tensor(node, Role::Weight)?;
        let bias = self.tensor(node, Role::Bias)?;
        let mut folded = Folded {
            weights: device_layout(&node.layer, weight),
            bias: bias.data.clone(),
        };
        if let Some(norm) = self.norm(node) {
            norm.fold_into(&node.layer, &mut folded);
        }
        Some(folded)
    }

    /// Puts the weights of every layer that has a grid on it.
    pub fn snap_to_grids(&mut self) {
        for node in &self.network.nodes {
            let weight = self.tensors.get_mut(&node.tensor_name(Role::Weight));
            if let (Some(grid), Some(weight)) = (self.grids.get(&node.name), weight) {
                grid.snap(&mut weight.data, channel_of(&node.layer, &weight.shape));
            }
        }
    }

    /// The same weights, which may take any value from now on.
    pub fn without_grids(self) -> Self {
        Self {
            grids: BTreeMap::new(),
            ..self
        }
    }

    /// The same network with batch normalisation folded into weights and biases.
    pub fn without_batch_norm(&self) -> Result<Self, NetworkError> {
        let mut plain = self.clone();
        for node in &self.network.nodes {
            let (Some(norm), Some(weight)) = (self.norm(node), self.tensor(node, Role::Weight))
            else {
                continue;
            };
            let (factors, channel_of) = (norm.factors(), channel_of(&node.layer, &weight.shape));
            let arrays = &mut plain.tensors;
            if let Some(weight) = arrays.get_mut(&node.tensor_name(Role::Weight)) {
                for (index, weight) in weight.data.iter_mut().enumerate() {
                    *weight *= factors[channel_of(index)];
                }
            }
            if let Some(bias) = arrays.get_mut(&node.tensor_name(Role::Bias)) {
                norm.fold_into_bias(&factors, &mut bias.data);
            }
            for role in [Role::Gamma, Role::Beta, Role::Mean, Role::Variance] {
                arrays.remove(&node.tensor_name(role));
            }
        }
        let nodes = self.network.nodes.iter();
        let definitions = nodes.map(|node| Definition {
            batch_norm: false,
            ..Definition::from(node)
        });
        plain.network = Network::new(self.network.input, definitions.collect())?;
        Ok(plain)
    }

    /// Weights and biases with batch normalisation folded, zeroes counted.
    pub fn parameters(&self) -> usize {
        self.network.parameters()
    }

    /// Weights and biases with batch normalisation folded that are not 0.
    pub fn nonzeros(&self) -> usize {
        let count = |values: &[f32]| values.iter().filter(|&&value| value != 0.0).count();
        self.network
            .nodes
            .iter()
            .filter_map(|node| self.folded(node))
            .map(|folded| count(&folded.weights) + count(&folded.bias))
            .sum()
    }

    fn norm(&self, node: &Node) -> Option<Norm<'_>> {
        Some(Norm {
            gamma: &self.tensor(node, Role::Gamma)?.data,
            beta: &self.tensor(node, Role::Beta)?.data,
            mean: &self.tensor(node, Role::Mean)?.data,
            variance: &self.tensor(node, Role::Variance)?.data,
        })
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let description = Description {
            version: VERSION,
            network: self.network.clone(),
            classes: self.classes.clone(),
            input: self.input,
            resize: self.resize,
            split: self.split,
            grids: self.grids.clone(),
            training: self.training.as_ref().map(|state| Progress {
                step: state.step,
                run: state.run.clone(),
                averaged: state.average.is_some(),
                best_epoch: state.best.as_ref().map(|best| best.epoch),
            }),
        };
        let json = serde_json::to_string(&description).map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(KEY.to_owned(), json)]);
        let state = self.training.as_ref();
        let average = state.and_then(|state| state.average.as_ref());
        let best = state.and_then(|state| Some(&state.best.as_ref()?.tensors));
        let sets = [("", Some(&self.tensors)), (AVERAGE, average), (BEST, best)];
        let named = sets.into_iter().flat_map(|(prefix, tensors)| {
            let tensors = tensors.into_iter().flatten();
            tensors.map(move |(name, array)| (format!("{prefix}{name}"), array))
        });
        let floats: Vec<(String, &[usize], Vec<u8>)> = named
            .map(|(name, array)| (name, array.shape.as_slice(), le_bytes(&array.data)))
            .collect();
        let view = |dtype, shape: &[usize], data| {
            TensorView::new(dtype, shape.to_vec(), data).map_err(|error| error.to_string())
        };
        let mut views = floats
            .iter()
            .map(|(name, shape, data)| Ok((name.as_str(), view(Dtype::F32, shape, data)?)))
            .collect::<Result<Vec<_>, String>>()?;
        if let Some(state) = &self.training {
            let bytes = &state.optimiser;
            views.push((OPTIMISER, view(Dtype::U8, &[bytes.len()], bytes)?));
        }
        safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }
}

/// The tensors of a batch normalisation, one number for each channel.
struct Norm<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    mean: &'a [f32],
    variance: &'a [f32],
}

impl Norm<'_> {
    fn fold_into(&self, layer: &Layer, folded: &mut Folded) {
        let factors = self.factors();
        let channel_of = folded.channel_of(layer);
        for (index, weight) in folded.weights.iter_mut().enumerate() {
            *weight *= factors[channel_of(index)];
        }
        self.fold_into_bias(&factors, &mut folded.bias);
    }

    /// What the weights of each channel are multiplied by.
    fn factors(&self) -> Vec<f32> {
        let factor = |(gamma, variance): (&f32, &f32)| {
            (f64::from(*gamma) / (f64::from(*variance) + NORM_EPSILON).sqrt()) as f32
        };
        self.gamma.iter().zip(self.variance).map(factor).collect()
    }

    fn fold_into_bias(&self, factors: &[f32], bias: &mut [f32]) {
        let offsets = self.beta.iter().zip(self.mean).zip(factors);
        for (bias, ((beta, mean), factor)) in bias.iter_mut().zip(offsets) {
            *bias = beta + (*bias - mean) * factor;
        }
    }
}

/// From the position of a weight, in a tensor of this shape as a checkpoint has it, to
/// its output channel.
pub(crate) fn channel_of(layer: &Layer, shape: &[usize]) -> impl Fn(usize) -> usize + use<> {
    let (side, inner) = match layer {
        Layer::Dense(_) => (shape.get(1).copied(), 1),
        _ => (shape.first().copied(), shape.iter().skip(1).product()),
    };
    let channels = side.unwrap_or(1).max(1);
    let inner = inner.max(1);
    move |index| index / inner % channels
}

/// From the layout of a checkpoint to that of the device.
fn device_layout(layer: &Layer, weight: &Array) -> Vec<f32> {
    let side = |index: usize| weight.shape.get(index).copied().unwrap_or(1);
    let area = side(2) * side(3);
    match layer {
        // O (I HW) to O (HW I)
        Layer::Conv2d(_) => {
            let filters = weight.data.chunks(side(1) * area);
            filters
                .flat_map(|filter| transposed(filter, area))
                .collect()
        }
        // O HW to HW O
        Layer::DepthwiseConv2d(_) => transposed(&weight.data, area),
        // I O to O I
        _ => transposed(&weight.data, side(1)),
    }
}

/// Swaps rows and columns of a row-major matrix.
pub(crate) fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let column = |x: usize| matrix.iter().skip(x).step_by(columns.max(1)).copied();
    (0..columns).flat_map(column).collect()
}

fn le_bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A file under examination.
struct Reader<'a> {
    file: &'a Path,
    description: Description,
    tensors: SafeTensors<'a>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Path, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let damaged = |error: safetensors::SafeTensorError| CheckpointError::NotSafetensors {
            file: file.to_owned(),
            reason: error.to_string(),
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let json = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(KEY));
        let json = json.ok_or_else(|| CheckpointError::NoDescription {
            file: file.to_owned(),
        })?;
        Ok(Self {
            file,
            description: describe(file, json)?,
            tensors,
        })
    }

    fn checkpoint(self) -> Result<Checkpoint, CheckpointError> {
        self.check_description()?;
        let tensors = self.tensors("")?;
        let training = match &self.description.training {
            Some(progress) => Some(self.training(progress)?),
            None => None,
        };
        let Description {
            network,
            classes,
            input,
            resize,
            split,
            grids,
            ..
        } = self.description;
        Ok(Checkpoint {
            network,
            classes,
            input,
            resize,
            tensors,
            split,
            grids,
            training,
        })
    }

    /// All tensors of the network, under names that begin with this.
    fn tensors(&self, prefix: &str) -> Result<Tensors, CheckpointError> {
        let mut tensors = BTreeMap::new();
        for node in &self.description.network.nodes {
            for (role, shape) in self.description.network.tensors_of(node) {
                let name = node.tensor_name(role);
                let stored = format!("{prefix}{name}");
                let array = self.array(&stored, shape)?;
                if role == Role::Variance && array.data.iter().any(|&variance| variance < 0.0) {
                    return Err(self.bad(&stored, "negative", "a variance"));
                }
                tensors.insert(name, array);
            }
        }
        Ok(tensors)
    }

    fn check_description(&self) -> Result<(), CheckpointError> {
        let Description {
            network,
            classes,
            input,
            grids,
            ..
        } = &self.description;
        let bad = |reason| CheckpointError::BadDescription {
            file: self.file.to_owned(),
            reason,
        };
        if classes.len() != network.classes() {
            let (names, outputs) = (classes.len(), network.classes());
            return Err(bad(format!("{names} class names for {outputs} outputs")));
        }
        if !(input.scale.is_finite() && input.scale > 0.0) {
            return Err(bad(format!(
                "the input scale {} is not positive",
                input.scale
            )));
        }
        for (name, grid) in grids {
            let node = network.nodes.iter().find(|node| node.name == *name);
            let params = node
                .filter(|node| !node.batch_norm)
                .and_then(|node| network.params(node));
            if !params.is_some_and(|params| grid.is_valid(params.channels)) {
                return Err(bad(format!("the grid of layer `{name}` does not fit it")));
            }
        }
        Ok(())
    }

    fn training(&self, progress: &Progress) -> Result<TrainingState, CheckpointError> {
        let view = self.view(OPTIMISER)?;
        if view.dtype() != Dtype::U8 {
            return Err(self.bad(OPTIMISER, format!("{:?}", view.dtype()), "bytes"));
        }
        let average = progress.averaged.then(|| self.tensors(AVERAGE));
        let best = progress.best_epoch.map(|epoch| {
            let tensors = self.tensors(BEST)?;
            Ok(BestEpoch { epoch, tensors })
        });
        Ok(TrainingState {
            step: progress.step,
            run: progress.run.clone(),
            optimiser: view.data().to_vec(),
            average: average.transpose()?,
            best: best.transpose()?,
        })
    }

    fn array(&self, name: &str, shape: Vec<usize>) -> Result<Array, CheckpointError> {
        let view = self.view(name)?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(self.bad(name, found, format!("F32 {shape:?}")));
        }
        let (chunks, _) = view.data().as_chunks::<4>();
        let data: Vec<f32> = chunks
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        match data.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.bad(name, format!("{} at element {at}", data[at]), "finite")),
            None => Ok(Array { shape, data }),
        }
    }

    fn view(&self, name: &str) -> Result<TensorView<'a>, CheckpointError> {
        self.tensors
            .tensor(name)
            .map_err(|_| CheckpointError::NoTensor {
                file: self.file.to_owned(),
                tensor: name.to_owned(),
            })
    }

    fn bad(
        &self,
        tensor: &str,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::BadTensor {
            file: self.file.to_owned(),
            tensor: tensor.to_owned(),
            found: found.into(),
            wanted: wanted.into(),
        }
    }
}

fn describe(file: &Path, json: &str) -> Result<Description, CheckpointError> {
    let bad = |error: serde_json::Error| CheckpointError::BadDescription {
        file: file.to_owned(),
        reason: error.to_string(),
    };
    let Version { version } = serde_json::from_str(json).map_err(bad)?;
    if version != VERSION {
        return Err(CheckpointError::Version {
            file: file.to_owned(),
            found: version,
        });
    }
    serde_json::from_str(json).map_err(bad)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::network::{NetworkSpec, initial_tensors};
    use shared::layer::Shape;

    /// Conv (batch norm), depthwise, dense on 5x4x2.
    fn checkpoint() -> Checkpoint {
        let spec: NetworkSpec = toml::from_str(
            r#"
            [[layers]]
            conv2d = { filters = 3, kernel = [3, 2] }
            batch_norm = true
            [[layers]]
            depthwise_conv2d = { kernel = 2, multiplier = 2 }
            batch_norm = true
            [[layers]]
            dense = {}
            "#,
        )
        .unwrap();
        let network = spec.build(Shape::new(5, 4, 2).unwrap(), 2).unwrap();
        let mut tensors = initial_tensors(&network, 1);
        for (name, array) in &mut tensors {
            if name.contains("norm") || name.contains("bias") {
                let vary = |(i, value): (usize, &mut f32)| *value += 0.1 * (i + 1) as f32;
                array.data.iter_mut().enumerate().for_each(vary);
            }
        }
        Checkpoint {
            network,
            classes: vec!["cat".into(), "dog".into()],
            input: InputScale {
                mean: 73,
                scale: 0.011_1,
            },
            resize: Resize::Crop,
            tensors: tensors.clone(),
            split: None,
            grids: BTreeMap::new(),
            training: Some(TrainingState {
                step: 7,
                run: "a".into(),
                optimiser: vec![1, 2, 3],
                average: Some(tensors.clone()),
                best: Some(BestEpoch { epoch: 7, tensors }),
            }),
        }
    }

    /// Writes a checkpoint, changed as a safetensors file, and gives the error.
    fn error_of(change: impl Fn(&mut Checkpoint)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broken.safetensors");
        let mut broken = checkpoint();
        change(&mut broken);
        broken.save(&file).unwrap();
        let error = Checkpoint::load(&file).unwrap_err().to_string();
        assert!(error.contains("broken.safetensors: "), "{error}");
        error
    }

    #[test]
    fn a_file_gives_the_checkpoint_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        checkpoint().save(&file).unwrap();
        assert_eq!(Checkpoint::load(&file).unwrap(), checkpoint());
        let finished = Checkpoint {
            training: None,
            ..checkpoint()
        };
        finished.save(&file).unwrap();
        let first = std::fs::read(&file).unwrap();
        assert_eq!(Checkpoint::load(&file).unwrap(), finished);
        finished.save(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), first);
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_named() {
        let bias = |change: fn(&mut Array)| {
            error_of(move |c| change(c.tensors.get_mut("dense_1.bias").unwrap()))
        };
        assert!(bias(|a| a.data[1] = f32::NAN).contains("`dense_1.bias` is NaN at element 1"));
        assert!(bias(|a| a.shape = vec![1, 2]).contains("is F32 [1, 2] and must be F32 [2]"));
        let missing = error_of(|c| drop(c.tensors.remove("dense_1.bias")));
        assert!(missing.contains("tensor `dense_1.bias` is missing"));
        let classes = error_of(|c| drop(c.classes.pop()));
        assert!(classes.contains("1 class names for 2 outputs"));
        assert!(error_of(|c| c.input.scale = 0.0).contains("is not positive"));
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let load = || Checkpoint::load(&file).unwrap_err();
        assert!(matches!(load(), CheckpointError::Missing { .. }));
        std::fs::write(&file, b"PK").unwrap();
        assert!(matches!(load(), CheckpointError::NotSafetensors { .. }));
        let empty: [(&str, TensorView); 0] = [];
        std::fs::write(&file, safetensors::serialize(empty, None).unwrap()).unwrap();
        assert!(matches!(load(), CheckpointError::NoDescription { .. }));
        checkpoint().save(&file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(load(), CheckpointError::NotSafetensors { .. }));
        let text = String::from_utf8_lossy(&whole[8..]).into_owned();
        assert!(text.contains(r#"\"version\":1"#));
        let newer = whole.clone();
        let at = newer
            .windows(12)
            .position(|w| w == br#"version\":1,"#)
            .unwrap();
        let mut newer = newer;
        newer[at + 10] = b'2';
        std::fs::write(&file, newer).unwrap();
        assert!(matches!(load(), CheckpointError::Version { found: 2, .. }));
    }

    #[test]
    fn weights_are_laid_out_for_the_device() {
        let weight = |shape: &[usize]| Array {
            shape: shape.to_vec(),
            data: (0..shape.iter().product::<usize>())
                .map(|i| i as f32)
                .collect(),
        };
        let c = checkpoint();
        let layer = |index: usize| c.network.nodes[index].layer;
        // [2 filters, 2 channels, 1, 2]
        assert_eq!(
            device_layout(&layer(0), &weight(&[2, 2, 1, 2])),
            [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
        );
        assert_eq!(
            device_layout(&layer(1), &weight(&[2, 1, 1, 3])),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
        assert_eq!(
            device_layout(&layer(2), &weight(&[2, 3])),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
    }

    #[test]
    fn folding_follows_the_formula() {
        let mut c = checkpoint();
        if let Some(weight) = c.tensors.get_mut("depthwise_conv2d_1.weight") {
            weight.data[5] = 0.0;
        }
        let node = &c.network.nodes[1];
        let folded = c.folded(node).unwrap();
        let value = |name: &str, i: usize| c.tensors[&format!("depthwise_conv2d_1.{name}")].data[i];
        for channel in 0..6 {
            let factor =
                value("norm.gamma", channel) / (value("norm.variance", channel) + 1e-5).sqrt();
            // [6, 1, 2, 2] to [2, 2, 6]
            let wanted = value("weight", channel * 4 + 3) * factor;
            assert!((folded.weights[3 * 6 + channel] - wanted).abs() < 1e-6);
            let wanted = value("norm.beta", channel)
                + (value("bias", channel) - value("norm.mean", channel)) * factor;
            assert!((folded.bias[channel] - wanted).abs() < 1e-6);
        }
        assert_eq!(folded.weights[6 + 1], 0.0);
        assert_eq!(c.parameters(), c.nonzeros() + 1);
        assert_eq!(c.parameters(), (3 * 12 + 3) + (6 * 4 + 6) + (2 * 24 + 2));
    }
}
