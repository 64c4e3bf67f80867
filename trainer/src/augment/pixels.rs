//! Operations that change the values of pixels and leave them where they are.

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Change, Operation, either_way, setting};
use crate::data::PictureShape;

/// Blurs with a Gaussian whose standard deviation is up to so many pixels (0 to 10).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Blur(pub f32);

/// Multiplies the differences from the picture's mean by up to 1 plus, and down to 1 less, this fraction (0 to 1).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Contrast(pub f32);

/// Makes lighter or darker by up to this fraction (0 to 1) of white.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Brightness(pub f32);

/// Adds noise of its own to every value: nearly Gaussian, with a standard deviation of up to this fraction (0 to 1)
/// of white.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Noise(pub f32);

/// Fills, every other time, a rectangle of up to this fraction (0 to 1) of the picture with random values (Zhong et
/// al. 2020, "Random Erasing Data Augmentation", variant RE-R).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Erase(pub f32);

/// Standard deviations on either side of a Gaussian's middle that are computed.
const REACH: f32 = 3.0;
/// A narrower Gaussian than this many pixels is a single pixel.
const NARROWEST: f32 = 0.2;
/// Standard deviation of the sum of four random bytes, 4 (256^2 - 1) / 12 under the root.
const FOUR_BYTES: f32 = 147.8;
/// Mean of the same.
const FOUR_BYTES_MEAN: f32 = 510.0;
/// Height over width of an erased rectangle, at most; one over it at least.
const SLIMMEST: f32 = 3.3;

setting!(Blur, "blur", 0 to 10.0);

impl Operation for Blur {
    fn draw(&self, mut random: ChaCha8Rng, shape: PictureShape) -> Change {
        let weights = gaussian(random.random::<f32>() * self.0);
        Change::repaint(move |pixels| blur(pixels, shape, &weights))
    }
}

setting!(Contrast, "contrast", 0 to 1.0);

impl Operation for Contrast {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let factor = 1.0 + either_way(&mut random, self.0);
        Change::repaint(move |pixels| {
            let sum: u64 = pixels.iter().map(|&value| u64::from(value)).sum();
            let mean = sum as f32 / pixels.len().max(1) as f32;
            replace(pixels, |value| mean + (value - mean) * factor);
        })
    }
}

setting!(Brightness, "brightness", 0 to 1.0);

impl Operation for Brightness {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let more = either_way(&mut random, self.0) * 255.0;
        Change::repaint(move |pixels| replace(pixels, |value| value + more))
    }
}

setting!(Noise, "noise", 0 to 1.0);

impl Operation for Noise {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let factor = random.random::<f32>() * self.0 * 255.0 / FOUR_BYTES;
        Change::repaint(move |pixels| {
            let mut bytes = vec![0; 4 * pixels.len()];
            random.fill_bytes(&mut bytes);
            for (pixel, four) in pixels.iter_mut().zip(bytes.chunks_exact(4)) {
                let sum: u16 = four.iter().map(|&byte| u16::from(byte)).sum();
                let noise = (f32::from(sum) - FOUR_BYTES_MEAN) * factor;
                *pixel = to_byte(f32::from(*pixel) + noise);
            }
        })
    }
}

setting!(Erase, "erase", 0 to 1.0);

impl Operation for Erase {
    fn draw(&self, mut random: ChaCha8Rng, shape: PictureShape) -> Change {
        let erased: bool = random.random();
        let share = random.random::<f32>() * self.0;
        let slim = SLIMMEST.powf(either_way(&mut random, 1.0));
        let sides = ((share * slim).sqrt(), (share / slim).sqrt());
        let rectangle = Rectangle::random(&mut random, shape, sides);
        Change::repaint(move |pixels| {
            if erased {
                rectangle
                    .rows(pixels, shape)
                    .for_each(|row| random.fill_bytes(row));
            }
        })
    }
}

