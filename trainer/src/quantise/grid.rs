//! Which values the weights of a layer may take: a few integers, times a scale for
//! each output channel.
//!
//! Int8 weights are the grid of all integers from -127 to 127. Four bits are those
//! from -7 to 7, and a shared codebook is any few of them, found by k-means. A layer
//! is trained on its grid (see [`crate::network::FloatNetwork::on_grids`]) and exported
//! with it, so that the weights of the model file are those that it was trained with.

use serde::{Deserialize, Serialize};
use shared::arith::MAX_BIAS;

/// Largest weight; its negative is the smallest, because two weights that share a lane
/// of the model file cannot be -128.
pub const LARGEST: i8 = 127;
/// Weights that k-means looks at.
const SAMPLE: usize = 20_000;
/// Rounds of k-means, which as a rule stands still after ten.
const ROUNDS: usize = 30;

/// The integers that a layer's weights may be, and what they stand for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Ascending, distinct, -127 to 127; at least one.
    levels: Vec<i8>,
    /// What 1 stands for, for each output channel: finite and above 0.
    scales: Vec<f32>,
}

/// How many values a weight may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Levels {
    /// All integers of this many bits, 2 to 8, but the lowest.
    Bits(u8),
    /// This many of -127 to 127, 2 to 255, those that fit the weights best.
    Shared(u8),
}

impl Grid {
    /// The grid that is nearest to these weights; `channel_of` says which output channel
    /// a weight belongs to, and there are `channels` of them.
    pub fn fit(
        weights: &[f32],
        channel_of: impl Fn(usize) -> usize,
        channels: usize,
        levels: Levels,
    ) -> Self {
        let mut of_channels = vec![Vec::new(); channels];
        for (index, &weight) in weights.iter().enumerate() {
            if let Some(channel) = of_channels.get_mut(channel_of(index)) {
                channel.push(weight);
            }
        }
        match levels {
            Levels::Bits(bits) => {
                let largest = LARGEST >> (8 - bits.clamp(2, 8));
                Self {
                    scales: scales(&of_channels, |weights| best_scale(weights, largest)),
                    levels: (-largest..=largest).collect(),
                }
            }
            Levels::Shared(count) => {
                let scales = scales(&of_channels, |weights| scale(largest(weights), LARGEST));
                let scaled = of_channels.iter().zip(&scales);
                let scaled =
                    scaled.flat_map(|(weights, scale)| weights.iter().map(move |w| w / scale));
                Self {
                    levels: codebook(scaled.collect(), count.into()),
                    scales,
                }
            }
        }
    }

    /// With larger scales where a bias, in units of input scale x weight scale, would be
    /// more than [`MAX_BIAS`]: in channels whose weights are next to nothing.
    pub fn with_room_for(mut self, bias: &[f32], input_scale: f32) -> Self {
        for (scale, bias) in self.scales.iter_mut().zip(bias) {
            let least = bias.abs() / (input_scale * MAX_BIAS as f32);
            if least.is_normal() {
                *scale = scale.max(least);
            }
        }
        self
    }

    /// The same values as integers twice as large, if these are still weights.
    pub fn doubled(&self) -> Option<Self> {
        let double = |&level: &i8| level.checked_mul(2).filter(|&level| level >= -LARGEST);
        Some(Self {
            levels: self.levels.iter().map(double).collect::<Option<_>>()?,
            scales: self.scales.iter().map(|scale| scale / 2.0).collect(),
        })
    }

    /// Whether it is a grid for this many output channels.
    pub fn is_valid(&self, channels: usize) -> bool {
        let ascend = self.levels.windows(2).all(|pair| pair[0] < pair[1]);
        let lowest = self.levels.first().is_some_and(|&level| level >= -LARGEST);
        let normal = self
            .scales
            .iter()
            .all(|scale| scale.is_normal() && *scale > 0.0);
        ascend && lowest && normal && self.scales.len() == channels
    }

    /// The integers, ascending.
    pub fn levels(&self) -> &[i8] {
        &self.levels
    }

    /// What 1 stands for, for each output channel.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// For each weight the integer whose value is nearest to it; of two, the lower.
    pub fn integers(&self, weights: &[f32], channel_of: impl Fn(usize) -> usize) -> Vec<i8> {
        let bounds: Vec<f32> = self
            .levels
            .windows(2)
            .map(|pair| (f32::from(pair[0]) + f32::from(pair[1])) / 2.0)
            .collect();
        let nearest = |(index, weight): (usize, &f32)| {
            let scaled = weight / self.scale_of(channel_of(index));
            let at = bounds.partition_point(|&bound| bound < scaled);
            self.levels.get(at).copied().unwrap_or_default()
        };
        weights.iter().enumerate().map(nearest).collect()
    }

