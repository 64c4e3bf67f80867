//! Operations that move every pixel by one affine map.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::resample::Affine;
use super::{Change, Operation, either_way, setting};
use crate::data::PictureShape;

/// Mirrors left and right, every other time, if true. Text, digits and left shoes become something else.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Flip(pub bool);

/// Mirrors top and bottom, every other time, if true. Most things with an up and a down become something else.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct FlipVertical(pub bool);

/// Turns about the centre by up to so many degrees (0 to 180) either way. From 90 on a 6 may become a 9.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Rotate(pub f32);

/// Slants, along x or along y, by up to so many pixels (0 to 1) for each pixel of distance from the centre.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Shear(pub f32);

/// Shrinks or enlarges about the centre, by a factor of up to 1 plus this fraction (0 to 1).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Scale(pub f32);

/// Cuts away up to this fraction (0 to 0.5) of the height or width, at each of the four sides for itself, and scales
/// what is left back to the full frame.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Crop(pub f32);

/// Moves by up to this fraction (0 to 0.5) of the height and width, either way.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Shift(pub f32);

setting!(Flip, "flip", 0 to 1.0);

impl Operation for Flip {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        Change::Move(Affine {
            xx: mirrored(&mut random),
            ..Affine::IDENTITY
        })
    }
}

setting!(FlipVertical, "flip_vertical", 0 to 1.0);

impl Operation for FlipVertical {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        Change::Move(Affine {
            yy: mirrored(&mut random),
            ..Affine::IDENTITY
        })
    }
}

setting!(Rotate, "rotate", 0 to 180.0);

impl Operation for Rotate {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let (sin, cos) = either_way(&mut random, self.0).to_radians().sin_cos();
        Change::Move(Affine {
            xx: cos,
            xy: sin,
            yx: -sin,
            yy: cos,
            ..Affine::IDENTITY
        })
    }
}

setting!(Shear, "shear", 0 to 1.0);

impl Operation for Shear {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let slant = either_way(&mut random, self.0);
        Change::Move(match random.random() {
            true => Affine {
                xy: slant,
                ..Affine::IDENTITY
            },
            false => Affine {
                yx: slant,
                ..Affine::IDENTITY
            },
        })
    }
}

setting!(Scale, "scale", 0 to 1.0);

impl Operation for Scale {
    fn draw(&self, mut random: ChaCha8Rng, _: PictureShape) -> Change {
        let change = either_way(&mut random, self.0);
        // As likely to shrink by a factor as to grow by it.
        let factor = match change < 0.0 {
            true => 1.0 - change,
            false => 1.0 / (1.0 + change),
        };
        Change::Move(Affine {
            xx: factor,
            yy: factor,
            ..Affine::IDENTITY
        })
    }
}

setting!(Crop, "crop", 0 to 0.5);

impl Operation for Crop {
    fn draw(&self, mut random: ChaCha8Rng, shape: PictureShape) -> Change {
        let [left, right, top, bottom] = random.random::<[f32; 4]>().map(|cut| cut * self.0);
        Change::Move(Affine {
            xx: 1.0 - left - right,
            yy: 1.0 - top - bottom,
            x: (left - right) * shape.width as f32 / 2.0,
            y: (top - bottom) * shape.height as f32 / 2.0,
            ..Affine::IDENTITY
        })
    }
}

setting!(Shift, "shift", 0 to 0.5);

impl Operation for Shift {
    fn draw(&self, mut random: ChaCha8Rng, shape: PictureShape) -> Change {
        let x = either_way(&mut random, self.0) * shape.width as f32;
        let y = either_way(&mut random, self.0) * shape.height as f32;
        Change::Move(Affine {
            x,
            y,
            ..Affine::IDENTITY
        })
    }
}

/// -1 or 1.
fn mirrored(random: &mut ChaCha8Rng) -> f32 {
    match random.random() {
        true => -1.0,
        false => 1.0,
    }
}
