//! Weights that are mostly 0 as [`shared::kernels::sparse`] describes them.

use shared::arith::MAX_BIAS;
use shared::kernels::sparse::{self, Entry};

use super::writer::even;

/// What the weights of a layer become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// Numbers of entries, and the entries.
    pub bytes: Vec<u8>,
    /// How many entries there are, filled up to an even number for each filter.
    pub entries: usize,
}

/// Encodes the weights of this many filters.
pub fn encode(weights: &[i8], filters: usize) -> Encoded {
    let filters: Vec<Vec<Entry>> = rows(weights, filters).map(entries).collect();
    let counts = filters.iter().map(|entries| entries.len() as u16);
    let mut bytes = even(counts.map(u16::to_le_bytes));
    let entries = filters
        .iter()
        .flat_map(|entries| even(entries.iter().copied()));
    let start = bytes.len();
    bytes.extend(entries);
    Encoded {
        entries: (bytes.len() - start) / size_of::<Entry>(),
        bytes,
    }
}

/// The biases of a sparse layer, which hold what the input's zero point adds.
/// `None` where one would leave [`MAX_BIAS`].
pub fn biases(weights: &[i8], bias: &[i32], zero_point: i8) -> Option<Vec<i32>> {
    let filters = bias.iter().zip(rows(weights, bias.len()));
    let folded = filters.map(|(&bias, weights)| {
        let bias = sparse::bias(bias, weights.iter().copied(), zero_point.into());
        bias.filter(|bias| bias.unsigned_abs() <= MAX_BIAS as u32)
    });
    folded.collect()
}

/// The weights of each filter.
fn rows(weights: &[i8], filters: usize) -> impl Iterator<Item = &[i8]> {
    weights.chunks((weights.len() / filters.max(1)).max(1))
}

/// The weights of one filter that are not 0, and what lies between two that are
/// more than 255 taps apart.
fn entries(weights: &[i8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut last = 0;
    for (tap, &weight) in weights.iter().enumerate().filter(|&(_, &w)| w != 0) {
        while tap - last > usize::from(u8::MAX) {
            entries.push([0, u8::MAX]);
            last += usize::from(u8::MAX);
        }
        entries.push([weight as u8, (tap - last) as u8]);
        last = tap;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_bridged() {
        let mut weights = [0; 600];
        (weights[255], weights[256], weights[599]) = (1, -2, 3);
        let expected = [[1, 255], [254, 1], [0, 255], [3, 88]];
        assert_eq!(entries(&weights), expected);
        assert_eq!(entries(&[0; 600]), [[0; 2]; 0]);
        let encoded = encode(&[&weights[..], &weights[..]].concat(), 2);
        assert_eq!(encoded.entries, 8);
        let odd = encode(&[0, 3, 0, -1, 0, 0], 2);
        assert_eq!(odd.bytes, [1, 0, 1, 0, 3, 1, 0, 0, 255, 0, 0, 0]);
        assert_eq!(odd.entries, 4);
    }

    #[test]
    fn the_bias_takes_the_zero_point() {
        let folded = biases(&[0, 3, 0, -1, 0, 0], &[10, MAX_BIAS], -4);
        assert_eq!(folded, Some(vec![22, MAX_BIAS - 4]));
        assert_eq!(biases(&[0, 3, 0, 1, 0, 0], &[10, MAX_BIAS], -4), None);
    }
}
