//! Integrated gradients (Sundararajan et al. 2017, "Axiomatic Attribution for Deep
//! Networks").

use burn::tensor::{Device, Tensor};

use super::{Classifier, ExplainError, Float, Heatmap, in_range};
use crate::network::{numbers, pictures_to_tensor};

/// Pictures of the path that are differentiated at a time.
const BATCH: usize = 32;
/// Most steps: more change nothing that 32-bit floats could show.
const MOST: usize = 10_000;

/// How much each pixel contributes to a logit.
#[derive(Clone, PartialEq, Debug)]
pub struct Attributions {
    /// The sum over the channels of each pixel.
    pub map: Heatmap,
    /// The sum of all attributions.
    pub sum: f32,
    /// The logit of the picture less that of the baseline, which the sum is with infinitely
    /// many steps: the method's axiom of completeness.
    pub difference: f32,
}

impl Attributions {
    /// How far the sum is from what it should be, as a share of that.
    pub fn gap(&self) -> f32 {
        (self.sum - self.difference).abs() / self.difference.abs().max(f32::MIN_POSITIVE)
    }
}

/// (x - x') times the mean gradient of the class's logit on the way from the baseline x', a
/// picture of one grey, to the picture x: at the middles of `steps` parts of equal length,
/// 1 to 10,000.
pub fn integrated_gradients(
    network: &Float,
    pixels: &[u8],
    class: usize,
    baseline: u8,
    steps: usize,
) -> Result<Attributions, ExplainError> {
    let steps = in_range("steps", steps, 1..=MOST)?;
    let (from, way) = path(network, pixels, baseline);
    let mut gradient = vec![0.0; numbers(way.clone()).len()];
    let middles: Vec<f32> = (0..steps)
        .map(|k| (k as f32 + 0.5) / steps as f32)
        .collect();
    for middles in middles.chunks(BATCH) {
        let on_the_way = middles.iter().map(|&t| from.clone() + way.clone() * t);
        let pictures = Tensor::cat(on_the_way.collect(), 0)
            .autodiff()
            .require_grad();
        let logits = network.differentiable.logits(pictures.clone());
        let gradients = logits.narrow(1, class, 1).sum().backward();
        let of_batch = pictures.grad(&gradients).map(|all| numbers(all.sum_dim(0)));
        for (sum, part) in gradient.iter_mut().zip(of_batch.unwrap_or_default()) {
            *sum += part / steps as f32;
        }
    }
    let logits = network.logits(&[pixels.to_vec(), vec![baseline; pixels.len()]]);
    let shape = network.checkpoint.network.input;
    let values = numbers(way).into_iter().zip(gradient);
    let values: Vec<f32> = values.map(|(way, gradient)| way * gradient).collect();
    let area = shape.height() * shape.width();
    let of_pixel = |pixel: usize| values.iter().skip(pixel).step_by(area).sum();
    Ok(Attributions {
        sum: values.iter().sum(),
        difference: logits[0][class] - logits[1][class],
        map: Heatmap {
            height: shape.height(),
            width: shape.width(),
            values: (0..area).map(of_pixel).collect(),
        },
    })
}

/// The baseline, and what has to be added to it to get the picture.
fn path(network: &Float, pixels: &[u8], baseline: u8) -> (Tensor<4>, Tensor<4>) {
    let checkpoint = &network.checkpoint;
    let tensor = |pixels: &[u8]| {
        let shape = checkpoint.network.input;
        pictures_to_tensor(pixels, shape, checkpoint.input, &Device::flex())
    };
    let from = tensor(&vec![baseline; pixels.len()]);
    (from.clone(), tensor(pixels) - from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::train::tests::{data, untrained};

    #[test]
    fn attributions_are_complete() {
        for batch_norm in [false, true] {
            let network = Float::new(&untrained(batch_norm)).unwrap();
            for (picture, baseline) in data().pictures[..6].iter().zip([0, 255, 90, 0, 30, 0]) {
                let class = picture.label;
                let of = |steps| {
                    integrated_gradients(&network, &picture.pixels, class, baseline, steps).unwrap()
                };
                let fine = of(1000);
                assert!((fine.sum - fine.map.values.iter().sum::<f32>()).abs() < 1e-4);
                assert!(fine.difference.abs() > 1e-3, "nothing to attribute");
                assert!(fine.gap() < 0.005, "{fine:?}");
                // It is the steps that bring them there.
                assert!(fine.gap() <= of(1).gap() + 1e-6);
            }
        }
    }

    #[test]
    fn what_the_baseline_has_gets_nothing() {
        let network = Float::new(&untrained(false)).unwrap();
        let mut picture = data().pictures[0].pixels.clone();
        picture[7] = 30;
        let attributions = integrated_gradients(&network, &picture, 0, 30, 8).unwrap();
        assert_eq!(attributions.map.values[7], 0.0);
        let wrong = integrated_gradients(&network, &picture, 0, 30, 0).unwrap_err();
        assert!(wrong.to_string().contains("1 to 10000"), "{wrong}");
    }
}
