//! Which tensor lies where in the arena.
//!
//! Tensors whose lifetimes do not touch share bytes. Placement is greedy by
//! size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
//! Inference", 2020): the largest tensor first, each at the lowest offset where
//! it overlaps no placed tensor that lives at the same time.

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
pub fn plan(tensors: &Vec<Lifetime, MAX_TENSORS>) -> Plan {
    let mut offsets: Vec<u32, MAX_TENSORS> = tensors.iter().map(|_| 0).collect();
    let mut placed = [false; MAX_TENSORS];
    let mut peak = 0;
    for _ in tensors {
        let Some(next) = largest(tensors, &placed) else {
            break;
        };
        let offset = lowest_offset(tensors, &placed, &offsets, next);
        offsets[next] = offset;
        placed[next] = true;
        peak = peak.max(offset + tensors[next].size.next_multiple_of(ALIGN));
    }
    Plan { offsets, peak }
}

/// The largest tensor not placed yet, the first one on a tie.
fn largest(tensors: &[Lifetime], placed: &[bool]) -> Option<usize> {
    let waiting = (0..tensors.len()).filter(|&t| !placed[t]);
    waiting.max_by_key(|&t| (tensors[t].size, core::cmp::Reverse(t)))
}

/// The lowest offset at which `next` meets no placed tensor alive with it:
/// starts at 0 and moves past each one in the way until none is.
fn lowest_offset(tensors: &[Lifetime], placed: &[bool], offsets: &[u32], next: usize) -> u32 {
    let size = tensors[next].size.next_multiple_of(ALIGN);
    let end = |t: usize| offsets[t] + tensors[t].size.next_multiple_of(ALIGN);
    let mut offset = 0;
    while let Some(in_the_way) = (0..tensors.len()).find(|&t| {
        placed[t]
            && tensors[t].overlaps(&tensors[next])
            && offsets[t] < offset + size
            && offset < end(t)
    }) {
        offset = end(in_the_way);
    }
    offset
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
