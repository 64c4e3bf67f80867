//! Structured pruning: whole channels and neurons leave the network, and with them
//! everything that was computed from them, so that what is left is a smaller dense
//! network.
//!
//! A channel rarely belongs to one layer alone. A pool hands it on, a depthwise
//! layer makes new ones from it, an addition ties it to a channel of another layer,
//! and a flatten spreads it over many inputs of the next dense layer. All channels
//! that can only go together are one unit.

use shared::layer::Layer;

use crate::checkpoint::{Array, Checkpoint, Folded};
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

/// Removes the least important unit, again and again, until the network has at most
/// `target` parameters (weights and biases, batch normalisation folded, zeros counted).
///
/// The importance of a channel is the Euclidean norm of its weights (Li et al. 2017,
/// "Pruning Filters for Efficient ConvNets", take the sum of their sizes) over the mean
/// norm in its layer, so that layers compare, and over the share of the layer that is
/// left, so that none is worn down to a bottleneck. A unit has the importance of all
/// its channels together.
///
/// What is left computes what the whole network would if the channels that are gone
/// were always 0; it has to be trained on.
pub fn remove(checkpoint: &Checkpoint, target: usize) -> Result<Checkpoint, StructuredError> {
    let network = &checkpoint.network;
    let units = Units::new(network);
    let norms = units.norms(checkpoint);
    let mut kept = Kept::all(network, &units);
    while kept.params() > target {
        let candidates = kept.removable().map(|unit| {
            let norms = norms[unit].iter();
            let importance = norms.map(|&(tensor, norm)| norm / kept.share(tensor));
            (unit, importance.sum::<f64>())
        });
        let least = candidates.min_by(|a, b| a.1.total_cmp(&b.1));
        let Some((unit, _)) = least else {
            let least = kept.params();
            return Err(StructuredError::Target { target, least });
        };
        kept = kept.without(unit);
    }
    kept.apply(checkpoint)
}

/// The channels of every tensor, as numbers of units.
struct Units {
    /// For each tensor (see [`Network::nodes`]), the unit of each of its channels.
    of: Vec<Vec<usize>>,
    /// The units that may go: not the picture's and the classes'.
    removable: Vec<usize>,
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
        Self { of, removable }
    }

    /// One more than the largest number of a unit.
    fn count(&self) -> usize {
        self.of.iter().flatten().max().map_or(0, |unit| unit + 1)
    }

    /// For each unit, the channels that it has in tensors which a layer with weights
    /// writes: the tensor, and the norm of the channel's weights over the mean norm in
    /// that layer.
    fn norms(&self, checkpoint: &Checkpoint) -> Vec<Vec<(usize, f64)>> {
        let mut of_units = vec![Vec::new(); self.count()];
        let written = self.of.iter().enumerate().skip(1);
        for (node, (tensor, channels)) in checkpoint.network.nodes.iter().zip(written) {
            let Some(folded) = checkpoint.folded(node) else {
                continue;
            };
            let norms = norms(&node.layer, &folded);
            let mean = norms.iter().sum::<f64>() / norms.len() as f64;
            for (&unit, norm) in channels.iter().zip(norms) {
                of_units[unit].push((tensor, norm / mean.max(f64::MIN_POSITIVE)));
            }
        }
        of_units
    }
}

/// Euclidean norm of the weights of each output channel.
fn norms(layer: &Layer, folded: &Folded) -> Vec<f64> {
    let channel_of = folded.channel_of(layer);
    let mut squares = vec![0.0; folded.bias.len()];
    for (index, &weight) in folded.weights.iter().enumerate() {
        squares[channel_of(index)] += f64::from(weight).powi(2);
    }
    squares.into_iter().map(f64::sqrt).collect()
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
        units
            .filter(|&unit| self.unit[unit])
            .filter(|&unit| self.without(unit).channels.iter().all(|&left| left > 0))
    }

    fn without(&self, unit: usize) -> Self {
        let mut left = self.clone();
        left.unit[unit] = false;
        for (count, channels) in left.channels.iter_mut().zip(&self.units.of) {
            *count -= channels.iter().filter(|&&channel| channel == unit).count();
        }
        left
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
            name: node.name.clone(),
            layer: self.layer(node, self.channels[index + 1]),
            inputs: node.inputs.clone(),
            batch_norm: node.batch_norm,
        });
        let mut smaller = Checkpoint {
            network: Network::new(self.network.input, definitions.collect())?,
            training: None,
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
    use crate::compress::tests::{GRAPH, PLAIN, checkpoint, logits};

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
                kept = kept.without(unit);
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
