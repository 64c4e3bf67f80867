//! Random numbers that depend on what they are for alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// ChaCha's key is the numbers and the first bytes of the purpose, 32 bytes in all: equal ones give equal streams, all
/// others are independent.
pub(crate) fn stream<const N: usize>(numbers: [u64; N], purpose: &str) -> ChaCha8Rng {
    let mut seed = [0; 32];
    let words = numbers.into_iter().flat_map(u64::to_le_bytes);
    seed.iter_mut()
        .zip(words.chain(purpose.bytes()))
        .for_each(|(to, from)| *to = from);
    ChaCha8Rng::from_seed(seed)
}
