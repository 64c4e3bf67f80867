//! Which tensor lies where in the arena.
//!
//! Tensors whose lifetimes do not touch share bytes. No plan needs less than the
//! tensors that live in the fullest step. A chain of layers always gets by with
//! that: its tensors take turns at the two ends of the arena. Where a branched
//! network does not, placement is greedy by size (Pisarchyk and Lee, "Efficient
//! Memory Management for Deep Neural Net Inference", 2020): the largest tensor
//! first, each at the lowest offset where it overlaps no placed tensor that
//! lives at the same time.

use heapless::Vec;

/// Most tensors in one network, the input among them.
pub const MAX_TENSORS: usize = 65;

/// Every tensor starts at a multiple of this many bytes, so that word loads
/// are aligned.
pub const ALIGN: u32 = 4;

/// One tensor as the plan sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// Bytes.
    pub size: u32,
    /// Step that writes it; the network's input is written in step 0.
    pub first: u8,
    /// Last step that reads it.
    pub last: u8,
}

impl Lifetime {
    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn aligned(&self) -> u32 {
        self.size.next_multiple_of(ALIGN)
    }
}

/// Where the tensors lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Offset of each tensor in bytes, in the order they were given.
    pub offsets: Vec<u32, MAX_TENSORS>,
    /// Bytes the arena needs.
    pub peak: u32,
}

/// Places the tensors. Sizes sum to less than 2^32 because a tensor has at most
/// [`crate::layer::MAX_ELEMENTS`] bytes and there are at most [`MAX_TENSORS`].
pub fn plan(tensors: &[Lifetime]) -> Plan {
    let mut places = Places::new(tensors);
    if places.place_at_both_ends(fullest_step(tensors)).is_none() {
        places = Places::new(tensors);
        places.place_by_size();
    }
    Plan {
        peak: places.peak(),
        offsets: places.offsets,
    }
}

/// Bytes of all tensors that live in the step that has most of them.
fn fullest_step(tensors: &[Lifetime]) -> u32 {
    let alive = |step: u8| {
        let alive = tensors
            .iter()
            .filter(move |t| t.first <= step && step <= t.last);
        alive.map(Lifetime::aligned).sum()
    };
    // A step has most tensors when one has just been added.
    tensors.iter().map(|t| alive(t.first)).max().unwrap_or(0)
}

/// Offsets of the tensors that have been placed so far.
struct Places<'t> {
    tensors: &'t [Lifetime],
    offsets: Vec<u32, MAX_TENSORS>,
    placed: [bool; MAX_TENSORS],
}

impl<'t> Places<'t> {
    fn new(tensors: &'t [Lifetime]) -> Self {
        Self {
            tensors,
            offsets: tensors.iter().map(|_| 0).collect(),
            placed: [false; MAX_TENSORS],
        }
    }

    /// The tensors in order, by turns as low and as high as it goes in an arena
    /// of `bytes`; `None` where one does not fit.
    fn place_at_both_ends(&mut self, bytes: u32) -> Option<()> {
        let mut low = true;
        for next in 0..self.tensors.len() {
            let offset = if low {
                self.lowest_offset(next)
            } else {
                self.highest_offset(next, bytes)?
            };
            if offset + self.tensors[next].aligned() > bytes {
                return None;
            }
            self.place(next, offset);
            // What takes no bytes, a flattened tensor, takes no turn.
            low ^= self.tensors[next].size > 0;
        }
        Some(())
    }

    fn place_by_size(&mut self) {
        while let Some(next) = self.largest() {
            self.place(next, self.lowest_offset(next));
        }
    }

    fn place(&mut self, tensor: usize, offset: u32) {
        self.offsets[tensor] = offset;
        self.placed[tensor] = true;
    }

    /// The largest tensor not placed yet, the first one on a tie.
    fn largest(&self) -> Option<usize> {
        let waiting = (0..self.tensors.len()).filter(|&t| !self.placed[t]);
        waiting.max_by_key(|&t| (self.tensors[t].size, core::cmp::Reverse(t)))
    }

    /// Starts at 0 and moves past each tensor in the way until none is.
    fn lowest_offset(&self, next: usize) -> u32 {
        let mut offset = 0;
        while let Some(other) = self.in_the_way(next, offset) {
            offset = self.end(other);
        }
        offset
    }

    /// Starts at the end of `bytes` and moves before each tensor in the way
    /// until none is; `None` where that leads below 0.
    fn highest_offset(&self, next: usize, bytes: u32) -> Option<u32> {
        let size = self.tensors[next].aligned();
        let mut offset = bytes.checked_sub(size)?;
        while let Some(other) = self.in_the_way(next, offset) {
            offset = self.offsets[other].checked_sub(size)?;
        }
        Some(offset)
    }

    /// A placed tensor that lives at the same time and would share bytes.
    fn in_the_way(&self, next: usize, offset: u32) -> Option<usize> {
        let end = offset + self.tensors[next].aligned();
        (0..self.tensors.len()).find(|&t| {
            self.placed[t]
                && self.tensors[t].overlaps(&self.tensors[next])
                && self.offsets[t] < end
                && offset < self.end(t)
        })
    }

    fn end(&self, tensor: usize) -> u32 {
        self.offsets[tensor] + self.tensors[tensor].aligned()
    }

    fn peak(&self) -> u32 {
        let ends = (0..self.tensors.len()).map(|t| self.end(t));
        ends.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetimes(list: &[(u32, u8, u8)]) -> Vec<Lifetime, MAX_TENSORS> {
        list.iter()
            .map(|&(size, first, last)| Lifetime { size, first, last })
            .collect()
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbours() {
        let chain = lifetimes(&[(784, 0, 1), (21_632, 1, 2), (5_408, 2, 3), (7_744, 3, 4)]);
        assert_eq!(plan(&chain).peak, 21_632 + 5_408);
    }

    #[test]
    fn a_chain_takes_turns_at_both_ends() {
        // By size, 44 lands above 104, 76 at 0, and 28 above all of them.
        let chain = lifetimes(&[(104, 0, 1), (44, 1, 2), (28, 2, 3), (76, 3, 4)]);
        assert_eq!(plan(&chain).peak, 104 + 44);
    }

    #[test]
    fn a_residual_keeps_its_shortcut() {
        // The input is read again in step 3, so three tensors live in step 2.
        let block = lifetimes(&[(100, 0, 3), (100, 1, 2), (100, 2, 3), (100, 3, 4)]);
        let plan = plan(&block);
        assert_eq!(plan.peak, 300);
    }

    #[test]
    fn tensors_alive_together_never_share_a_byte() {
        let mut state = 7u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..500 {
            let list: Vec<Lifetime, MAX_TENSORS> = (0..1 + random(20))
                .map(|_| {
                    let first = random(20) as u8;
                    Lifetime {
                        size: 1 + random(200),
                        first,
                        last: first + random(5) as u8,
                    }
                })
                .collect();
            let plan = plan(&list);
            for a in 0..list.len() {
                assert!(plan.offsets[a].is_multiple_of(ALIGN));
                assert!(plan.offsets[a] + list[a].size <= plan.peak);
                for b in 0..a {
                    let apart = plan.offsets[a] + list[a].size <= plan.offsets[b]
                        || plan.offsets[b] + list[b].size <= plan.offsets[a];
                    assert!(apart || !list[a].overlaps(&list[b]));
                }
            }
        }
    }
}
