//! Whether two networks look at the same parts of pictures.

use serde::Serialize;

use super::{Cells, Classifier, ExplainError, Occlusion};
use crate::train::argmax;

/// One picture under both networks.
#[derive(Clone, PartialEq, Debug)]
pub struct Pair {
    /// The class that each answers.
    pub answers: [usize; 2],
    /// What covering parts does to the logit of the class that the first network answers.
    pub cells: [Cells; 2],
}

/// What came out over all pictures.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// Pictures.
    pub pictures: usize,
    /// Those whose most important region is another.
    pub moved: usize,
    /// Those that are answered otherwise.
    pub answers_changed: usize,
    /// Mean over the pictures of the rank correlation of both networks' cells, -1 to 1.
    pub rank_correlation: f64,
}

/// Checks that both networks take the same pictures and tell the same classes apart.
pub fn check(before: &dyn Classifier, after: &dyn Classifier) -> Result<(), ExplainError> {
    let shapes = [before.shape(), after.shape()];
    if shapes[0] != shapes[1] {
        let [before, after] = shapes;
        return Err(ExplainError::Shapes { before, after });
    }
    let classes = [before.classes(), after.classes()];
    if classes[0] != classes[1] {
        let [before, after] = classes.map(|names| names.join(", "));
        return Err(ExplainError::Classes { before, after });
    }
    Ok(())
}

/// Both networks for each of the pictures.
pub fn compare(
    before: &dyn Classifier,
    after: &dyn Classifier,
    pictures: &[Vec<u8>],
    occlusion: &Occlusion,
) -> Vec<Pair> {
    let networks = [before, after];
    let answers = networks.map(|network| {
        let logits = network.logits(pictures);
        logits.iter().map(|row| argmax(row)).collect::<Vec<_>>()
    });
    let pair = |(index, picture): (usize, &Vec<u8>)| Pair {
        answers: [answers[0][index], answers[1][index]],
        cells: networks.map(|network| occlusion.of(network, picture, answers[0][index])),
    };
    pictures.iter().enumerate().map(pair).collect()
}

impl Pair {
    /// Whether no cell is the most important one under both. An int8 network often has
    /// several cells of the same drop.
    pub fn moved(&self) -> bool {
        let [before, after] = &self.cells;
        let most = |cells: &Cells| cells.drops[cells.region()];
        let (b, a) = (most(before), most(after));
        let both = |(x, y): (&f32, &f32)| *x == b && *y == a;
        !before.drops.iter().zip(&after.drops).any(both)
    }

    /// Spearman's rank correlation of the drops; 0 where one network has equal drops only.
    pub fn rank_correlation(&self) -> f64 {
        let [before, after] = &self.cells;
        correlation(&ranks(&before.drops), &ranks(&after.drops))
    }
}

impl Summary {
    /// Counts.
    pub fn new(pairs: &[Pair]) -> Self {
        let count = |is: fn(&Pair) -> bool| pairs.iter().filter(|pair| is(pair)).count();
        let correlations: f64 = pairs.iter().map(Pair::rank_correlation).sum();
        Self {
            pictures: pairs.len(),
            moved: count(Pair::moved),
            answers_changed: count(|pair| pair.answers[0] != pair.answers[1]),
            rank_correlation: correlations / pairs.len().max(1) as f64,
        }
    }
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f32]) -> Vec<f64> {
    let rank = |value: &f32| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

/// Pearson's.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| of(a - mean_a, b - mean_b)).sum::<f64>()
    };
    let spread = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    match spread > 0.0 {
        true => sum(&|a, b| a * b) / spread,
        false => 0.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::occlusion::tests::{SHAPE, Weighted};
    use super::*;

    fn pair(before: &[f32], after: &[f32]) -> Pair {
        let cells = |drops: &[f32]| Cells {
            side: 1,
            rows: 1,
            columns: drops.len(),
            drops: drops.to_vec(),
        };
        Pair {
            answers: [0, 0],
            cells: [cells(before), cells(after)],
        }
    }

    #[test]
    fn a_region_moves_where_no_cell_is_best_twice() {
        assert!(!pair(&[1.0, 3.0, 2.0], &[0.0, 9.0, 1.0]).moved());
        assert!(pair(&[1.0, 3.0, 2.0], &[9.0, 0.0, 1.0]).moved());
        // One of two equal ones.
        assert!(!pair(&[1.0, 3.0, 2.0], &[9.0, 9.0, 1.0]).moved());
    }

    #[test]
    fn the_correlation_is_spearmans() {
        // Wikipedia's example of IQ and hours of television: -29/165.
        let iq = [
            106.0, 100.0, 86.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0,
        ];
        let hours = [7.0, 27.0, 2.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        let rho = pair(&iq, &hours).rank_correlation();
        assert!((rho + 29.0 / 165.0).abs() < 1e-12, "{rho}");
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [2.5, 1.0, 2.5]);
        assert_eq!(pair(&[1.0, 1.0], &[1.0, 2.0]).rank_correlation(), 0.0);
    }

    #[test]
    fn a_network_looks_where_it_looks() {
        let weights: Vec<f32> = (0..15).map(|i| i as f32).collect();
        let (before, after) = (Weighted(weights, SHAPE), Weighted(vec![1.0; 15], SHAPE));
        let occlusion = Occlusion::new(SHAPE, 0);
        let pictures = [vec![1; 15], vec![2; 15]];
        check(&before, &after).unwrap();
        let summary = |after| Summary::new(&compare(&before, after, &pictures, &occlusion));
        let same = summary(&before);
        assert_eq!((same.pictures, same.moved), (2, 0));
        assert!((same.rank_correlation - 1.0).abs() < 1e-12);
        // Every cell is as good as any other: it did not move.
        assert_eq!(summary(&after).moved, 0);
        let other = Weighted(vec![1.0; 12], PictureShape { height: 4, ..SHAPE });
        assert!(check(&before, &other).is_err());
    }

    use crate::data::PictureShape;
}
