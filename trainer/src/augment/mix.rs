//! Two pictures in one, and the classes of both with it.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::pixels::Rectangle;
use super::setting;
use crate::data::PictureShape;

/// Blends each picture with another one: shares are drawn from Beta(alpha, alpha) with this alpha (0 to 1; Zhang et
/// al. 2018, "mixup: Beyond Empirical Risk Minimization").
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Mixup(pub f32);

/// Pastes a rectangle of another picture over each: the share of the area is drawn from Beta(alpha, alpha) with this
/// alpha (0 to 1; Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
/// Features").
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Cutmix(pub f32);

setting!(Mixup, "mixup", 0 to 1.0);

setting!(Cutmix, "cutmix", 0 to 1.0);

impl Mixup {
    /// Blends `other` into `pixels` and gives its share, 0 to 1.
    pub(super) fn mix(self, random: &mut ChaCha8Rng, pixels: &mut [u8], other: &[u8]) -> f32 {
        let share = beta(random, self.0);
        let parts = (share * 256.0).round() as u32;
        for (pixel, &other) in pixels.iter_mut().zip(other) {
            let sum = u32::from(*pixel) * (256 - parts) + u32::from(other) * parts;
            *pixel = ((sum + 128) >> 8) as u8;
        }
        parts as f32 / 256.0
    }
}

impl Cutmix {
    /// Pastes a part of `other` and gives its share, 0 to 1.
    pub(super) fn mix(
        self,
        random: &mut ChaCha8Rng,
        shape: PictureShape,
        pixels: &mut [u8],
        other: &mut [u8],
    ) -> f32 {
        let side = beta(random, self.0).sqrt();
        let rectangle = Rectangle::random(random, shape, (side, side));
        let rows = rectangle.rows(pixels, shape);
        for (row, other) in rows.zip(rectangle.rows(other, shape)) {
            row.copy_from_slice(other);
        }
        rectangle.share(shape)
    }
}

/// A number from Beta(alpha, alpha), alpha above 0 and at most 1 (Johnk 1964, "Erzeugung von betaverteilten und
/// gammaverteilten Zufallszahlen").
fn beta(random: &mut ChaCha8Rng, alpha: f32) -> f32 {
    let power = 1.0 / f64::from(alpha);
    // About one try of two fails at alpha = 1, and fewer below.
    for _ in 0..100 {
        let [x, y] = random.random::<[f64; 2]>().map(|u| u.powf(power));
        if x + y <= 1.0 && x + y > 0.0 {
            return (x / (x + y)) as f32;
        }
    }
    // So small an alpha that both are 0: one of the pictures, whole.
    f32::from(u8::from(random.random::<bool>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn beta_has_its_mean_and_variance() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for alpha in [0.2, 0.5, 1.0] {
            let draws: Vec<f32> = (0..20_000).map(|_| beta(&mut random, alpha)).collect();
            let mean = draws.iter().sum::<f32>() / 20_000.0;
            let squares: f32 = draws.iter().map(|x| (x - mean).powi(2)).sum();
            let variance = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "{mean}");
            assert!((squares / 20_000.0 - variance).abs() < 0.004, "{alpha}");
        }
        assert!([0.0, 1.0].contains(&beta(&mut random, 1e-6)));
    }

    #[test]
    fn shares_are_what_is_seen() {
        let shape = PictureShape {
            height: 10,
            width: 10,
            channels: 1,
        };
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..100 {
            let (mut pixels, mut other) = (vec![0; 100], vec![200; 100]);
            let share = Cutmix(1.0).mix(&mut random, shape, &mut pixels, &mut other);
            let pasted = pixels.iter().filter(|&&pixel| pixel == 200).count();
            assert!((share - pasted as f32 / 100.0).abs() < 1e-6);
            let mut pixels = vec![0; 100];
            let share = Mixup(1.0).mix(&mut random, &mut pixels, &other);
            assert!((f32::from(pixels[0]) - share * 200.0).abs() <= 0.5);
        }
    }
}
