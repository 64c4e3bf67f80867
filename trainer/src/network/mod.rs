//! What a network is: a checked list of layers whose inputs are known by number.
//!
//! [`NetworkSpec`] is how a person writes one, [`Network`] is what the rest of
//! the program gets, and [`FloatNetwork`] is the same network in Burn.

mod float;
mod init;
mod kernels;
mod spec;

use serde::{Deserialize, Serialize};
use shared::layer::{Layer, ParamShape, Shape, ShapeError};
use shared::model::MAX_LAYERS;

#[cfg(feature = "candle")]
pub(crate) use float::NORM_MOMENTUM;
pub(crate) use float::numbers;
pub use float::{FloatNetwork, Masks, pictures_to_tensor};
pub use init::initial_tensors;
pub use spec::{DenseSpec, Inputs, LayerSpec, NetworkSpec, Nothing, PRESETS};

/// Layers in the order in which they run.
///
/// [`Network::new`] is the only constructor (`serde` goes through it as well)
/// and checks everything, so that whoever holds a network may rely on it: every
/// input exists, every shape fits, every layer is read, and a [`Layer::Dense`],
/// with or without a [`Layer::Softmax`] behind it, comes last.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Description", into = "Description")]
pub struct Network {
    /// Shape of one picture.
    pub input: Shape,
    /// The layers. Tensor 0 is the input of the network, tensor `i + 1` the
    /// output of `nodes[i]`.
    pub nodes: Vec<Node>,
}

/// One layer in its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Unique in the network; letters, digits, `_`, `-` and `/`.
    pub name: String,
    /// The definition.
    pub layer: Layer,
    /// The tensors that it reads, see [`Network::nodes`].
    pub inputs: Vec<usize>,
    /// Whether batch normalisation comes between the layer and its activation.
    pub batch_norm: bool,
    /// Shape of what it writes.
    pub output: Shape,
}

/// A [`Node`] before its shape is known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// See [`Node::name`].
    pub name: String,
    /// See [`Node::layer`].
    pub layer: Layer,
    /// See [`Node::inputs`].
    pub inputs: Vec<usize>,
    /// See [`Node::batch_norm`].
    pub batch_norm: bool,
}

impl From<&Node> for Definition {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            layer: node.layer,
            inputs: node.inputs.clone(),
            batch_norm: node.batch_norm,
        }
    }
}

/// What is stored of a network: everything that cannot be computed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    input: Shape,
    nodes: Vec<Definition>,
}

/// Why a network cannot be built.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Neither or both of `preset` and `layers`.
    #[error("a network has either `preset` or `layers`; give exactly one of them")]
    PresetOrLayers,
    /// A preset that does not exist.
    #[error("no preset is called `{name}`{}; there are {}", did_you_mean(suggestion), PRESETS.map(|(name, _)| name).join(", "))]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// The preset with the nearest name.
        suggestion: Option<String>,
    },
    /// A preset of this program does not parse.
    #[error("preset `{name}` does not parse: {reason}")]
    BadPreset {
        /// Which.
        name: &'static str,
        /// What the TOML parser said.
        reason: String,
    },
    /// A layer without a kind, or of several kinds.
    #[error(
        "layer {position} (from 1) is {found}; give it exactly one kind, for example `flatten = {{}}`"
    )]
    Kinds {
        /// Which layer, from 1.
        position: usize,
        /// The kinds it has.
        found: String,
    },
    /// A layer reads what no earlier layer writes.
    #[error(
        "layer `{layer}` reads `{name}`, which no earlier layer is called{}; `input` is the picture",
        did_you_mean(suggestion)
    )]
    UnknownInput {
        /// The layer.
        layer: String,
        /// What it reads.
        name: String,
        /// The earlier layer with the nearest name.
        suggestion: Option<String>,
    },
    /// A dense layer without units that is not the last.
    #[error(
        "layer `{layer}` needs `units`: only the last dense layer may leave them out, it has one for each class"
    )]
    NoUnits {
        /// The layer.
        layer: String,
    },
    /// The head does not fit the classes.
    #[error(
        "layer `{layer}` has {units} units for {classes} classes; leave `units` out of the last dense layer"
    )]
    Head {
        /// The last dense layer.
        layer: String,
        /// Its units.
        units: usize,
        /// Classes in the data.
        classes: usize,
    },
    /// More classes than a layer can have units, or none.
    #[error("a network cannot tell {0} classes apart; 1 to 65,535 are possible")]
    Classes(usize),
    /// No layer, or more than a model file holds.
    #[error("{0} layers; 1 to {MAX_LAYERS} are possible")]
    LayerCount(usize),
    /// A name that cannot be used.
    #[error("`{0}` is no name for a layer; use letters, digits, `_`, `-` and `/`, and not `input`")]
    Name(String),
    /// Two layers of one name.
    #[error("two layers are called `{0}`; rename one")]
    DuplicateName(String),
    /// An input by number that is not an earlier tensor.
    #[error("layer `{layer}` reads tensor {tensor}, which no earlier layer writes")]
    Input {
        /// The layer.
        layer: String,
        /// The tensor.
        tensor: usize,
    },
    /// Batch normalisation where there is no weight to fold it into.
    #[error(
        "layer `{layer}`: batch normalisation works behind a convolution or a dense layer, not behind {kind}; remove `batch_norm`"
    )]
    BatchNorm {
        /// The layer.
        layer: String,
        /// Its kind.
        kind: &'static str,
    },
    /// The layer does not take its input.
    #[error("layer `{layer}` over {inputs}: {reason}")]
    Shape {
        /// The layer.
        layer: String,
        /// Shapes of its inputs.
        inputs: String,
        /// What is wrong.
        reason: ShapeError,
    },
    /// A layer whose output goes nowhere.
    #[error(
        "nothing reads the output of layer `{0}`; remove it, or name it in `from` of a later layer"
    )]
    Unread(String),
    /// The network does not end in a classifier.
    #[error(
        "the network ends in layer `{0}`; end it with `dense = {{}}`, and `softmax = {{}}` behind it if wanted"
    )]
    End(String),
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// What a tensor of a layer is for; decides its name in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Weights: convolution [out, in, kh, kw], depthwise [out, 1, kh, kw],
    /// dense [in, out] with the inputs in HWC order.
    Weight,
    /// Bias, `[out]`.
    Bias,
    /// Batch normalisation: factor, `[out]`.
    Gamma,
    /// Batch normalisation: offset, `[out]`.
    Beta,
    /// Batch normalisation: running mean, `[out]`.
    Mean,
    /// Batch normalisation: running variance, `[out]`.
    Variance,
}

