//! Occlusion (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional
//! Networks"): what happens to an answer when a part of the picture is covered.

use serde::Serialize;

use super::{Classifier, ExplainError, Heatmap, in_range};
use crate::data::PictureShape;

/// Cells along the longer side of a picture where nothing else is asked for.
const CELLS: usize = 7;

/// Which parts of a picture are covered, with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occlusion {
    shape: PictureShape,
    /// Side of a cell in pixels.
    cell: usize,
    grey: u8,
}

/// What covering each cell does to a logit.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cells {
    /// Side of a cell in pixels; the last of a row or a column may be cut.
    pub side: usize,
    /// Cells from top to bottom.
    pub rows: usize,
    /// Cells from left to right.
    pub columns: usize,
    /// How much the logit falls, row by row; below 0 it rises.
    pub drops: Vec<f32>,
}

impl Occlusion {
    /// Squares side by side, a seventh of the longer side each, which are painted with one
    /// grey.
    pub fn new(shape: PictureShape, grey: u8) -> Self {
        let cell = shape.height.max(shape.width).div_ceil(CELLS);
        Self { shape, cell, grey }
    }

    /// The same with squares of this many pixels, 1 to the longer side.
    pub fn with_cell(self, cell: usize) -> Result<Self, ExplainError> {
        let longer = self.shape.height.max(self.shape.width);
        let cell = in_range("cell", cell, 1..=longer)?;
        Ok(Self { cell, ..self })
    }

    /// How much the logit of `class` falls with each cell covered.
    pub fn of(&self, network: &dyn Classifier, pixels: &[u8], class: usize) -> Cells {
        let [rows, columns] =
            [self.shape.height, self.shape.width].map(|side| side.div_ceil(self.cell));
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let covered = places.map(|(row, column)| self.covered(pixels, row, column));
        let pictures: Vec<Vec<u8>> = [pixels.to_vec()].into_iter().chain(covered).collect();
        let logits = network.logits(&pictures);
        let whole = logits[0][class];
        Cells {
            side: self.cell,
            rows,
            columns,
            drops: logits[1..].iter().map(|row| whole - row[class]).collect(),
        }
    }

    fn covered(&self, pixels: &[u8], row: usize, column: usize) -> Vec<u8> {
        let PictureShape {
            height,
            width,
            channels,
        } = self.shape;
        let mut covered = pixels.to_vec();
        let range = |cell: usize, side: usize| cell * self.cell..((cell + 1) * self.cell).min(side);
        let across = range(column, width);
        for y in range(row, height) {
            let start = y * width;
            covered[(start + across.start) * channels..(start + across.end) * channels]
                .fill(self.grey);
        }
        covered
    }

    /// A cell in words: rows and columns of pixels, from 0.
    pub fn words(&self, cells: &Cells, cell: usize) -> String {
        let PictureShape { height, width, .. } = self.shape;
        let pixels = |cell: usize, side: usize| {
            let last = ((cell + 1) * cells.side).min(side) - 1;
            format!("{} to {last}", cell * cells.side)
        };
        format!(
            "rows {}, columns {}",
            pixels(cell / cells.columns, height),
            pixels(cell % cells.columns, width)
        )
    }

    /// The cells as a map of single pixels.
    pub fn map(&self, cells: &Cells) -> Heatmap {
        let PictureShape { height, width, .. } = self.shape;
        let cell = |y: usize, x: usize| y / cells.side * cells.columns + x / cells.side;
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        Heatmap {
            height,
            width,
            values: pixels.map(|(y, x)| cells.drops[cell(y, x)]).collect(),
        }
    }
}

impl Cells {
    /// The most important region: the cell with the largest drop, the first of equals.
    pub fn region(&self) -> usize {
        crate::train::argmax(&self.drops)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Its only logit is a weighted sum of the pixels.
    pub(crate) struct Weighted(pub Vec<f32>, pub PictureShape);

    impl Classifier for Weighted {
        fn shape(&self) -> PictureShape {
            self.1
        }

        fn classes(&self) -> Vec<String> {
            vec!["one".to_owned(), "none".to_owned()]
        }

        fn logits(&self, pictures: &[Vec<u8>]) -> Vec<Vec<f32>> {
            let sum = |pixels: &Vec<u8>| {
                let products = pixels.iter().zip(&self.0);
                products
                    .map(|(&pixel, weight)| f32::from(pixel) * weight)
                    .sum()
            };
            pictures.iter().map(|p| vec![sum(p), 0.0]).collect()
        }
    }

    pub(crate) const SHAPE: PictureShape = PictureShape {
        height: 5,
        width: 3,
        channels: 1,
    };

    #[test]
    fn a_drop_is_what_the_cell_gave() {
        let weights: Vec<f32> = (0..15).map(|i| (i % 4) as f32).collect();
        let pixels: Vec<u8> = (0..15).map(|i| 10 + i).collect();
        let occlusion = Occlusion::new(SHAPE, 7).with_cell(2).unwrap();
        let cells = occlusion.of(&Weighted(weights.clone(), SHAPE), &pixels, 0);
        assert_eq!((cells.rows, cells.columns), (3, 2));
        let gives = |pixel: usize| f32::from(pixels[pixel] - 7) * weights[pixel];
        let members = [
            vec![0, 1, 3, 4],
            vec![2, 5],
            vec![6, 7, 9, 10],
            vec![8, 11],
            vec![12, 13],
            vec![14],
        ];
        let expected = members.map(|pixels| pixels.into_iter().map(gives).sum::<f32>());
        assert_eq!(cells.drops, expected);
        let map = occlusion.map(&cells);
        assert_eq!(
            (map.values[4], map.values[5], map.values[14]),
            (expected[0], expected[1], expected[5])
        );
        assert_eq!(occlusion.words(&cells, 0), "rows 0 to 1, columns 0 to 1");
        // Cut by the picture's edges.
        assert_eq!(occlusion.words(&cells, 5), "rows 4 to 4, columns 2 to 2");
    }

    #[test]
    fn cells_are_a_seventh_or_what_was_asked_for() {
        let of = |height| {
            let shape = PictureShape {
                height,
                width: 1,
                channels: 1,
            };
            Occlusion::new(shape, 0)
        };
        assert_eq!((of(28).cell, of(3).cell), (4, 1));
        assert_eq!(of(28).with_cell(28).unwrap().cell, 28);
        assert!(of(28).with_cell(29).is_err() && of(28).with_cell(0).is_err());
    }
}
