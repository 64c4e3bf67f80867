//! Structured pruning: whole channels and neurons leave the network, and with them
//! everything that was computed from them, so that what is left is a smaller dense
//! network.
//!
//! A channel rarely belongs to one layer alone. A pool hands it on, a depthwise
//! layer makes new ones from it, an addition ties it to a channel of another layer,
//! and a flatten spreads it over many inputs of the next dense layer. All channels
//! that can only go together are one unit.

use std::collections::BTreeMap;

use shared::layer::Layer;

use super::importance::Importance;
use crate::checkpoint::{Array, Checkpoint};
use crate::network::{Definition, Network, NetworkError, Node, Role};

/// Why no smaller network was made.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum StructuredError {
    /// Every tensor keeps a channel, and the classes and the picture stay.
    #[error(
        "the network cannot have {target} parameters or fewer: with one channel in each layer it has {least}; set compress.target_params to {least} or more"
    )]
    Target {
        /// What was asked for.
        target: usize,
        /// The smallest network.
        least: usize,
    },
    /// The smaller network is not one.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// How much more than others the channels of a layer are worth: layers that are not named
/// have 1.
pub type Preference = BTreeMap<String, f64>;

/// A network that loses its least important unit, again and again.
///
/// The importance of a channel is over the mean in its layer, so that layers compare,
/// and over the share of the layer that is left, so that none is worn down to a
/// bottleneck. A unit has the mean importance of its channels.
///
/// What is left computes what the whole network would if the channels that are gone
/// were always 0; it has to be trained on.
pub struct Shrinking<'a> {
    checkpoint: &'a Checkpoint,
    units: Units,
    /// The units in the order in which they go.
    order: Vec<usize>,
    /// Parameters after so many have gone.
    params: Vec<usize>,
}

impl<'a> Shrinking<'a> {
    /// Finds the order.
    pub fn new(
        checkpoint: &'a Checkpoint,
        importance: &Importance,
        preference: &Preference,
    ) -> Self {
        let network = &checkpoint.network;
        let units = Units::new(network);
        let worth = units.worth(network, importance, preference);
        let mut kept = Kept::all(network, &units);
        let (mut order, mut params) = (Vec::new(), vec![kept.params()]);
        loop {
            let candidates = kept.removable().map(|unit| {
                let all = worth[unit].iter();
                let sum: f64 = all.map(|&(tensor, worth)| worth / kept.share(tensor)).sum();
                (unit, sum / worth[unit].len() as f64)
            });
            let least = candidates.min_by(|a, b| a.1.total_cmp(&b.1));
            let Some((unit, _)) = least else { break };
            kept.remove(unit);
            order.push(unit);
            params.push(kept.params());
        }
        Self {
            checkpoint,
            units,
            order,
            params,
        }
    }

    /// Units that can go.
    pub fn steps(&self) -> usize {
        self.order.len()
    }

    /// The network without the first `steps` units.
    pub fn after(&self, steps: usize) -> Result<Checkpoint, StructuredError> {
        let mut kept = Kept::all(&self.checkpoint.network, &self.units);
        self.order
            .iter()
            .take(steps)
            .for_each(|&unit| kept.remove(unit));
        kept.apply(self.checkpoint)
    }

    /// How many units have to go until the network has at most `target` parameters
    /// (weights and biases, batch normalisation folded, zeros counted).
    pub fn steps_to(&self, target: usize) -> Result<usize, StructuredError> {
        let steps = self.params.iter().position(|&params| params <= target);
        steps.ok_or_else(|| StructuredError::Target {
            target,
            least: self.params.last().copied().unwrap_or_default(),
        })
    }
}

/// The channels of every tensor, as numbers of units.
struct Units {
    /// For each tensor (see [`Network::nodes`]), the unit of each of its channels.
    of: Vec<Vec<usize>>,
    /// The units that may go: not the picture's and the classes'.
    removable: Vec<usize>,
    /// For each unit, the tensors that it has channels of, and how many.
    channels: Vec<Vec<(usize, usize)>>,
}