    /// Puts every weight on the grid.
    pub fn snap(&self, weights: &mut [f32], channel_of: impl Fn(usize) -> usize) {
        let integers = self.integers(weights, &channel_of);
        for (index, (weight, integer)) in weights.iter_mut().zip(integers).enumerate() {
            *weight = f32::from(integer) * self.scale_of(channel_of(index));
        }
    }

    fn scale_of(&self, channel: usize) -> f32 {
        self.scales.get(channel).copied().unwrap_or(1.0)
    }
}

fn largest(weights: &[f32]) -> f32 {
    weights
        .iter()
        .fold(0.0, |most, weight| weight.abs().max(most))
}

/// The scale of each channel. Any is right for one of zeros; it takes the least of the others,
/// because a large one would make the layer's factors too large for the fast kernels.
fn scales(channels: &[Vec<f32>], of: impl Fn(&[f32]) -> Option<f32>) -> Vec<f32> {
    let scales: Vec<Option<f32>> = channels.iter().map(|weights| of(weights)).collect();
    let least = scales.iter().flatten().copied().reduce(f32::min);
    let spare = least.unwrap_or(1.0);
    scales
        .into_iter()
        .map(|scale| scale.unwrap_or(spare))
        .collect()
}

/// `real` / `integer`, where that is a scale: not for 0.
fn scale(real: f32, integer: i8) -> Option<f32> {
    let scale = real / f32::from(integer);
    scale.is_normal().then_some(scale)
}

/// The scale with the least squared error among those at which the largest weight is
/// cut to 100, 97.5, 95 % and so on of itself.
fn best_scale(weights: &[f32], steps: i8) -> Option<f32> {
    let most = largest(weights);
    let limit = f32::from(steps);
    let error = |scale: f32| -> f32 {
        let error = |w: &f32| ((w / scale).round().clamp(-limit, limit) * scale - w).powi(2);
        weights.iter().map(error).sum()
    };
    // With many steps cutting never pays.
    let shares = (0..if steps < LARGEST { 24 } else { 1 }).map(|i| 1.0 - 0.025 * i as f32);
    let scales = shares.filter_map(|share| scale(share * most, steps));
    scales.min_by(|&a, &b| error(a).total_cmp(&error(b)))
}

