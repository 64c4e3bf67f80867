//! Makes a trained network smaller. One file per method; each takes a
//! checkpoint and gives one back.

pub mod clip;
pub mod cost;
pub mod factorise;
pub mod finetune;
pub mod importance;
mod per_layer;
pub mod prune;
pub mod scale;
pub mod search;
pub mod sensitivity;
pub mod share;
pub mod structured;
pub mod student;

use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::importance::Measure;
pub use self::per_layer::PerLayer;
use self::per_layer::unknown;
use self::prune::Scope;
use self::scale::ScaleMode;
use self::search::Targets;
use self::structured::Preference;
use crate::network::{Network, NetworkSpec};
use crate::train::{COUNT, MOST, OutOfRange, first_wrong};

/// Share of the weights that become 0 where nothing else is asked for.
const SPARSITY: f32 = 0.9;

/// The `[compress]` section: what is done, in the order of the keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressOptions {
    /// A network that takes the place of the one given and learns to answer like it; with
    /// what follows done to it. See [`student::student`].
    pub student: Option<NetworkSpec>,
    /// The factor of [`scale::scale`], above 0; 1 for none.
    pub scale: f32,
    /// How it scales.
    pub scale_mode: ScaleMode,
    /// The limit of [`clip::clip`], above 0; none where not given. It holds before the
    /// fine-tuning and behind it, for weights with batch normalisation folded in.
    pub clip: Option<f32>,
    /// Depthwise filters for each input channel of a layer in [`factorise::factorise`];
    /// layers without stay whole.
    pub factorise: Option<PerLayer<NonZeroU8>>,
    /// What makes a channel important to [`structured`].
    pub importance: Measure,
    /// How much more than others the channels of a layer are worth, above 0.
    pub preference: Preference,
    /// Most parameters, zeros counted, that [`structured`] leaves; all where not given.
    pub target_params: Option<usize>,
    /// Most bytes of the model file: [`search`].
    pub target_model_bytes: Option<usize>,
    /// Most bytes of flash, model and firmware: [`search`].
    pub target_flash: Option<usize>,
    /// Most bytes of RAM, arena, statics and stack: [`search`].
    pub target_ram: Option<usize>,
    /// Most instructions of one inference on the emulated board: [`search`].
    pub target_instructions: Option<u64>,
    /// Most percentage points of accuracy on the validation pictures that may be lost,
    /// from the float network to the int8 model. With any target, [`search`] looks for the
    /// best network within it.
    pub max_drop: Option<f64>,
    /// Passes over the data of one trial of a search; with 0 nothing is tried, and the
    /// targets are met with what is given.
    pub trial_epochs: usize,
    /// Share of the weights that [`prune`] makes 0, 0 to below 1; where not given, see
    /// [`CompressOptions::sparsity`].
    pub sparsity: Option<f32>,
    /// Among which weights the smallest are looked for.
    pub scope: Scope,
    /// Share of the weights left that go too many at first and come back where their
    /// gradients are largest, 0 to below 1.
    pub regrow: f32,
    /// Distinct weights of a layer, 2 to 255: [`share`]. Any where not given.
    pub share: Option<PerLayer<u8>>,
    /// Bits of a layer's weights, 2 to 8, where they are not shared. With 8 the int8
    /// rounding is trained with; where not given, it comes at export.
    pub bits: Option<PerLayer<u8>>,
    /// Passes over the data in the fine-tuning, 1 or more.
    pub epochs: usize,
    /// In place of `epochs`: as many as it takes for so many steps, 1 or more.
    pub steps: Option<usize>,
    /// Highest learning rate of the fine-tuning, above 0.
    pub rate: f64,
    /// Weight decay of the fine-tuning; that of the training where not given.
    pub weight_decay: Option<f64>,
    /// Whether pictures are mixed (mixup, cutmix) in the fine-tuning as they are in the
    /// training. A small network may have no room for mixed pictures.
    pub mix: bool,
    /// Share of the loss that is the distance to what the network said before it was
    /// compressed, 0 to 1; the rest is the distance to the labels.
    pub distill: f32,
    /// What both networks' logits are divided by for that, above 0.
    pub temperature: f32,
    /// Checkpoints that teach beside the uncompressed network, by the mean of all their
    /// logits; for pictures of the same shape and classes.
    pub teachers: Vec<PathBuf>,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            student: None,
            scale: 1.0,
            scale_mode: ScaleMode::default(),
            clip: None,
            factorise: None,
            importance: Measure::default(),
            preference: Preference::default(),
            target_params: None,
            target_model_bytes: None,
            target_flash: None,
            target_ram: None,
            target_instructions: None,
            max_drop: None,
            trial_epochs: 2,
            sparsity: None,
            scope: Scope::default(),
            regrow: 0.0,
            share: None,
            bits: None,
            epochs: 80,
            steps: None,
            rate: 1e-3,
            weight_decay: None,
            mix: true,
            distill: 0.5,
            temperature: 4.0,
            teachers: Vec::new(),
        }
    }
}

