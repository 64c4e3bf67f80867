//! Which values each layer takes on sample pictures, and how much of them int8 covers.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::ExportOptions;
use super::factor;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::network::{FloatNetwork, pictures_to_tensor};
use crate::train::{TrainError, check_data};

/// Pictures in one pass.
const BATCH: usize = 50;
/// Share of the values that [`Method::Percentile`] covers.
const COVERED: f64 = 0.9999;
/// How much is cut off at most by [`Method::Mse`], in steps of a hundredth.
const MSE_STEPS: u32 = 60;
/// Bins of a histogram.
const BINS: usize = 2048;

/// How the range of a layer's output follows from the values that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the smallest to the largest.
    #[default]
    MinMax,
    /// All but one in ten thousand, of both ends together: a single wild value no longer
    /// makes all steps coarse.
    Percentile,
    /// The range whose int8 values are nearest, by squared error.
    Mse,
}

/// Smallest and largest output of every layer that int8 covers, behind its activation.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranges(Vec<(f32, f32)>);

impl Ranges {
    /// Of the layer `index`; (0, 0) for one that does not exist.
    pub fn of(&self, index: usize) -> (f32, f32) {
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Runs the float network over up to `options.calibration` pictures, evenly spread over
/// the data set, and finds the range of every layer. The data must have the network's
/// shape and classes.
pub fn calibrate(
    checkpoint: &Checkpoint,
    dataset: &Dataset,
    options: &ExportOptions,
) -> Result<Ranges, TrainError> {
    check_data(checkpoint, dataset)?;
    let sample = Sample::new(checkpoint, dataset, options.calibration);
    let mut extremes = vec![(0f32, 0f32); checkpoint.network.nodes.len()];
    sample.each(|layer, values| {
        for &value in values {
            let (min, max) = extremes[layer];
            extremes[layer] = (min.min(value), max.max(value));
        }
    });
    if options.method == Method::MinMax {
        return Ok(Ranges(extremes));
    }
    let mut histograms: Vec<Histogram> = extremes.into_iter().map(Histogram::new).collect();
    sample.each(|layer, values| {
        values
            .iter()
            .for_each(|&value| histograms[layer].add(value))
    });
    let range = |histogram: &Histogram| match options.method {
        Method::Percentile => histogram.percentile(),
        _ => histogram.nearest(),
    };
    Ok(Ranges(histograms.iter().map(range).collect()))
}

/// Pictures and the network that sees them.
struct Sample<'a> {
    checkpoint: &'a Checkpoint,
    network: FloatNetwork,
    device: Device,
    pixels: Vec<&'a [u8]>,
}

impl<'a> Sample<'a> {
    fn new(checkpoint: &'a Checkpoint, dataset: &'a Dataset, count: usize) -> Self {
        let device = Device::flex();
        let every = dataset.pictures.len().div_ceil(count.max(1)).max(1);
        let pictures = dataset.pictures.iter().step_by(every);
        Self {
            checkpoint,
            network: FloatNetwork::new(checkpoint, &device),
            device,
            pixels: pictures.map(|picture| picture.pixels.as_slice()).collect(),
        }
    }

    /// Shows `see` the number of each layer and its outputs, some pictures at a time.
    fn each(&self, mut see: impl FnMut(usize, &[f32])) {
        let Checkpoint { network, input, .. } = self.checkpoint;
        for batch in self.pixels.chunks(BATCH) {
            let tensor = pictures_to_tensor(&batch.concat(), network.input, *input, &self.device);
            for (layer, values) in self.network.trace(tensor).iter().enumerate() {
                see(layer, values);
            }
        }
    }
}

/// How often values occur.
struct Histogram {
    min: f32,
    max: f32,
    counts: Vec<u64>,
}

impl Histogram {
    fn new((min, max): (f32, f32)) -> Self {
        Self {
            min,
            max,
            counts: vec![0; BINS],
        }
    }

    fn bin_width(&self) -> f32 {
        (self.max - self.min) / BINS as f32
    }

    fn add(&mut self, value: f32) {
        let bin = ((value - self.min) / self.bin_width()) as usize; // NaN is 0
        self.counts[bin.min(BINS - 1)] += 1;
    }

    /// Drops the rarer end, bin by bin, as long as enough is covered.
    fn percentile(&self) -> (f32, f32) {
        let total: u64 = self.counts.iter().sum();
        let mut spare = (total as f64 * (1.0 - COVERED)) as u64;
        let (mut first, mut last) = (0, BINS - 1);
        while first < last {
            let low = self.counts[first] <= self.counts[last];
            let count = self.counts[if low { first } else { last }];
            if count > spare {
                break;
            }
            spare -= count;
            match low {
                true => first += 1,
                false => last -= 1,
            }
        }
        let edge = |bin: usize| self.min + bin as f32 * self.bin_width();
        (edge(first), edge(last + 1))
    }

    /// Cuts both ends by the same share, the one with the least squared error.
    fn nearest(&self) -> (f32, f32) {
        let shares = (0..=MSE_STEPS).map(|step| 1.0 - 0.01 * step as f32);
        let ranges = shares.map(|share| (self.min * share, self.max * share));
        let best = ranges.min_by(|&a, &b| self.error(a).total_cmp(&self.error(b)));
        best.unwrap_or((self.min, self.max))
    }

    /// Squared error of int8 with this range, over all values.
    fn error(&self, (min, max): (f32, f32)) -> f64 {
        let quant = factor::activation(min, max);
        let zero_point = f32::from(quant.zero_point);
        let error = |(bin, &count): (usize, &u64)| {
            let value = self.min + (bin as f32 + 0.5) * self.bin_width();
            let q = (value / quant.scale + zero_point)
                .round()
                .clamp(-128.0, 127.0);
            count as f64 * f64::from((q - zero_point) * quant.scale - value).powi(2)
        };
        self.counts.iter().enumerate().map(error).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand values around 1, and one of 100.
    fn with_an_outlier(scale: usize) -> Histogram {
        let mut histogram = Histogram::new((0.0, 100.0));
        for i in 0..1000 * scale {
            histogram.add((i % 200) as f32 / 100.0);
        }
        histogram.add(100.0);
        histogram
    }

    #[test]
    fn an_outlier_is_cut_off() {
        let (min, max) = with_an_outlier(20).percentile();
        assert!(min == 0.0 && (2.0..2.1).contains(&max), "{min} {max}");
        let histogram = with_an_outlier(20_000);
        let nearest = histogram.nearest();
        assert!(nearest.1 < 100.0, "{nearest:?}");
        assert!(histogram.error(nearest) < histogram.error((0.0, 100.0)));
    }

    #[test]
    fn too_few_values_lose_none() {
        assert_eq!(with_an_outlier(1).percentile(), (0.0, 100.0));
    }

    #[test]
    fn a_layer_of_zeroes_has_a_range() {
        let mut zeroes = Histogram::new((0.0, 0.0));
        zeroes.add(0.0);
        let (min, max) = zeroes.percentile();
        assert_eq!((min, max), (0.0, 0.0));
        assert_eq!(zeroes.nearest(), (0.0, 0.0));
    }
}
