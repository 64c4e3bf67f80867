//! Weights that are mostly 0 as [`shared::kernels::sparse`] describes them.

use shared::arith::MAX_BIAS;
use shared::kernels::sparse::{self, Entry};

/// What a filter's weights become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// Numbers of entries, and the entries.
    pub bytes: Vec<u8>,
    /// How many entries there are, filled up to an even number for each filter.
    pub entries: usize,
    /// Biases, which hold what the input's zero point adds.
    pub bias: Vec<i32>,
}

/// Encodes the weights of `bias.len()` filters. `None` where a bias would leave
/// [`MAX_BIAS`].
pub fn encode(weights: &[i8], bias: &[i32], zero_point: i8) -> Option<Encoded> {
    let fan_in = (weights.len() / bias.len().max(1)).max(1);
    let filters: Vec<Vec<Entry>> = weights.chunks(fan_in).map(entries).collect();
    let counts = filters.iter().map(|entries| entries.len() as u16);
    let odd = filters.len() % 2;
    let counts = counts.chain(std::iter::repeat_n(0, odd));
    let even = |entries: &Vec<Entry>| {
        let padding = entries.len() % 2;
        entries
            .clone()
            .into_iter()
            .chain(std::iter::repeat_n([0; 2], padding))
    };
    let entries: Vec<Entry> = filters.iter().flat_map(even).collect();
    let bytes = counts.flat_map(u16::to_le_bytes);
    let bytes = bytes.chain(entries.iter().copied().flatten());
    let folded = bias
        .iter()
        .zip(weights.chunks(fan_in))
        .map(|(&bias, weights)| {
            let bias = sparse::bias(bias, weights.iter().copied(), zero_point.into());
            bias.filter(|bias| bias.unsigned_abs() <= MAX_BIAS as u32)
        });
    Some(Encoded {
        bytes: bytes.collect(),
        entries: entries.len(),
        bias: folded.collect::<Option<_>>()?,
    })
}

/// How many entries filters of `fan_in` taps take that are filled up to an even
/// number each.
pub fn count(weights: &[i8], filters: usize) -> usize {
    let fan_in = (weights.len() / filters.max(1)).max(1);
    let filled = |filter: &[i8]| entries(filter).len().next_multiple_of(2);
    weights.chunks(fan_in).map(filled).sum()
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
        assert_eq!(count(&[&weights[..], &weights[..]].concat(), 2), 8);
    }

    #[test]
    fn the_bias_takes_the_zero_point() {
        let encoded = encode(&[0, 3, 0, -1, 0, 0], &[10, MAX_BIAS], -4).unwrap();
        assert_eq!(encoded.bytes, [1, 0, 1, 0, 3, 1, 0, 0, 255, 0, 0, 0]);
        assert_eq!(encoded.entries, 4);
        assert_eq!(encoded.bias, [22, MAX_BIAS - 4]);
        assert_eq!(encode(&[0, 3, 0, 1, 0, 0], &[10, MAX_BIAS], -4), None);
    }
}