/// A part of a picture, in pixels.
pub(super) struct Rectangle {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Rectangle {
    /// One of these shares (0 to 1) of the height and the width, anywhere within the picture.
    pub(super) fn random(
        random: &mut ChaCha8Rng,
        shape: PictureShape,
        (tall, wide): (f32, f32),
    ) -> Self {
        let part = |side: usize, share: f32| (side as f32 * share.min(1.0)).round() as usize;
        let (height, width) = (part(shape.height, tall), part(shape.width, wide));
        let mut start = |room: usize| (random.random::<f32>() * (room + 1) as f32) as usize;
        Self {
            top: start(shape.height - height).min(shape.height - height),
            left: start(shape.width - width).min(shape.width - width),
            height,
            width,
        }
    }

    /// Its share of a picture, 0 to 1.
    pub(super) fn share(&self, shape: PictureShape) -> f32 {
        (self.height * self.width) as f32 / (shape.height * shape.width).max(1) as f32
    }

    /// Its rows in the values of a picture, with all channels.
    pub(super) fn rows<'a>(
        &self,
        pixels: &'a mut [u8],
        shape: PictureShape,
    ) -> impl Iterator<Item = &'a mut [u8]> {
        let (start, length) = (self.left * shape.channels, self.width * shape.channels);
        let rows = pixels.chunks_mut((shape.width * shape.channels).max(1));
        let rows = rows.skip(self.top).take(self.height);
        rows.filter_map(move |row| row.get_mut(start..start + length))
    }
}

/// Rounded, and 0 or 255 where it is beyond.
fn to_byte(value: f32) -> u8 {
    (value + 0.5) as u8
}

/// Every value by a table of 256.
fn replace(pixels: &mut [u8], with: impl Fn(f32) -> f32) {
    let mut table = [0; 256];
    for (value, entry) in (0u8..=255).zip(&mut table) {
        *entry = to_byte(with(f32::from(value)));
    }
    for pixel in pixels {
        *pixel = table[usize::from(*pixel)];
    }
}

/// Weights of the pixels around one, that one in the middle, in parts of 65536: the same on every machine.
fn gaussian(deviation: f32) -> Vec<u32> {
    if deviation.is_nan() || deviation < NARROWEST {
        return vec![1 << 16];
    }
    let reach = (deviation.min(10.0) * REACH).ceil() as i32;
    let weight = |at: i32| (-0.5 * (at as f32 / deviation).powi(2)).exp();
    let sum: f32 = (-reach..=reach).map(weight).sum();
    let mut weights: Vec<u32> = (-reach..=reach)
        .map(|at| (weight(at) / sum * 65536.0).round() as u32)
        .collect();
    let middle = reach as usize;
    let others = weights.iter().sum::<u32>() - weights[middle];
    weights[middle] = (1 << 16) - others;
    weights
}

/// Along rows and then along columns; beyond the frame are the outermost pixels.
fn blur(pixels: &mut [u8], shape: PictureShape, weights: &[u32]) {
    let PictureShape {
        height,
        width,
        channels,
    } = shape;
    if weights.len() == 1 || pixels.len() != shape.bytes() || pixels.is_empty() {
        return;
    }
    let reach = weights.len() / 2;
    let stride = width * channels;
    let mut sums = vec![0u32; stride];
    let mut wide = vec![0; stride + 2 * reach * channels];
    for row in pixels.chunks_exact_mut(stride) {
        for (at, pixel) in wide.chunks_exact_mut(channels).enumerate() {
            let from = at.saturating_sub(reach).min(width - 1) * channels;
            pixel.copy_from_slice(&row[from..from + channels]);
        }
        let lines = (0..).map(|step| &wide[step * channels..]);
        weigh(weights, lines, &mut sums, row);
    }
    let before = pixels.to_vec();
    for (at, row) in pixels.chunks_exact_mut(stride).enumerate() {
        let lines = (0..).map(|step: usize| {
            let from = (at + step).saturating_sub(reach).min(height - 1) * stride;
            &before[from..]
        });
        weigh(weights, lines, &mut sums, row);
    }
}