impl Units {
    fn new(network: &Network) -> Self {
        let mut links = Links(Vec::new());
        let mut of = vec![links.fresh(network.input.channels())];
        for node in &network.nodes {
            let input = &of[node.inputs[0]];
            let channels = match node.layer {
                Layer::Conv2d(_) | Layer::Dense(_) => links.fresh(node.output.channels()),
                Layer::DepthwiseConv2d(d) => {
                    let times = usize::from(d.multiplier.get());
                    let repeat = |&unit| std::iter::repeat_n(unit, times);
                    input.iter().flat_map(repeat).collect()
                }
                Layer::Flatten => {
                    let positions = node.output.channels() / input.len();
                    input.repeat(positions)
                }
                Layer::Add(_) => {
                    let other = node.inputs.get(1).map_or(input, |&tensor| &of[tensor]);
                    input.iter().zip(other).for_each(|(&a, &b)| links.tie(a, b));
                    input.clone()
                }
                _ => input.clone(),
            };
            of.push(channels);
        }
        for unit in of.iter_mut().flatten() {
            *unit = links.root(*unit);
        }
        let stays = |unit: &usize| of[0].contains(unit) || of[network.nodes.len()].contains(unit);
        let units = (0..links.0.len()).filter(|&unit| links.root(unit) == unit);
        let removable = units.filter(|unit| !stays(unit)).collect();
        let mut channels = vec![Vec::new(); links.0.len()];
        for (tensor, units) in of.iter().enumerate() {
            let mut counts = BTreeMap::new();
            units
                .iter()
                .for_each(|&unit| *counts.entry(unit).or_insert(0) += 1);
            counts
                .into_iter()
                .for_each(|(unit, count)| channels[unit].push((tensor, count)));
        }
        Self {
            of,
            removable,
            channels,
        }
    }

    /// One more than the largest number of a unit.
    fn count(&self) -> usize {
        self.channels.len()
    }

    /// For each unit, the channels that it has in tensors which a layer with weights
    /// writes: the tensor, and what the channel is worth there.
    fn worth(
        &self,
        network: &Network,
        importance: &Importance,
        preference: &Preference,
    ) -> Vec<Vec<(usize, f64)>> {
        let mut of_units = vec![Vec::new(); self.count()];
        let written = self.of.iter().enumerate().skip(1);
        for ((node, (tensor, channels)), importance) in
            network.nodes.iter().zip(written).zip(importance)
        {
            let Some(importance) = importance else {
                continue;
            };
            let mean = importance.iter().sum::<f64>() / importance.len() as f64;
            let preferred = preference.get(&node.name).copied().unwrap_or(1.0);
            for (&unit, importance) in channels.iter().zip(importance) {
                let worth = preferred * importance / mean.max(f64::MIN_POSITIVE);
                of_units[unit].push((tensor, worth));
            }
        }
        of_units
    }
}

/// Which units go together: a forest in which each points to another, or to itself.
struct Links(Vec<usize>);

impl Links {
    fn fresh(&mut self, count: usize) -> Vec<usize> {
        let new = self.0.len()..self.0.len() + count;
        self.0.extend(new.clone());
        new.collect()
    }

    fn root(&self, mut unit: usize) -> usize {
        while self.0[unit] != unit {
            unit = self.0[unit];
        }
        unit
    }

    fn tie(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// What is left of a network.
#[derive(Clone)]
struct Kept<'a> {
    network: &'a Network,
    units: &'a Units,
    /// For each unit, whether it is left.
    unit: Vec<bool>,
    /// For each tensor, how many of its channels are.
    channels: Vec<usize>,
}

impl<'a> Kept<'a> {
    fn all(network: &'a Network, units: &'a Units) -> Self {
        Self {
            network,
            units,
            unit: vec![true; units.count()],
            channels: units.of.iter().map(Vec::len).collect(),
        }
    }

    /// The units that are left, may go, and leave no tensor empty.
    fn removable(&self) -> impl Iterator<Item = usize> {
        let units = self.units.removable.iter().copied();
        let leaves_some = |unit: &usize| {
            let mut tensors = self.units.channels[*unit].iter();
            tensors.all(|&(tensor, count)| self.channels[tensor] > count)
        };
        units.filter(|&unit| self.unit[unit]).filter(leaves_some)
    }

    fn remove(&mut self, unit: usize) {
        self.unit[unit] = false;
        for &(tensor, count) in &self.units.channels[unit] {
            self.channels[tensor] -= count;
        }
    }

    /// How much of a tensor is left, a fraction of 1.
    fn share(&self, tensor: usize) -> f64 {
        self.channels[tensor] as f64 / self.units.of[tensor].len() as f64
    }

    fn params(&self) -> usize {
        let count = |(index, node): (usize, &Node)| {
            let input = node.inputs[0];
            let whole = self.network.params(node)?.fan_in;
            let fan_in = match node.layer {
                Layer::DepthwiseConv2d(_) => whole,
                _ => whole / self.units.of[input].len() * self.channels[input],
            };
            Some((fan_in + 1) * self.channels[index + 1])
        };
        self.network
            .nodes
            .iter()
            .enumerate()
            .filter_map(count)
            .sum()
    }

    /// The positions of what is left in a tensor's channels.
    fn positions(&self, tensor: usize) -> Vec<usize> {
        let channels = self.units.of[tensor].iter().enumerate();
        let left = channels.filter(|&(_, &unit)| self.unit[unit]);
        left.map(|(position, _)| position).collect()
    }

