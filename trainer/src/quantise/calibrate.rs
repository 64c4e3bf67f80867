//! Which values each layer takes on sample pictures.

use burn::tensor::Device;

use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::network::{FloatNetwork, pictures_to_tensor};
use crate::train::{TrainError, check_data};

/// Pictures in one pass.
const BATCH: usize = 50;

/// Smallest and largest output of every layer, behind its activation.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranges(Vec<(f32, f32)>);

impl Ranges {
    /// Of the layer `index`; (0, 0) for one that does not exist.
    pub fn of(&self, index: usize) -> (f32, f32) {
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Runs the float network over up to `count` pictures, evenly spread over the
/// data set, and keeps the extremes of every layer. The data must have the
/// network's shape and classes.
pub fn calibrate(
    checkpoint: &Checkpoint,
    dataset: &Dataset,
    count: usize,
) -> Result<Ranges, TrainError> {
    check_data(checkpoint, dataset)?;
    let device = Device::flex();
    let network = FloatNetwork::new(checkpoint, &device);
    let every = dataset.pictures.len().div_ceil(count.max(1)).max(1);
    let sample: Vec<_> = dataset.pictures.iter().step_by(every).collect();
    let mut ranges = vec![(0f32, 0f32); checkpoint.network.nodes.len()];
    for batch in sample.chunks(BATCH) {
        let pixels: Vec<u8> = batch.iter().flat_map(|p| &p.pixels).copied().collect();
        let shape = checkpoint.network.input;
        let input = pictures_to_tensor(&pixels, shape, checkpoint.input, &device);
        for (range, values) in ranges.iter_mut().zip(network.trace(input)) {
            for value in values {
                *range = (range.0.min(value), range.1.max(value));
            }
        }
    }
    Ok(Ranges(ranges))
}