impl Role {
    /// What follows the layer's name and a dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::Gamma => "norm.gamma",
            Self::Beta => "norm.beta",
            Self::Mean => "norm.mean",
            Self::Variance => "norm.variance",
        }
    }
}

impl Node {
    /// Name of one of its tensors in a checkpoint: `conv2d_1.weight`.
    pub fn tensor_name(&self, role: Role) -> String {
        format!("{}.{}", self.name, role.suffix())
    }
}

impl Network {
    /// Checks the definitions and computes the shapes.
    pub fn new(input: Shape, definitions: Vec<Definition>) -> Result<Self, NetworkError> {
        if definitions.is_empty() || definitions.len() > MAX_LAYERS {
            return Err(NetworkError::LayerCount(definitions.len()));
        }
        let mut network = Self {
            input,
            nodes: Vec::with_capacity(definitions.len()),
        };
        for definition in definitions {
            let node = network.place(definition)?;
            network.nodes.push(node);
        }
        network.check_all_read()?;
        network.head()?;
        Ok(network)
    }

    /// Shape of a tensor, see [`Network::nodes`].
    pub fn shape(&self, tensor: usize) -> Shape {
        match tensor.checked_sub(1) {
            Some(node) => self.nodes[node].output,
            None => self.input,
        }
    }

    /// Shape of the first input of a node.
    pub fn input_of(&self, node: &Node) -> Shape {
        node.inputs
            .first()
            .map_or(self.input, |&tensor| self.shape(tensor))
    }

    /// Weights and biases of a node, batch normalisation folded; `None` for a
    /// layer without.
    pub fn params(&self, node: &Node) -> Option<ParamShape> {
        node.layer.params(self.input_of(node))
    }

    /// Whether any layer is normalised.
    pub fn has_batch_norm(&self) -> bool {
        self.nodes.iter().any(|node| node.batch_norm)
    }