    fn apply(&self, checkpoint: &Checkpoint) -> Result<Checkpoint, StructuredError> {
        let nodes = self.network.nodes.iter().enumerate();
        let definitions = nodes.map(|(index, node)| Definition {
            layer: self.layer(node, self.channels[index + 1]),
            ..Definition::from(node)
        });
        let mut smaller = Checkpoint {
            network: Network::new(self.network.input, definitions.collect())?,
            training: None,
            grids: BTreeMap::new(),
            ..checkpoint.clone()
        };
        for (index, node) in self.network.nodes.iter().enumerate() {
            let (before, after) = (self.inputs(node), self.positions(index + 1));
            for (role, _) in self.network.tensors_of(node) {
                let Some(array) = smaller.tensors.get_mut(&node.tensor_name(role)) else {
                    continue;
                };
                match (role, node.layer) {
                    (Role::Weight, Layer::Conv2d(_)) => {
                        *array = selected(&selected(array, 0, &after), 1, &before);
                    }
                    (Role::Weight, Layer::Dense(_)) => {
                        *array = selected(&selected(array, 0, &before), 1, &after);
                    }
                    _ => *array = selected(array, 0, &after),
                }
            }
        }
        Ok(smaller)
    }

    fn layer(&self, node: &Node, channels: usize) -> Layer {
        let count = u16::try_from(channels).ok().and_then(|n| n.try_into().ok());
        match (node.layer, count) {
            (Layer::Conv2d(conv), Some(filters)) => {
                Layer::Conv2d(shared::layer::Conv2d { filters, ..conv })
            }
            (Layer::Dense(dense), Some(units)) => {
                Layer::Dense(shared::layer::Dense { units, ..dense })
            }
            (layer, _) => layer,
        }
    }

