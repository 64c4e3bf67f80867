//! Weights in as few bits as each value needs, as [`shared::kernels::coded`] describes
//! them.

use std::collections::BTreeMap;

use shared::kernels::coded::{MAX_LENGTH, codebook_bytes};
use shared::layer::Layer;

use super::writer::channel_by_channel;

/// Codebook and stream of the weights of a layer; `None` where one is -128, which no
/// codebook holds.
pub fn encode(weights: &[i8], layer: &Layer, channels: usize) -> Option<Vec<u8>> {
    if weights.contains(&i8::MIN) {
        return None;
    }
    Some(encode_in_order(&match layer {
        Layer::DepthwiseConv2d(_) => channel_by_channel(weights, channels),
        _ => pair_by_pair(weights, channels),
    }))
}

/// The same of weights in the order in which they are decoded.
fn encode_in_order(weights: &[i8]) -> Vec<u8> {
    let codes = codes(weights);
    let longest = codes.last().map_or(0, |code| code.length);
    let mut bytes = vec![0; longest];
    codes.iter().for_each(|code| bytes[code.length - 1] += 1);
    bytes.extend(codes.iter().map(|code| code.value as u8));
    bytes.resize(codebook_bytes(longest, codes.len()), 0);
    let of: BTreeMap<i8, &Code> = codes.iter().map(|code| (code.value, code)).collect();
    let (mut buffer, mut bits) = (0u32, 0);
    for code in weights.iter().map(|weight| of[weight]) {
        buffer |= u32::from(code.bits) << (32 - bits - code.length);
        bits += code.length;
        if bits >= 16 {
            bytes.extend(((buffer >> 16) as u16).to_le_bytes());
            (buffer, bits) = (buffer << 16, bits - 16);
        }
    }
    if bits > 0 {
        bytes.extend(((buffer >> 16) as u16).to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Weights, filter by filter, in the order of a convolution or a dense layer: of each
/// two filters, tap by tap, the weight of the first and that of the second.
fn pair_by_pair(weights: &[i8], filters: usize) -> Vec<i8> {
    let fan_in = (weights.len() / filters.max(1)).max(1);
    let pair = |pair: &[i8]| -> Vec<i8> {
        let of_tap = |tap| pair.iter().skip(tap).step_by(fan_in).copied();
        (0..fan_in).flat_map(of_tap).collect()
    };
    weights.chunks(2 * fan_in).flat_map(pair).collect()
}

/// How a value is written.
struct Code {
    value: i8,
    length: usize,
    bits: u16,
}

/// The codes of the values that occur, shorter ones first, of one length in the order
/// of the values. There are two at the least, because a code has at least one bit.
fn codes(weights: &[i8]) -> Vec<Code> {
    let mut counts: BTreeMap<i8, usize> = BTreeMap::new();
    weights
        .iter()
        .for_each(|&weight| *counts.entry(weight).or_default() += 1);
    for spare in [0, 1] {
        if counts.len() < 2 {
            counts.entry(spare).or_default();
        }
    }
    let values = counts.keys().copied();
    let lengths = lengths(&counts.values().copied().collect::<Vec<_>>());
    let mut lengths: Vec<(usize, i8)> = lengths.into_iter().zip(values).collect();
    lengths.sort_unstable();
    let (mut next, mut last) = (0u16, 0);
    let code = |(length, value)| {
        next <<= length - last;
        last = length;
        let bits = next;
        next += 1;
        Code {
            value,
            length,
            bits,
        }
    };
    lengths.into_iter().map(code).collect()
}

/// The lengths, at most [`MAX_LENGTH`], of the codes that take the fewest bits for
/// values that occur this often: package-merge (Larmore and Hirschberg, "A Fast
/// Algorithm for Optimal Length-Limited Huffman Codes", 1990). Each level has all
/// values and the packages of two neighbours of the level before, and every time that
/// a value is taken its code grows by a bit.
fn lengths(counts: &[usize]) -> Vec<usize> {
    let mut values: Vec<usize> = (0..counts.len()).collect();
    values.sort_by_key(|&value| counts[value]);
    let mut levels: Vec<Vec<Item>> = Vec::new();
    for _ in 0..MAX_LENGTH {
        let below = levels.last().map_or(&[][..], Vec::as_slice);
        let packages = below.chunks_exact(2);
        let packages = packages.map(|pair| (pair[0].0 + pair[1].0, true));
        let mut level: Vec<Item> = values.iter().map(|&value| (counts[value], false)).collect();
        level.extend(packages);
        level.sort_unstable();
        levels.push(level);
    }
    let mut lengths = vec![0; counts.len()];
    let mut taken = 2 * (counts.len() - 1);
    for level in levels.iter().rev() {
        let packages = level.iter().take(taken);
        let packages = packages.filter(|(_, is_package)| *is_package).count();
        let cheapest = values.iter().take(taken - packages);
        cheapest.for_each(|&value| lengths[value] += 1);
        taken = 2 * packages;
    }
    lengths
}

/// How often the values of an item occur, and whether it is a package.
type Item = (usize, bool);

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use shared::kernels::coded::Coded;
    use shared::layer::ParamShape;

    use super::*;

    /// Encodes them, and compares with what is decoded.
    fn comes_back(weights: &[i8]) -> Vec<u8> {
        let bytes = encode_in_order(weights);
        let shape = ParamShape {
            channels: 1,
            fan_in: weights.len(),
        };
        let coded = Coded::parse(&bytes, shape).unwrap();
        let mut decoded = vec![0; weights.len()];
        coded.decoder().weights(&mut decoded);
        assert_eq!(decoded, weights);
        bytes
    }

    #[test]
    fn frequent_values_have_short_codes() {
        assert_eq!(lengths(&[3, 1, 1, 10]), [2, 3, 3, 1]);
        assert_eq!(lengths(&[5, 0]), [1, 1]);
        assert_eq!(lengths(&[7; 16]), [4; 16]);
        let bytes = comes_back(&[5, 7, -1, 5, 0, 5]);
        assert_eq!(
            bytes,
            [1, 1, 2, 5, 7, 0xFF, 0, 0, 0b1100_0000, 0b0101_1001, 0, 0]
        );
    }

    #[test]
    fn one_value_takes_a_bit() {
        for value in [-127, 0, 1] {
            assert_eq!(comes_back(&[value; 100]).len(), 20);
        }
    }

    #[test]
    fn no_code_is_too_long() {
        // Fibonacci numbers make the longest codes.
        let mut counts = vec![1, 1];
        while counts.len() < 25 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
        }
        let lengths = lengths(&counts);
        assert_eq!(lengths.iter().max(), Some(&MAX_LENGTH));
        let parts: f64 = lengths
            .iter()
            .map(|&length| 0.5f64.powi(length as i32))
            .sum();
        assert_eq!(parts, 1.0);
        let weights: Vec<i8> = (0i8..)
            .zip(counts)
            .flat_map(|(v, n)| repeat_n(v, n))
            .collect();
        comes_back(&weights);
    }

    #[test]
    fn any_weights_come_back() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..300 {
            let (count, levels) = (random.random_range(1..3000), random.random_range(1..=127));
            let product = random.random_range(1..=127 / levels);
            let mut weight = || product * random.random_range(-levels..=levels);
            let weights: Vec<i8> = (0..count).map(|_| weight()).collect();
            let bytes = comes_back(&weights).len();
            assert!(bytes < 15 + 255 + count + 5, "{bytes} for {count}");
        }
    }

    #[test]
    fn weights_go_in_pairs() {
        assert_eq!(pair_by_pair(&[1, 2, 3, 4, 5, 6], 3), [1, 3, 2, 4, 5, 6]);
    }
}