    /// Outputs of the head.
    pub fn classes(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.output.channels())
    }

    /// Weights and biases, batch normalisation folded.
    pub fn parameters(&self) -> usize {
        let count = |params: ParamShape| params.weights() + params.channels;
        self.nodes
            .iter()
            .filter_map(|node| self.params(node))
            .map(count)
            .sum()
    }

    /// Multiply-accumulates of one inference, products with padding counted.
    pub fn macs(&self) -> u64 {
        let macs = |node: &Node| node.layer.macs(self.input_of(node), node.output);
        self.nodes.iter().map(macs).sum()
    }

    /// Tensors of a node in a checkpoint, with their shapes.
    pub fn tensors_of(&self, node: &Node) -> Vec<(Role, Vec<usize>)> {
        let input = self.input_of(node);
        let Some(params) = node.layer.params(input) else {
            return Vec::new();
        };
        let out = params.channels;
        let weight = match node.layer {
            Layer::Conv2d(c) => {
                vec![out, input.channels(), c.kernel.height(), c.kernel.width()]
            }
            Layer::DepthwiseConv2d(c) => vec![out, 1, c.kernel.height(), c.kernel.width()],
            _ => vec![params.fan_in, out],
        };
        let mut tensors = vec![(Role::Weight, weight), (Role::Bias, vec![out])];
        if node.batch_norm {
            let norm = [Role::Gamma, Role::Beta, Role::Mean, Role::Variance];
            tensors.extend(norm.map(|role| (role, vec![out])));
        }
        tensors
    }

    /// The last dense layer, which tells the classes apart.
    pub fn head(&self) -> Result<&Node, NetworkError> {
        let mut last = self.nodes.iter().rev();
        let head = match last.next() {
            Some(node) if node.layer == Layer::Softmax => last.next(),
            other => other,
        };
        match head {
            Some(node) if matches!(node.layer, Layer::Dense(_)) => Ok(node),
            _ => Err(NetworkError::End(
                self.nodes
                    .last()
                    .map_or_else(String::new, |node| node.name.clone()),
            )),
        }
    }

    /// The next node, checked against those before it.
    fn place(&self, definition: Definition) -> Result<Node, NetworkError> {
        let Definition {
            name,
            layer,
            inputs,
            batch_norm,
        } = definition;
        self.check_name(&name)?;
        if let Some(&tensor) = inputs.iter().find(|&&tensor| tensor > self.nodes.len()) {
            return Err(NetworkError::Input {
                layer: name,
                tensor,
            });
        }
        let shapes: Vec<Shape> = inputs.iter().map(|&tensor| self.shape(tensor)).collect();
        let output = layer
            .output_shape(&shapes)
            .map_err(|reason| NetworkError::Shape {
                layer: name.clone(),
                inputs: shapes
                    .iter()
                    .map(Shape::to_string)
                    .collect::<Vec<_>>()
                    .join(" and "),
                reason,
            })?;
        if batch_norm
            && shapes
                .first()
                .and_then(|&shape| layer.params(shape))
                .is_none()
        {
            return Err(NetworkError::BatchNorm {
                layer: name,
                kind: layer.kind(),
            });
        }
        Ok(Node {
            name,
            layer,
            inputs,
            batch_norm,
            output,
        })
    }

    fn check_name(&self, name: &str) -> Result<(), NetworkError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-/".contains(c);
        if name.is_empty() || name == spec::INPUT || !name.chars().all(allowed) {
            return Err(NetworkError::Name(name.to_owned()));
        }
        if self.nodes.iter().any(|node| node.name == name) {
            return Err(NetworkError::DuplicateName(name.to_owned()));
        }
        Ok(())
    }

    fn check_all_read(&self) -> Result<(), NetworkError> {
        let read = |tensor| self.nodes.iter().any(|node| node.inputs.contains(&tensor));
        let unread = (1..self.nodes.len()).find(|&tensor| !read(tensor));
        match unread {
            Some(tensor) => Err(NetworkError::Unread(self.nodes[tensor - 1].name.clone())),
            None => Ok(()),
        }
    }
}

impl TryFrom<Description> for Network {
    type Error = NetworkError;

    fn try_from(description: Description) -> Result<Self, NetworkError> {
        Self::new(description.input, description.nodes)
    }
}

impl From<Network> for Description {
    fn from(network: Network) -> Self {
        let definition = |node: Node| Definition {
            name: node.name,
            layer: node.layer,
            inputs: node.inputs,
            batch_norm: node.batch_norm,
        };
        Self {
            input: network.input,
            nodes: network.nodes.into_iter().map(definition).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn definition(name: &str, layer: Layer, inputs: &[usize]) -> Definition {
        Definition {
            name: name.to_owned(),
            layer,
            inputs: inputs.to_vec(),
            batch_norm: false,
        }
    }

    fn dense(units: u16) -> Layer {
        Layer::Dense(shared::layer::Dense {
            units: units.try_into().unwrap(),
            activation: Default::default(),
        })
    }

    fn build(definitions: Vec<Definition>) -> Result<Network, NetworkError> {
        Network::new(Shape::new(4, 4, 1).unwrap(), definitions)
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cases = [
            (vec![], NetworkError::LayerCount(0)),
            (
                vec![definition("a", dense(2), &[1])],
                NetworkError::Input {
                    layer: "a".into(),
                    tensor: 1,
                },
            ),
            (
                vec![definition("input", dense(2), &[0])],
                NetworkError::Name("input".into()),
            ),
            (
                vec![
                    definition("a", dense(2), &[0]),
                    definition("a", dense(2), &[1]),
                ],
                NetworkError::DuplicateName("a".into()),
            ),
            (
                vec![
                    definition("a", dense(2), &[0]),
                    definition("b", dense(2), &[0]),
                ],
                NetworkError::Unread("a".into()),
            ),
            (
                vec![definition("a", Layer::Flatten, &[0])],
                NetworkError::End("a".into()),
            ),
            (
                vec![Definition {
                    batch_norm: true,
                    ..definition("a", Layer::Flatten, &[0])
                }],
                NetworkError::BatchNorm {
                    layer: "a".into(),
                    kind: "flatten",
                },
            ),
        ];
        for (definitions, error) in cases {
            assert_eq!(build(definitions), Err(error));
        }
    }

    #[test]
    fn a_description_gives_the_network_back() {
        let network = build(vec![
            definition("flat", Layer::Flatten, &[0]),
            definition("head", dense(3), &[1]),
            definition("probabilities", Layer::Softmax, &[2]),
        ])
        .unwrap();
        let json = serde_json::to_string(&network).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
        assert_eq!(
            (network.classes(), network.parameters(), network.macs()),
            (3, 51, 48)
        );
        assert_eq!(network.head().unwrap().name, "head");
    }
}
