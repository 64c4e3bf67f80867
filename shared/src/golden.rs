//! Self-test inputs from a seed, so that a model file only stores the expected
//! outputs.
//!
//! The generator is Marsaglia's 32-bit xorshift with the triple (13, 17, 5)
//! ("Xorshift RNGs", Journal of Statistical Software 8(14), 2003). Vector `i`
//! starts from `seed + i * 0x9E3779B9` (mod 2^32; 1 in place of 0) and each
//! step gives one int8: the top eight bits of the new state.

/// Fills `input` with the self-test vector `index` of `seed`.
pub fn fill(seed: u32, index: u32, input: &mut [i8]) {
    let mut state = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9));
    if state == 0 {
        state = 1;
    }
    for value in input {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *value = (state >> 24) as u8 as i8;
    }
}

/// The self-test vectors of one model.
#[derive(Clone, Copy, Debug)]
pub struct Golden<'a> {
    pub(crate) seed: u32,
    pub(crate) output_len: usize,
    pub(crate) expected: &'a [i8],
}

impl<'a> Golden<'a> {
    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.expected
            .len()
            .checked_div(self.output_len)
            .unwrap_or(0)
    }

    /// Writes input `index` into `input`.
    pub fn fill(&self, index: usize, input: &mut [i8]) {
        fill(self.seed, index as u32, input);
    }

    /// The output that vector `index` must give; empty past the last one.
    pub fn expected(&self, index: usize) -> &'a [i8] {
        let start = index.saturating_mul(self.output_len);
        let end = start.saturating_add(self.output_len);
        self.expected.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_generator_is_fixed_for_ever() {
        let mut input = [0; 8];
        super::fill(1, 0, &mut input);
        // From state 1: 270369, 67634689, 2647435461, 307599695, ...; the bytes
        // are their top eight bits.
        assert_eq!(input, [0, 4, -99, 18, -114, 44, 37, 25]);
    }
}
