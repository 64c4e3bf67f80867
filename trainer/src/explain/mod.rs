//! Where a network looks: which parts of a picture speak for a class.
//!
//! Grad-CAM and integrated gradients need gradients, and so a float network; occlusion asks
//! any [`Classifier`]. All of them speak of a logit, an output of the head before a softmax.

mod classifier;
pub mod compare;
mod grad_cam;
mod integrated_gradients;
pub mod occlusion;
mod overlay;

use crate::data::PictureShape;

pub use classifier::{Classifier, Float};
pub use grad_cam::{Place, grad_cam};
pub use integrated_gradients::{Attributions, integrated_gradients};
pub use occlusion::{Cells, Occlusion};
pub use overlay::{columns, overlay, picture, rows};

/// How much each place of a picture speaks for a class; below 0, against it.
#[derive(Clone, PartialEq, Debug)]
pub struct Heatmap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Heatmap {
    /// The largest value, at least 0.
    pub fn peak(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }

    /// The value of row `y` of `height` and column `x` of `width`.
    fn at(&self, (y, height): (usize, usize), (x, width): (usize, usize)) -> f32 {
        self.values[y * self.height / height * self.width + x * self.width / width]
    }

    /// The map in another size: between the centres of the four nearest values, in
    /// proportion to their distances.
    fn stretched(&self, height: usize, width: usize) -> Self {
        let centre = |at: usize, side: usize| (at as f32 + 0.5) / side as f32;
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let values = places.map(|(y, x)| self.between(centre(y, height), centre(x, width)));
        Self {
            height,
            width,
            values: values.collect(),
        }
    }

    /// The value at a place between 0 and 1 of each side.
    fn between(&self, row: f32, column: f32) -> f32 {
        let between = |place: f32, side: usize| {
            let at = (place * side as f32 - 0.5).clamp(0.0, (side - 1) as f32);
            let low = at as usize;
            (low, (low + 1).min(side - 1), at - low as f32)
        };
        let (top, bottom, down) = between(row, self.height);
        let (left, right, across) = between(column, self.width);
        let value = |row: usize, column: usize| self.values[row * self.width + column];
        let line = |row| value(row, left) * (1.0 - across) + value(row, right) * across;
        line(top) * (1.0 - down) + line(bottom) * down
    }
}

/// What cannot be explained.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ExplainError {
    /// A layer that is not there.
    #[error("no layer is called `{name}`; those with a place for everything are {layers}")]
    NoLayer {
        /// What was asked for.
        name: String,
        /// The layers that could be.
        layers: String,
    },
    /// A layer, or a network, whose outputs have no place in the picture.
    #[error("{layer} has no place in the picture left; give `--layer` one of {layers}")]
    NoPlace {
        /// The layer in words.
        layer: String,
        /// The layers that could be.
        layers: String,
    },
    /// A class that is not there.
    #[error("no class is called `{name}`; there are {classes}")]
    NoClass {
        /// What was asked for.
        name: String,
        /// All of them.
        classes: String,
    },
    /// A number out of its range.
    #[error("--{flag} = {value} is out of range; give {allowed}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: usize,
        /// What may be given.
        allowed: String,
    },
    /// A gradient of integers.
    #[error(
        "{method} needs gradients, which an int8 model has none of: give the checkpoint it was made of, or use `--method occlusion`"
    )]
    NoGradients {
        /// The method.
        method: String,
    },
    /// Two networks for different pictures.
    #[error("the networks take pictures of {before} and {after}; compare two of one project")]
    Shapes {
        /// Of the first.
        before: PictureShape,
        /// Of the second.
        after: PictureShape,
    },
    /// Two networks for different classes.
    #[error("the networks know the classes {before} and {after}; compare two of one project")]
    Classes {
        /// Of the first.
        before: String,
        /// Of the second.
        after: String,
    },
}

/// `value`, where it is one of these.
fn in_range(
    flag: &'static str,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, ExplainError> {
    match range.contains(&value) {
        true => Ok(value),
        false => Err(ExplainError::Range {
            flag,
            value,
            allowed: format!("{} to {}", range.start(), range.end()),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn values_lie_between_their_centres() {
        let map = Heatmap {
            height: 1,
            width: 2,
            values: vec![0.0, 4.0],
        };
        let values = |width| map.stretched(1, width).values;
        assert_eq!(values(2), [0.0, 4.0]);
        assert_eq!(values(4), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(map.peak(), 4.0);
        let nearest = [0, 1, 2, 3].map(|x| map.at((0, 3), (x, 4)));
        assert_eq!(nearest, [0.0, 0.0, 4.0, 4.0]);
    }
}
