//! A network as a person writes it, in `espalier.toml` or as a preset's name.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use shared::layer::{Activation, Add, Conv2d, Dense, DepthwiseConv2d, Layer, Pool2d, Shape};

use super::{Definition, Network, NetworkError};

/// The name by which a layer reads the picture.
pub(super) const INPUT: &str = "input";

/// Names and text of the presets.
pub const PRESETS: [(&str, &str); 6] = [
    ("article", include_str!("presets/article.toml")),
    ("article-1m", include_str!("presets/article-1m.toml")),
    ("conv3", include_str!("presets/conv3.toml")),
    ("lenet5", include_str!("presets/lenet5.toml")),
    ("resnet8", include_str!("presets/resnet8.toml")),
    ("dscnn", include_str!("presets/dscnn.toml")),
];

/// Either a preset or a list of layers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a network: { preset = 'article' }, or a list of layers"
)]
pub struct NetworkSpec {
    /// One of [`PRESETS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The layers in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerSpec>,
}

/// One layer. It has exactly one of the kinds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LayerSpec {
    /// Name; the kind and a running number (`conv2d_1`) where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it reads; the layer before where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Inputs>,
    /// Batch normalisation before the activation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub batch_norm: bool,
    /// Convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conv2d: Option<Conv2d>,
    /// Convolution of each channel on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depthwise_conv2d: Option<DepthwiseConv2d>,
    /// Fully connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseSpec>,
    /// Maximum over a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pool2d: Option<Pool2d>,
    /// Mean over a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg_pool2d: Option<Pool2d>,
    /// Mean over each whole channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_avg_pool2d: Option<Nothing>,
    /// Sum of two tensors, named in `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    /// All elements in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flatten: Option<Nothing>,
    /// Probabilities from the outputs of the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softmax: Option<Nothing>,
}

/// A fully connected layer.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseSpec {
    /// Outputs; the last dense layer has one for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<NonZeroU16>,
    /// Fused activation.
    pub activation: Activation,
}

/// The options of a layer that has none: `flatten = {}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Names of layers; `input` is the picture.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "a layer's name, or a list of names")]
pub enum Inputs {
    /// For a layer that reads one tensor.
    One(String),
    /// For a layer that reads several.
    Many(Vec<String>),
}

/// A kind with its options, before the head knows the number of classes.
#[derive(Clone, Copy)]
enum Kind {
    Ready(Layer),
    Dense(DenseSpec),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Ready(layer) => layer.kind(),
            Self::Dense(_) => "dense",
        }
    }
}

impl NetworkSpec {
    /// The spec of a preset.
    pub fn preset(name: &str) -> Self {
        Self {
            preset: Some(name.to_owned()),
            layers: Vec::new(),
        }
    }

    /// The layers, looked up where a preset is named.
    pub fn resolve(&self) -> Result<Vec<LayerSpec>, NetworkError> {
        match &self.preset {
            Some(name) if self.layers.is_empty() => preset_layers(name),
            None if !self.layers.is_empty() => Ok(self.layers.clone()),
            _ => Err(NetworkError::PresetOrLayers),
        }
    }

    /// The network for pictures of this shape and that many classes.
    pub fn build(&self, input: Shape, classes: usize) -> Result<Network, NetworkError> {
        let layers = self.resolve()?;
        let kinds = (1..)
            .zip(&layers)
            .map(|(position, layer)| layer.kind(position));
        let kinds = kinds.collect::<Result<Vec<Kind>, _>>()?;
        let head = kinds
            .iter()
            .rposition(|kind| matches!(kind, Kind::Dense(_)));
        let mut definitions: Vec<Definition> = Vec::with_capacity(layers.len());
        for (index, (spec, kind)) in layers.iter().zip(&kinds).enumerate() {
            let name = spec
                .name
                .clone()
                .unwrap_or_else(|| numbered(&kinds[..=index]));
            let classes = (Some(index) == head).then_some(classes);
            definitions.push(Definition {
                layer: kind.layer(&name, classes)?,
                inputs: spec.inputs(&name, &definitions)?,
                batch_norm: spec.batch_norm,
                name,
            });
        }
        Network::new(input, definitions)
    }
}

