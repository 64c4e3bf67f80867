//! Few distinct weights: a shared codebook, or few bits, for each layer.

use super::CompressOptions;
use crate::checkpoint::{Checkpoint, channel_of};
use crate::network::Role;
use crate::quantise::{Grid, Levels};

impl CompressOptions {
    /// How many values the weights of a layer may take, where they are not any.
    pub fn levels(&self, layer: &str) -> Option<Levels> {
        let shared = self.share.as_ref().and_then(|share| share.of(layer));
        let bits = || self.bits.as_ref().and_then(|bits| bits.of(layer));
        shared
            .map(Levels::Shared)
            .or_else(|| bits().map(Levels::Bits))
    }
}

/// Gives each layer the grid that is nearest to its weights; the weights stay.
pub fn fit_grids(checkpoint: &mut Checkpoint, options: &CompressOptions) {
    for node in &checkpoint.network.nodes {
        let weight = checkpoint.tensors.get(&node.tensor_name(Role::Weight));
        if let (Some(levels), Some(weight)) = (options.levels(&node.name), weight) {
            let channel_of = channel_of(&node.layer, &weight.shape);
            let channels = node.output.channels();
            let grid = Grid::fit(&weight.data, channel_of, channels, levels);
            checkpoint.grids.insert(node.name.clone(), grid);
        }
    }
}

/// Distinct weights of the network, as many as there are in each layer, added up: of a
/// layer with a grid its integers, which are what a model file has.
pub fn distinct_weights(checkpoint: &Checkpoint) -> usize {
    let of_layer = |node: &crate::network::Node| {
        let weight = checkpoint.tensor(node, Role::Weight)?;
        let mut values: Vec<u32> = match checkpoint.grids.get(&node.name) {
            Some(grid) => {
                let channel_of = channel_of(&node.layer, &weight.shape);
                let integers = grid.integers(&weight.data, channel_of);
                integers
                    .into_iter()
                    .map(|integer| integer as u8 as u32)
                    .collect()
            }
            None => weight.data.iter().map(|weight| weight.to_bits()).collect(),
        };
        values.sort_unstable();
        values.dedup();
        Some(values.len())
    };
    checkpoint.network.nodes.iter().filter_map(of_layer).sum()
}