impl CompressOptions {
    /// The keys, with what `--help` says of each.
    pub const KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "student",
            "A network of other layers that learns to answer like this one: { preset = 'dscnn' }",
        ),
        (
            "scale",
            "Multiply every weight by this; the parameter count stays",
        ),
        (
            "scale_mode",
            "exact (biases too: the same classes) or literal (weights only)",
        ),
        (
            "clip",
            "Clamp every weight to this far from 0; the parameter count stays",
        ),
        (
            "factorise",
            "Split layers in two, this many depthwise filters per channel first: { dense_1 = 2 }",
        ),
        (
            "importance",
            "Which channels go last: magnitude, taylor or batch-norm",
        ),
        (
            "preference",
            "How much more than others the channels of a layer are worth: { conv2d_1 = 1.6 }",
        ),
        (
            "target_params",
            "Remove whole channels and neurons until so many parameters are left, zeros counted",
        ),
        ("target_model_bytes", "Most bytes of the model file"),
        ("target_flash", "Most bytes of flash, model and firmware"),
        ("target_ram", "Most bytes of RAM: arena, statics and stack"),
        (
            "target_instructions",
            "Most instructions of one inference on the emulated board",
        ),
        (
            "max_drop",
            "Most points of validation accuracy that may be lost; with a target, search for the best network",
        ),
        (
            "trial_epochs",
            "Passes over the training pictures in one trial of a search; 0 tries nothing",
        ),
        (
            "sparsity",
            "Share of the weights that become 0, 0 to below 1; 0.9 where nothing else is asked for",
        ),
        (
            "scope",
            "Where the smallest weights are looked for: global or layer",
        ),
        (
            "regrow",
            "Share of the weights left that go too early and come back where gradients are largest",
        ),
        (
            "share",
            "Distinct weights in a layer, 2 to 255: 16, or { conv2d_1 = 64, '*' = 16 }",
        ),
        (
            "bits",
            "Bits of the weights that are not shared, 2 to 8: 4, or { conv2d_1 = 8, '*' = 4 }",
        ),
        (
            "epochs",
            "Passes over the training pictures while fine-tuning",
        ),
        (
            "steps",
            "In place of epochs: as many as it takes for so many steps",
        ),
        ("rate", "Highest learning rate while fine-tuning"),
        (
            "weight_decay",
            "Decay of the weights while fine-tuning; train.weight_decay where not given",
        ),
        (
            "mix",
            "Whether pictures are mixed (mixup, cutmix) while fine-tuning as they are in training",
        ),
        (
            "distill",
            "Share of the loss that comes from the uncompressed network's answers, 0 to 1",
        ),
        (
            "temperature",
            "Softens those answers; 1 leaves them as they are",
        ),
        (
            "teachers",
            "Checkpoints to learn from beside the uncompressed network: ['larger.safetensors']",
        ),
    ];

    /// The first key that is out of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let wrong = |value: f64, right: bool| (!right).then(|| value.to_string());
        let counts = 1..=MOST;
        let (sparsity, rate) = (self.sparsity(), self.rate);
        let (distill, temperature) = (self.distill, self.temperature);
        let positive = |value: f32| wrong(value.into(), value > 0.0 && value.is_finite());
        let within = |values: &Option<PerLayer<u8>>, range: RangeInclusive<u8>| {
            let mut values = values.iter().flat_map(PerLayer::values);
            values
                .find(|value| !range.contains(value))
                .map(|value| value.to_string())
        };
        first_wrong([
            (
                "compress.scale",
                positive(self.scale),
                "a number above 0, such as 0.1",
            ),
            (
                "compress.clip",
                self.clip.and_then(positive),
                "a number above 0, such as 0.5",
            ),
            (
                "compress.sparsity",
                wrong(sparsity.into(), (0.0..1.0).contains(&sparsity)),
                "0 or more and below 1",
            ),
            (
                "compress.regrow",
                wrong(self.regrow.into(), (0.0..1.0).contains(&self.regrow)),
                "0 or more and below 1",
            ),
            (
                "compress.max_drop",
                self.max_drop
                    .and_then(|drop| wrong(drop, (0.0..=100.0).contains(&drop))),
                "0 to 100, in percentage points",
            ),
            (
                "compress.preference",
                self.preference
                    .values()
                    .find_map(|&worth| wrong(worth, worth > 0.0 && worth.is_finite())),
                "numbers above 0, such as { conv2d_1 = 1.6 }",
            ),
            (
                "compress.share",
                within(&self.share, 2..=255),
                "2 to 255, for each layer",
            ),
            (
                "compress.bits",
                within(&self.bits, 2..=8),
                "2 to 8, for each layer",
            ),
            (
                "compress.weight_decay",
                self.weight_decay
                    .and_then(|decay| wrong(decay, decay >= 0.0 && decay.is_finite())),
                "0 or more",
            ),
            (
                "compress.epochs",
                wrong(self.epochs as f64, counts.contains(&self.epochs)),
                COUNT,
            ),
            (
                "compress.steps",
                self.steps
                    .and_then(|steps| wrong(steps as f64, counts.contains(&steps))),
                COUNT,
            ),
            (
                "compress.rate",
                wrong(rate, rate > 0.0 && rate.is_finite()),
                "a number above 0, such as 0.001",
            ),
            (
                "compress.distill",
                wrong(distill.into(), (0.0..=1.0).contains(&distill)),
                "0 to 1",
            ),
            (
                "compress.temperature",
                positive(temperature),
                "a number above 0, such as 4",
            ),
        ])
    }

    /// Whether the network changes so that it has to be trained on.
    pub fn is_fine_tuned(&self) -> bool {
        self.is_smaller() || self.is_search() || self.sparsity() > 0.0 || self.has_grids()
    }

    /// A key with a value for a layer that is not there, and the layer. Parts of layers
    /// that are split are there.
    pub fn unknown_layer(&self, network: &Network) -> Option<(&'static str, &str)> {
        let share = self.share.as_ref().and_then(|share| share.unknown(network));
        let bits = self.bits.as_ref().and_then(|bits| bits.unknown(network));
        let ranks = self
            .factorise
            .as_ref()
            .and_then(|ranks| ranks.unknown(network));
        let preference = unknown(self.preference.keys(), network);
        let keys = [
            ("share", share),
            ("bits", bits),
            ("factorise", ranks),
            ("preference", preference),
        ];
        keys.into_iter().find_map(|(key, name)| Some((key, name?)))
    }

    /// What the network may cost.
    pub fn targets(&self) -> Targets {
        Targets {
            params: self.target_params.map(|most| most as u64),
            model_bytes: self.target_model_bytes.map(|most| most as u64),
            flash: self.target_flash.map(|most| most as u64),
            ram: self.target_ram.map(|most| most as u64),
            instructions: self.target_instructions,
        }
    }

    /// Whether the best network is searched for.
    pub fn is_search(&self) -> bool {
        let parameters_alone = Targets {
            params: self.targets().params,
            ..Targets::default()
        };
        self.max_drop.is_some() || self.targets() != parameters_alone
    }

    /// Share of the weights that become 0: as given, or 0.9 where nothing else is asked
    /// for.
    pub fn sparsity(&self) -> f32 {
        let changes_values = self.scale != 1.0 || self.clip.is_some();
        let asked =
            changes_values || self.is_smaller() || self.has_grids() || self.max_drop.is_some();
        self.sparsity.unwrap_or(if asked { 0.0 } else { SPARSITY })
    }

    /// Whether the network has other layers, or fewer channels.
    fn is_smaller(&self) -> bool {
        self.student.is_some() || self.factorise.is_some() || !self.targets().is_empty()
    }

    /// Whether weights are trained on a grid.
    pub fn has_grids(&self) -> bool {
        self.share.is_some() || self.bits.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use burn::tensor::Device;
    use shared::layer::Shape;
    use shared::model::Resize;

    use super::*;
    use crate::checkpoint::{Checkpoint, InputScale};
    use crate::network::{FloatNetwork, NetworkSpec, initial_tensors, numbers, pictures_to_tensor};

    /// Channels that go through everything they can go through.
    pub(crate) const GRAPH: &str = "layers = [
        { name = 'stem', conv2d = { filters = 6, kernel = 3, padding = 'same', activation = 'relu' }, batch_norm = true },
        { name = 'a', conv2d = { filters = 6, kernel = 1 } },
        { from = ['stem', 'a'], add = { activation = 'relu' } },
        { depthwise_conv2d = { kernel = 3, multiplier = 2, padding = 'same', activation = 'relu' }, batch_norm = true },
        { max_pool2d = { kernel = 2 } },
        { conv2d = { filters = 8, kernel = 3, padding = 'same', activation = 'relu6' } },
        { avg_pool2d = { kernel = 2 } },
        { flatten = {} },
        { dense = { units = 7, activation = 'relu' } },
        { dense = {} },
        { softmax = {} },
    ]";
    /// A dense layer over channels that no flatten has spread.
    pub(crate) const PLAIN: &str = "layers = [
        { conv2d = { filters = 5, kernel = 3, activation = 'relu' } },
        { dense = { units = 9, activation = 'relu' } },
        { dense = {} },
    ]";

    pub(crate) fn checkpoint(layers: &str) -> Checkpoint {
        let spec: NetworkSpec = toml::from_str(layers).unwrap();
        let network = spec.build(Shape::new(8, 8, 2).unwrap(), 3).unwrap();
        let mut tensors = initial_tensors(&network, 3);
        for (name, array) in &mut tensors {
            let vary = |(i, value): (usize, &mut f32)| *value += 0.03 * (1.0 + (i * 7 % 5) as f32);
            if !name.ends_with(".weight") {
                array.data.iter_mut().enumerate().for_each(vary);
            }
        }
        Checkpoint {
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            input: InputScale {
                mean: 120,
                scale: 0.01,
            },
            resize: Resize::Exact,
            training: None,
            split: None,
            grids: Default::default(),
            network,
            tensors,
        }
    }

    pub(crate) fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
        let device = Device::flex();
        let shape = checkpoint.network.input;
        let pixels: Vec<u8> = (0..3 * shape.len()).map(|i| (i * 89 % 253) as u8).collect();
        let network = FloatNetwork::new(checkpoint, &device);
        numbers(network.logits(pictures_to_tensor(
            &pixels,
            shape,
            checkpoint.input,
            &device,
        )))
    }

    #[test]
    fn options_have_ranges() {
        assert_eq!(CompressOptions::default().validate(), Ok(()));
        let all = CompressOptions {
            sparsity: Some(1.0),
            ..Default::default()
        };
        let key = all.validate().map_err(|(key, ..)| key);
        assert_eq!(key, Err("compress.sparsity"));
    }
}