fn preset_layers(wanted: &str) -> Result<Vec<LayerSpec>, NetworkError> {
    let found = PRESETS.iter().find(|(name, _)| *name == wanted);
    let Some(&(name, text)) = found else {
        return Err(NetworkError::UnknownPreset {
            name: wanted.to_owned(),
            suggestion: nearest(wanted, PRESETS.iter().map(|&(name, _)| name)),
        });
    };
    let spec: NetworkSpec = toml::from_str(text).map_err(|error| NetworkError::BadPreset {
        name,
        reason: error.to_string(),
    })?;
    Ok(spec.layers)
}

/// The name most like `wanted`, if any is like it at all.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    names
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|&(likeness, _)| likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

/// The name of the last of these layers: its kind, and how many of that kind
/// there are so far.
fn numbered(kinds: &[Kind]) -> String {
    let kind = kinds.last().map_or("", Kind::name);
    let count = kinds.iter().filter(|other| other.name() == kind).count();
    format!("{kind}_{count}")
}

impl Kind {
    /// The layer; `classes` is given for the head alone.
    fn layer(&self, name: &str, classes: Option<usize>) -> Result<Layer, NetworkError> {
        let spec = match *self {
            Self::Ready(layer) => return Ok(layer),
            Self::Dense(spec) => spec,
        };
        let units = match (spec.units, classes) {
            (Some(units), Some(classes)) if usize::from(units.get()) != classes => {
                return Err(NetworkError::Head {
                    layer: name.to_owned(),
                    units: units.get().into(),
                    classes,
                });
            }
            (Some(units), _) => units,
            (None, Some(classes)) => u16::try_from(classes)
                .ok()
                .and_then(NonZeroU16::new)
                .ok_or(NetworkError::Classes(classes))?,
            (None, None) => {
                return Err(NetworkError::NoUnits {
                    layer: name.to_owned(),
                });
            }
        };
        Ok(Layer::Dense(Dense {
            units,
            activation: spec.activation,
        }))
    }
}

impl LayerSpec {
    fn kind(&self, position: usize) -> Result<Kind, NetworkError> {
        let ready = |layer| Kind::Ready(layer);
        let kinds = [
            self.conv2d.map(Layer::Conv2d).map(ready),
            self.depthwise_conv2d.map(Layer::DepthwiseConv2d).map(ready),
            self.dense.map(Kind::Dense),
            self.max_pool2d.map(Layer::MaxPool2d).map(ready),
            self.avg_pool2d.map(Layer::AvgPool2d).map(ready),
            self.global_avg_pool2d
                .map(|_| ready(Layer::GlobalAvgPool2d)),
            self.add.map(Layer::Add).map(ready),
            self.flatten.map(|_| ready(Layer::Flatten)),
            self.softmax.map(|_| ready(Layer::Softmax)),
        ];
        let kinds: Vec<Kind> = kinds.into_iter().flatten().collect();
        match kinds.as_slice() {
            [kind] => Ok(*kind),
            [] => Err(NetworkError::Kinds {
                position,
                found: "of no kind".to_owned(),
            }),
            several => Err(NetworkError::Kinds {
                position,
                found: several
                    .iter()
                    .map(Kind::name)
                    .collect::<Vec<_>>()
                    .join(" and "),
            }),
        }
    }

    /// Numbers of the tensors that it reads.
    fn inputs(&self, layer: &str, before: &[Definition]) -> Result<Vec<usize>, NetworkError> {
        let names = match &self.from {
            None => return Ok(vec![before.len()]),
            Some(Inputs::One(name)) => std::slice::from_ref(name),
            Some(Inputs::Many(names)) => names.as_slice(),
        };
        names
            .iter()
            .map(|name| tensor_called(name, layer, before))
            .collect()
    }
}

