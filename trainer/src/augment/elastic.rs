//! Elastic deformation.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Change, Operation, either_way, setting};
use crate::data::PictureShape;

/// Bends the picture like rubber: places move by up to this fraction (0 to 0.5) of a side, either way, neighbours
/// alike.
///
/// Simard et al. 2003 ("Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis") smooth
/// a random move of every pixel; here the moves of a grid of points are random, and those between are a cubic
/// B-spline of them (after Ronneberger et al. 2015, "U-Net"), which is as smooth and costs less.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Elastic(pub f32);

/// Cells of the grid along a side.
const CELLS: usize = 4;
/// Points along a side: a spline needs one before the first cell and two behind the last.
const POINTS: usize = CELLS + 3;

/// How far every place moves, in pixels (right, down).
pub(super) struct Field {
    points: [[(f32, f32); POINTS]; POINTS],
    /// Of each column.
    across: Vec<Spline>,
    height: usize,
}

/// The first of the four points that a pixel lies between, and their weights, which sum to 1.
type Spline = (usize, [f32; 4]);

setting!(Elastic, "elastic", 0 to 0.5);

impl Operation for Elastic {
    fn draw(&self, mut random: ChaCha8Rng, shape: PictureShape) -> Change {
        let strength = random.random::<f32>() * self.0;
        let mut side = |side: usize| either_way(&mut random, strength) * side as f32;
        let mut points = [[(0.0, 0.0); POINTS]; POINTS];
        for point in points.iter_mut().flatten() {
            *point = (side(shape.width), side(shape.height));
        }
        Change::Bend(Box::new(Field {
            points,
            across: (0..shape.width)
                .map(|column| spline(column, shape.width))
                .collect(),
            height: shape.height,
        }))
    }
}

impl Field {
    /// Adds the moves of the pixels of a row.
    pub(super) fn add_row(&self, row: usize, moves: &mut [(f32, f32)]) {
        let (above, weights) = spline(row, self.height);
        let mut line = [(0.0, 0.0); POINTS];
        for (points, weight) in self.points.iter().skip(above).zip(weights) {
            for (sum, point) in line.iter_mut().zip(points) {
                sum.0 += weight * point.0;
                sum.1 += weight * point.1;
            }
        }
        for (sum, &(left, weights)) in moves.iter_mut().zip(&self.across) {
            for (point, weight) in line.iter().skip(left).zip(weights) {
                sum.0 += weight * point.0;
                sum.1 += weight * point.1;
            }
        }
    }
}

fn spline(at: usize, side: usize) -> Spline {
    let place = (at as f32 + 0.5) / side.max(1) as f32 * CELLS as f32;
    let first = (place as usize).min(CELLS - 1);
    let t = place - first as f32;
    let (t2, t3) = (t * t, t * t * t);
    let weights = [
        1.0 - 3.0 * t + 3.0 * t2 - t3,
        4.0 - 6.0 * t2 + 3.0 * t3,
        1.0 + 3.0 * t + 3.0 * t2 - 3.0 * t3,
        t3,
    ];
    (first, weights.map(|weight| weight / 6.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    const SHAPE: PictureShape = PictureShape {
        height: 20,
        width: 30,
        channels: 1,
    };

    fn rows(seed: u64) -> Vec<Vec<(f32, f32)>> {
        let random = ChaCha8Rng::seed_from_u64(seed);
        let Change::Bend(field) = Elastic(0.1).draw(random, SHAPE) else {
            panic!("elastic bends");
        };
        let row = |row| {
            let mut moves = vec![(0.0, 0.0); 30];
            field.add_row(row, &mut moves);
            moves
        };
        (0..20).map(row).collect()
    }

    #[test]
    fn weights_sum_to_one() {
        for at in 0..28 {
            let (first, weights) = spline(at, 28);
            assert!(first + 3 < POINTS);
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(weights.iter().all(|weight| *weight >= 0.0));
        }
    }

    #[test]
    fn places_move_a_little_and_neighbours_alike() {
        let mut farthest = 0f32;
        for seed in 0..50 {
            let rows = rows(seed);
            for &(right, down) in rows.iter().flatten() {
                assert!(right.abs() <= 3.0 && down.abs() <= 2.0);
                farthest = farthest.max(right.abs());
            }
            for pair in rows.iter().flat_map(|row| row.windows(2)) {
                assert!((pair[0].0 - pair[1].0).abs() < 0.6);
            }
        }
        assert!(farthest > 0.8, "{farthest}");
    }
}