    /// What is left of a node's inputs: channels, or for a dense layer, elements.
    fn inputs(&self, node: &Node) -> Vec<usize> {
        let shape = self.network.shape(node.inputs[0]);
        let channels = self.positions(node.inputs[0]);
        let pixels = match node.layer {
            Layer::Dense(_) => shape.height() * shape.width(),
            _ => 1,
        };
        let pixel = |pixel| {
            let shift = move |&channel: &usize| pixel * shape.channels() + channel;
            channels.iter().map(shift)
        };
        (0..pixels).flat_map(pixel).collect()
    }
}

/// The given positions along one side of an array.
fn selected(array: &Array, side: usize, positions: &[usize]) -> Array {
    let inner: usize = array.shape[side + 1..].iter().product();
    let mut shape = array.shape.clone();
    let length = std::mem::replace(&mut shape[side], positions.len());
    let outer = array.data.chunks(length * inner);
    let data = outer.flat_map(|part| {
        let rows = positions
            .iter()
            .map(move |&at| &part[at * inner..][..inner]);
        rows.flatten().copied()
    });
    Array {
        data: data.collect(),
        shape,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compress::importance::{Measure, importance};
    use crate::compress::tests::{GRAPH, PLAIN, checkpoint, logits};
    use crate::data::{Dataset, PictureShape};

    fn remove(whole: &Checkpoint, target: usize) -> Result<Checkpoint, StructuredError> {
        remove_preferring(whole, target, &Preference::new())
    }

    fn remove_preferring(
        whole: &Checkpoint,
        target: usize,
        preference: &Preference,
    ) -> Result<Checkpoint, StructuredError> {
        let none = Dataset {
            shape: PictureShape {
                height: 1,
                width: 1,
                channels: 1,
            },
            classes: Vec::new(),
            pictures: Vec::new(),
        };
        let importance = importance(whole, Measure::Magnitude, &none).unwrap();
        let shrinking = Shrinking::new(whole, &importance, preference);
        shrinking.after(shrinking.steps_to(target)?)
    }

    /// The whole network with everything that writes a removed channel set to 0.
    fn zeroed(checkpoint: &Checkpoint, kept: &Kept) -> Checkpoint {
        let mut zeroed = checkpoint.clone();
        for (index, node) in checkpoint.network.nodes.iter().enumerate() {
            let left = kept.positions(index + 1);
            for (role, shape) in checkpoint.network.tensors_of(node) {
                let array = zeroed.tensors.get_mut(&node.tensor_name(role)).unwrap();
                let side =
                    usize::from(role == Role::Weight && matches!(node.layer, Layer::Dense(_)));
                let inner: usize = shape[side + 1..].iter().product();
                for (at, value) in array.data.iter_mut().enumerate() {
                    if !left.contains(&(at / inner % shape[side])) && role != Role::Variance {
                        *value = 0.0;
                    }
                }
            }
        }
        zeroed
    }

    #[test]
    fn removing_is_the_same_as_zeroing() {
        for layers in [GRAPH, PLAIN] {
            let whole = checkpoint(layers);
            let units = Units::new(&whole.network);
            let mut kept = Kept::all(&whole.network, &units);
            let mut removed = 0;
            loop {
                let unit = kept.removable().nth(removed % 3);
                let Some(unit) = unit else { break };
                kept.remove(unit);
                removed += 1;
                let smaller = kept.apply(&whole).unwrap();
                assert_eq!(smaller.parameters(), kept.params());
                for node in &smaller.network.nodes {
                    for (role, shape) in smaller.network.tensors_of(node) {
                        assert_eq!(smaller.tensor(node, role).unwrap().shape, shape);
                    }
                }
                let (found, wanted) = (logits(&smaller), logits(&zeroed(&whole, &kept)));
                for (found, wanted) in found.iter().zip(&wanted) {
                    let close = (found - wanted).abs() <= 1e-4 * wanted.abs().max(1.0);
                    assert!(close, "{removed} removed: {found} and not {wanted}");
                }
            }
            assert!(removed > 8, "{removed}");
        }
    }

    #[test]
    fn an_addition_ties_channels() {
        let whole = checkpoint(GRAPH);
        let units = Units::new(&whole.network);
        // stem, a, and their sum
        assert_eq!(units.of[1], units.of[2]);
        assert_eq!(units.of[2], units.of[3]);
        let doubled: Vec<usize> = units.of[1].iter().flat_map(|&unit| [unit, unit]).collect();
        assert_eq!(units.of[4], doubled);
        assert_eq!(units.of[8], units.of[7].repeat(4));
    }

    #[test]
    fn the_target_is_reached_and_hardly_more_removed() {
        let whole = checkpoint(GRAPH);
        for target in [whole.parameters(), 900, 400, 200] {
            let smaller = remove(&whole, target).unwrap();
            let params = smaller.parameters();
            assert!(
                params <= target && params + 150 > target,
                "{params} for {target}"
            );
            assert_eq!(smaller.classes, whole.classes);
        }
    }

    #[test]
    fn layers_of_equal_weights_shrink_alike() {
        let mut whole = checkpoint(
            "layers = [
                { conv2d = { filters = 32, kernel = 3 } },
                { conv2d = { filters = 16, kernel = 3 } },
                { dense = { units = 64 } },
                { dense = {} },
            ]",
        );
        for array in whole.tensors.values_mut() {
            array.data.fill(0.1);
        }
        let smaller = remove(&whole, whole.parameters() / 4).unwrap();
        let widths = smaller
            .network
            .nodes
            .iter()
            .map(|node| node.output.channels());
        let shares = widths.zip([32, 16, 64]).map(|(left, all)| 100 * left / all);
        let shares: Vec<_> = shares.collect();
        // One of 16 channels is 6 %.
        let (least, most) = (shares.iter().min(), shares.iter().max());
        assert!(
            most.zip(least).is_some_and(|(a, b)| a - b <= 7),
            "{shares:?}"
        );
    }

    #[test]
    fn a_layer_that_is_preferred_keeps_more() {
        let whole = checkpoint(GRAPH);
        let units = |preference: &Preference| {
            let smaller = remove_preferring(&whole, 500, preference).unwrap();
            let node = smaller.network.nodes.iter().find(|n| n.name == "dense_1");
            node.unwrap().output.channels()
        };
        let most = units(&Preference::from([("dense_1".to_owned(), 4.0)]));
        let middle = units(&Preference::new());
        assert!(most > middle, "{most} {middle}");
    }

    #[test]
    fn the_least_important_goes_first() {
        let mut whole = checkpoint(PLAIN);
        let weight = whole.tensors.get_mut("conv2d_1.weight").unwrap();
        let filter = weight.shape[1..].iter().product::<usize>();
        weight.data[2 * filter..3 * filter].fill(1e-3);
        let before = whole.tensors["conv2d_1.bias"].data.clone();
        let smaller = remove(&whole, whole.parameters() - 1).unwrap();
        let left = &smaller.tensors["conv2d_1.bias"].data;
        assert_eq!(left[..], [before[0], before[1], before[3], before[4]]);
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_least() {
        let whole = checkpoint(PLAIN);
        let Err(StructuredError::Target { target: 5, least }) = remove(&whole, 5) else {
            panic!("5 parameters are too few");
        };
        // 1 filter of 3x3x2, 1 unit over 36 pixels, 3 classes over it
        assert_eq!(least, 18 + 1 + 36 + 1 + 3 + 3);
        assert_eq!(remove(&whole, least).unwrap().parameters(), least);
    }
}