fn tensor_called(name: &str, layer: &str, before: &[Definition]) -> Result<usize, NetworkError> {
    if name == INPUT {
        return Ok(0);
    }
    let found = before.iter().position(|definition| definition.name == name);
    found
        .map(|index| index + 1)
        .ok_or_else(|| NetworkError::UnknownInput {
            layer: layer.to_owned(),
            name: name.to_owned(),
            suggestion: nearest(
                name,
                before.iter().map(|definition| definition.name.as_str()),
            ),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(height: usize, width: usize, channels: usize) -> Shape {
        Shape::new(height, width, channels).unwrap()
    }

    fn parse(text: &str) -> Result<Network, NetworkError> {
        let spec: NetworkSpec = toml::from_str(text).unwrap();
        spec.build(shape(8, 8, 1), 3)
    }

    #[test]
    fn presets_have_their_published_sizes() {
        let count = |name, input, classes| {
            let network = NetworkSpec::preset(name).build(input, classes).unwrap();
            (network.parameters(), network.macs())
        };
        assert_eq!(count("article", shape(28, 28, 1), 10).0, 121_930);
        assert_eq!(count("article-1m", shape(28, 28, 1), 10).0, 999_274);
        assert_eq!(count("conv3", shape(28, 28, 1), 10).0, 44_138);
        assert_eq!(count("lenet5", shape(28, 28, 1), 10).0, 431_080);
        assert_eq!(count("resnet8", shape(32, 32, 3), 10).1, 12_501_632);
        assert_eq!(count("dscnn", shape(49, 10, 1), 12).1, 2_656_768);
    }

    #[test]
    fn the_example_of_the_readme_is_a_network() {
        #[derive(Deserialize)]
        struct Example {
            network: NetworkSpec,
        }
        let readme = include_str!("../../../README.md");
        let example = readme.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let Example { network } = toml::from_str(example).unwrap();
        assert_eq!(network.build(shape(8, 8, 1), 3).unwrap().nodes.len(), 6);
    }

    #[test]
    fn layers_are_named_and_joined() {
        let network = parse(
            r#"
            [[layers]]
            conv2d = { filters = 4, kernel = 3, padding = "same" }
            batch_norm = true
            [[layers]]
            name = "right"
            from = "input"
            conv2d = { filters = 4, kernel = 1 }
            [[layers]]
            add = { activation = "relu" }
            from = ["conv2d_1", "right"]
            [[layers]]
            dense = {}
            "#,
        )
        .unwrap();
        let names: Vec<&str> = network
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        assert_eq!(names, ["conv2d_1", "right", "add_1", "dense_1"]);
        let inputs: Vec<&[usize]> = network
            .nodes
            .iter()
            .map(|node| node.inputs.as_slice())
            .collect();
        assert_eq!(inputs, [&[0][..], &[0], &[1, 2], &[3]]);
        assert!(network.nodes[0].batch_norm);
        assert_eq!(network.classes(), 3);
    }

    #[test]
    fn mistakes_are_named() {
        let says = |text: &str, part: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        says("", "exactly one");
        says("preset = 'artcle'", "did you mean `article`?");
        says(
            "preset = 'zzz'",
            "there are article, article-1m, conv3, lenet5, resnet8, dscnn",
        );
        says("[[layers]]", "layer 1 (from 1) is of no kind");
        says(
            "[[layers]]\nflatten = {}\nsoftmax = {}",
            "is flatten and softmax",
        );
        says("[[layers]]\ndense = { units = 4 }", "4 units for 3 classes");
        says(
            "[[layers]]\ndense = {}\n[[layers]]\ndense = {}",
            "`dense_1` needs `units`",
        );
        says("[[layers]]\nfrom = 'inputs'\ndense = {}", "`inputs`");
        says(
            "[[layers]]\nflatten = {}\n[[layers]]\nfrom = 'flaten_1'\ndense = {}",
            "did you mean `flatten_1`?",
        );
        says(
            "[[layers]]\nconv2d = { filters = 1, kernel = 9 }\n[[layers]]\ndense = {}",
            "`conv2d_1` over 8x8x1: the window is larger",
        );
        assert!(toml::from_str::<NetworkSpec>("[[layers]]\nconv2d = { filter = 1 }").is_err());
        assert!(toml::from_str::<NetworkSpec>("[[layers]]\nflatten = { x = 1 }").is_err());
    }

    #[test]
    fn toml_gives_the_spec_back() {
        for (name, text) in PRESETS {
            let spec: NetworkSpec = toml::from_str(text).unwrap();
            let again: NetworkSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
            assert_eq!(again, spec, "{name}");
        }
    }
}