/// The weighted sum of lines.
fn weigh<'a>(
    weights: &[u32],
    lines: impl Iterator<Item = &'a [u8]>,
    sums: &mut [u32],
    out: &mut [u8],
) {
    sums.fill(1 << 15);
    for (&weight, line) in weights.iter().zip(lines) {
        for (sum, &value) in sums.iter_mut().zip(line) {
            *sum += weight * u32::from(value);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (*sum >> 16) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    const SHAPE: PictureShape = PictureShape {
        height: 8,
        width: 10,
        channels: 3,
    };

    /// What an operation makes of pixels of one value, under some seeds.
    fn painted(operation: &dyn Operation, value: u8) -> Vec<Vec<u8>> {
        let one = |seed| {
            let mut pixels = vec![value; SHAPE.bytes()];
            let random = ChaCha8Rng::seed_from_u64(seed);
            if let Change::Repaint(paint) = operation.draw(random, SHAPE) {
                paint(&mut pixels);
            }
            pixels
        };
        (0..200).map(one).collect()
    }

    #[test]
    fn brightness_adds_and_contrast_spreads() {
        let all: Vec<u8> = painted(&Brightness(0.2), 100).concat();
        let (least, most) = (all.iter().min(), all.iter().max());
        assert!(least < Some(&55) && least >= Some(&49), "{least:?}");
        assert!(most > Some(&145) && most <= Some(&151), "{most:?}");
        assert!(painted(&Brightness(1.0), 250).concat().contains(&255));
        // One value is its own mean.
        assert!(
            painted(&Contrast(1.0), 77)
                .concat()
                .iter()
                .all(|&v| v == 77)
        );
        let mut halves = [100, 200];
        let random = ChaCha8Rng::seed_from_u64(1);
        if let Change::Repaint(paint) = Contrast(0.5).draw(random, SHAPE) {
            paint(&mut halves);
        }
        let [low, high] = halves.map(i32::from);
        assert!((low + high - 300).abs() <= 1 && (50..=150).contains(&(high - low)));
        assert_ne!(high - low, 100);
    }

    #[test]
    fn a_blur_keeps_the_mean_and_spreads_a_point() {
        assert!(painted(&Blur(3.0), 9).concat().iter().all(|&v| v == 9));
        let mut point = vec![0; SHAPE.bytes()];
        point[(4 * 10 + 5) * 3 + 1] = 255;
        blur(&mut point, SHAPE, &gaussian(1.0));
        // 1 / (2 pi) of it stays, and none goes to other channels.
        assert!((39..=42).contains(&point[(4 * 10 + 5) * 3 + 1]));
        assert!(point.iter().step_by(3).all(|&value| value == 0));
        let sum: i32 = point.iter().map(|&value| i32::from(value)).sum();
        assert!((sum - 255).abs() < 20, "{sum}");
        assert_eq!(point[(3 * 10 + 5) * 3 + 1], point[(4 * 10 + 4) * 3 + 1]);
    }

    #[test]
    fn noise_has_its_deviation() {
        let pictures = painted(&Noise(0.2), 128);
        let deviation = |pixels: &Vec<u8>| {
            let squares = pixels.iter().map(|&v| (f32::from(v) - 128.0).powi(2));
            (squares.sum::<f32>() / pixels.len() as f32).sqrt()
        };
        let deviations: Vec<f32> = pictures.iter().map(deviation).collect();
        let (sum, most) = (deviations.iter().sum::<f32>(), deviations.iter().copied());
        // From 0 to 51, in the mean half of that.
        assert!((sum / 200.0 - 25.5).abs() < 3.0, "{}", sum / 200.0);
        assert!((45.0..60.0).contains(&most.fold(0.0, f32::max)));
    }

    #[test]
    fn every_other_picture_loses_a_rectangle() {
        let pictures = painted(&Erase(0.4), 7);
        let changed = |pixels: &Vec<u8>| pixels.iter().filter(|&&value| value != 7).count();
        let shares: Vec<f32> = pictures
            .iter()
            .map(|pixels| changed(pixels) as f32 / SHAPE.bytes() as f32)
            .collect();
        let whole = shares.iter().filter(|&&share| share == 0.0).count();
        assert!((80..125).contains(&whole), "{whole}");
        assert!(shares.iter().all(|&share| share < 0.5));
        assert!(shares.iter().any(|&share| share > 0.3));
    }
}