/// At most `count` integers for weights of -127 to 127: Lloyd's k-means from values
/// that are evenly spread, which keeps large weights apart (Han et al. 2016, "Deep
/// Compression"). A value that no weight is nearest to moves to the weight that is
/// furthest from its own. Where there are weights of 0, one of the values is 0.
fn codebook(mut weights: Vec<f32>, count: usize) -> Vec<i8> {
    weights.sort_by(f32::total_cmp);
    let (first, last) = match (weights.first(), weights.last()) {
        (Some(&first), Some(&last)) => (first, last),
        _ => return vec![0],
    };
    let steps = count.saturating_sub(1).max(1) as f32;
    let mut centres: Vec<f32> = (0..count)
        .map(|i| first + (last - first) * i as f32 / steps)
        .collect();
    let has_zero = weights.contains(&0.0);
    // In order, every so many are as good as all.
    let weights: Vec<f32> = weights
        .iter()
        .copied()
        .step_by(weights.len() / SAMPLE + 1)
        .collect();
    for _ in 0..ROUNDS {
        if has_zero {
            pin_zero(&mut centres);
        }
        let mut rest = weights.as_slice();
        let mut moved = false;
        for at in 0..centres.len() {
            let bound = match centres.get(at + 1) {
                Some(next) => (centres[at] + next) / 2.0,
                None => f32::INFINITY,
            };
            let (near, far) = rest.split_at(rest.partition_point(|&w| w <= bound));
            rest = far;
            let next = match near.is_empty() {
                true => furthest(&weights, &centres),
                false => near.iter().sum::<f32>() / near.len() as f32,
            };
            moved |= next != centres[at];
            centres[at] = next;
        }
        centres.sort_by(f32::total_cmp);
        if !moved {
            break;
        }
    }
    if has_zero {
        pin_zero(&mut centres);
    }
    let limit = f32::from(LARGEST);
    let mut levels: Vec<i8> = centres
        .iter()
        .map(|centre| centre.round().clamp(-limit, limit) as i8)
        .collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

/// The weight that is furthest from the centre that is nearest to it.
fn furthest(weights: &[f32], centres: &[f32]) -> f32 {
    let distance = |weight: f32| {
        let distances = centres.iter().map(|centre| (centre - weight).abs());
        distances.fold(f32::INFINITY, f32::min)
    };
    let furthest = weights
        .iter()
        .copied()
        .max_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    furthest.unwrap_or_default()
}

/// Moves the value that is nearest to 0 there.
fn pin_zero(centres: &mut [f32]) {
    let nearest = centres
        .iter_mut()
        .min_by(|a, b| a.abs().total_cmp(&b.abs()));
    if let Some(nearest) = nearest {
        *nearest = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels, the second ten times as large as the first.
    fn weights() -> Vec<f32> {
        let channel = |factor: f32| (0..100).map(move |i| factor * ((i * 37 % 101) as f32 - 50.0));
        channel(0.01).chain(channel(0.1)).collect()
    }

    fn error(levels: Levels) -> f32 {
        let before = weights();
        let mut after = before.clone();
        let grid = Grid::fit(&before, |i| i / 100, 2, levels);
        assert!(grid.is_valid(2));
        grid.snap(&mut after, |i| i / 100);
        let integers = grid.integers(&after, |i| i / 100);
        assert_eq!(
            integers,
            grid.integers(&before, |i| i / 100),
            "snapped twice"
        );
        let errors = before.iter().zip(&after).map(|(a, b)| (a - b).powi(2));
        errors.sum::<f32>()
    }

    #[test]
    fn more_levels_lose_less() {
        for levels in [Levels::Bits, Levels::Shared] as [fn(u8) -> Levels; 2] {
            let errors = [2, 4, 8].map(|n| error(levels(n)));
            assert!(errors[0] > errors[1] && errors[1] > errors[2], "{errors:?}");
        }
    }

    #[test]
    fn bits_say_how_many_levels() {
        let levels = |bits| {
            let grid = Grid::fit(&weights(), |i| i / 100, 2, Levels::Bits(bits));
            (grid.levels.len(), grid.levels[0])
        };
        assert_eq!([2, 4, 8].map(levels), [(3, -1), (15, -7), (255, -127)]);
    }

    #[test]
    fn a_codebook_finds_the_clusters_and_keeps_zero() {
        let weights = [-1.0, -1.0, -0.99, 0.0, 0.0, 0.02, 0.5, 0.5, 1.0];
        let grid = Grid::fit(&weights, |_| 0, 1, Levels::Shared(4));
        assert_eq!(grid.levels, [-127, 0, 64, 127]);
        let integers = grid.integers(&weights, |_| 0);
        assert_eq!(integers, [-127, -127, -127, 0, 0, 0, 64, 64, 127]);
    }

    #[test]
    fn doubled_integers_stand_for_the_same() {
        let grid = Grid::fit(&weights(), |i| i / 100, 2, Levels::Bits(4));
        let doubled = grid.doubled().unwrap();
        let snapped = |grid: &Grid| {
            let mut weights = weights();
            grid.snap(&mut weights, |i| i / 100);
            weights
        };
        assert_eq!(snapped(&doubled), snapped(&grid));
        assert_eq!((doubled.levels[0], doubled.levels.len()), (-14, 15));
        let many = Grid::fit(&weights(), |i| i / 100, 2, Levels::Bits(8));
        assert_eq!(many.doubled(), None);
    }

    #[test]
    fn a_channel_of_zeroes_has_a_scale() {
        for levels in [Levels::Bits(4), Levels::Shared(16)] {
            let grid = Grid::fit(&[0.0; 8], |i| i / 4, 2, levels);
            assert!(grid.is_valid(2));
            assert_eq!(grid.integers(&[0.0; 8], |i| i / 4), [0; 8]);
            // That of a channel with weights, and not one that would be the layer's largest.
            let weights = [0.0, 0.0, 0.5, 0.25, 0.01, -0.02];
            let grid = Grid::fit(&weights, |i| i / 2, 3, levels);
            let &[zero, large, small] = grid.scales() else {
                panic!("{grid:?}");
            };
            assert!(zero == small && small < large, "{grid:?}");
        }
    }
}
