//! Searches for places in the arena: the offline memory planning of Pisarchyk and
//! Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020), with
//! outputs that may overlap the input that their layer is the last to read. What a
//! plan has to satisfy is in [`shared::plan`].
//!
//! Tensors are placed one after the other, each as low as it goes, then the scratch
//! of each layer. The search starts with the largest tensor first and swaps two at
//! a time.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared::model::Place;
use shared::plan::{ALIGN, Demand, Kernel, lag};

/// Orders that are tried.
const TRIES: usize = 500;

/// The smallest plan found; the same one for the same demands.
pub fn search(demands: &[(Demand, Kernel)]) -> Vec<Place> {
    let tensors: Vec<Tensor> = demands.iter().map(Tensor::new).collect();
    let mut order: Vec<usize> = (0..tensors.len())
        .filter(|&t| tensors[t].size > 0)
        .collect();
    order.sort_by_key(|&tensor| std::cmp::Reverse(tensors[tensor].size));
    let mut best = place(&tensors, &order);
    let least = (0..tensors.len())
        .map(|step| least_of(&tensors, step))
        .max();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..TRIES {
        if Some(peak(&tensors, &best)) <= least {
            break;
        }
        let mut pick = || random.random_range(0..order.len());
        let (a, b) = (pick(), pick());
        order.swap(a, b);
        let tried = place(&tensors, &order);
        if peak(&tensors, &tried) <= peak(&tensors, &best) {
            best = tried;
        } else {
            order.swap(a, b);
        }
    }
    best
}

/// Bytes that the step that writes a tensor needs in any plan.
fn least_of(tensors: &[Tensor], step: usize) -> u32 {
    let new = &tensors[step];
    let in_use: u32 = (0..step)
        .filter(|&t| tensors[t].last >= step)
        .map(|t| tensors[t].size)
        .sum();
    let dying = new
        .inputs
        .iter()
        .filter(|&&t| t < step && tensors[t].last == step);
    let input = dying.map(|&t| tensors[t].size).max().unwrap_or(0);
    let side_by_side = input + new.size;
    let both = match new.sharing {
        Sharing::Never => side_by_side,
        Sharing::InPlace => input.max(new.size),
        Sharing::Before(lag) => {
            let with_lag = input + u32::try_from(lag).unwrap_or(0);
            with_lag.max(new.size).min(side_by_side)
        }
    };
    in_use - input + both + new.scratch
}

/// Where a layer's output may share bytes with its input.
#[derive(Clone, Copy)]
enum Sharing {
    Never,
    /// At the same offset only.
    InPlace,
    /// This many bytes before it, or more.
    Before(i64),
}

/// A tensor and the layer that writes it.
struct Tensor {
    size: u32,
    last: usize,
    owner: usize,
    inputs: [usize; 2],
    scratch: u32,
    sharing: Sharing,
}

impl Tensor {
    fn new((demand, kernel): &(Demand, Kernel)) -> Self {
        Self {
            size: demand.size,
            last: demand.last.into(),
            owner: demand.owner.into(),
            inputs: demand.inputs.map(usize::from),
            scratch: demand.scratch,
            sharing: match kernel {
                Kernel::Elementwise => Sharing::Before(0),
                Kernel::ChannelByChannel => Sharing::InPlace,
                Kernel::Windows(positions) => Sharing::Before(lag(positions)),
                Kernel::Other => Sharing::Never,
            },
        }
    }
}

/// Places the tensors in this order.
fn place(tensors: &[Tensor], order: &[usize]) -> Vec<Place> {
    let mut places = vec![Place::default(); tensors.len()];
    for (count, &tensor) in order.iter().enumerate() {
        let placed = &order[..count];
        let fits = |&offset: &u32| {
            let apart =
                |&other: &usize| !clash(tensors, (tensor, offset), (other, places[other].offset));
            placed.iter().all(apart)
        };
        let candidates = placed.iter().flat_map(|&other| {
            let end = places[other].offset + tensors[other].size;
            [
                Some(end),
                sharing_offset(tensors, tensor, (other, places[other].offset)),
            ]
        });
        let lowest = std::iter::once(0)
            .chain(candidates.flatten())
            .filter(fits)
            .min();
        places[tensor].offset = lowest.unwrap_or_default(); // above all others there is room
    }
    for tensor in 0..tensors.len() {
        if tensors[tensor].size == 0 && tensors[tensor].owner != tensor {
            places[tensor].offset = places[tensors[tensor].owner].offset;
        }
        places[tensor].scratch = scratch(tensors, &places, tensor);
    }
    places
}

/// Whether two tensors, each with an offset, take bytes of each other.
fn clash(tensors: &[Tensor], a: (usize, u32), b: (usize, u32)) -> bool {
    let ((old, at), (new, to)) = (a.min(b), a.max(b));
    let (older, newer) = (&tensors[old], &tensors[new]);
    let alive = older.last >= new;
    let apart = at + older.size <= to || to + newer.size <= at;
    let shares = older.last == new
        && newer.inputs.contains(&old)
        && match newer.sharing {
            Sharing::Never => false,
            Sharing::InPlace => at == to,
            Sharing::Before(lag) => i64::from(to) + lag <= i64::from(at),
        };
    alive && !apart && !shares
}

/// The lowest offset at which a tensor shares bytes with another one, of which one
/// is made from the other.
fn sharing_offset(tensors: &[Tensor], tensor: usize, (other, at): (usize, u32)) -> Option<u32> {
    let newer = &tensors[tensor.max(other)];
    let offset = match newer.sharing {
        Sharing::Never => return None,
        Sharing::InPlace => i64::from(at),
        Sharing::Before(lag) if tensor > other => i64::from(at) - lag.max(0),
        Sharing::Before(lag) => i64::from(at) + lag.max(0),
    };
    u32::try_from(offset).ok()
}

/// The lowest offset of a layer's scratch: behind what it reads and writes, and
/// beside all else that is in use.
fn scratch(tensors: &[Tensor], places: &[Place], tensor: usize) -> u32 {
    let bytes = tensors[tensor].scratch;
    if bytes == 0 {
        return 0;
    }
    let end = |t: usize| places[t].offset + tensors[t].size;
    let inputs = tensors[tensor].inputs.into_iter().map(end);
    let mut offset = inputs.fold(end(tensor), u32::max).next_multiple_of(ALIGN);
    let in_the_way = |offset: u32| {
        (0..tensor).find(|&t| {
            let alive = tensors[t].last >= tensor && tensors[t].size > 0;
            alive && places[t].offset < offset + bytes && offset < end(t)
        })
    };
    while let Some(other) = in_the_way(offset) {
        offset = end(other).next_multiple_of(ALIGN);
    }
    offset
}

fn peak(tensors: &[Tensor], places: &[Place]) -> u32 {
    let end = |(tensor, place): (&Tensor, &Place)| {
        let scratch = match tensor.scratch {
            0 => 0,
            bytes => place.scratch + bytes,
        };
        scratch.max(place.offset + tensor.size)
    };
    tensors.iter().zip(places).map(end).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use shared::plan::check;

    use super::*;

    /// A chain or a network with shortcuts: size, and the tensors that are read.
    fn demands(list: &[(usize, [u8; 2])]) -> Vec<(Demand, Kernel)> {
        let mut demands: Vec<Demand> = Vec::new();
        for (tensor, &(size, inputs)) in list.iter().enumerate() {
            demands.push(Demand::new(tensor as u8, inputs, size));
            for input in inputs {
                demands[usize::from(input)].last = tensor as u8;
            }
        }
        demands
            .last_mut()
            .into_iter()
            .for_each(|output| output.last = u8::MAX);
        demands
            .into_iter()
            .map(|demand| (demand, Kernel::Other))
            .collect()
    }

    fn peak_of(demands: &[(Demand, Kernel)]) -> u32 {
        let places = search(demands);
        let only: Vec<Demand> = demands.iter().map(|(demand, _)| *demand).collect();
        check(&places, &only, |tensor| demands[tensor].1).unwrap()
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbours() {
        let chain = [
            (784, [0; 2]),
            (21_632, [0; 2]),
            (5_408, [1; 2]),
            (7_744, [2; 2]),
        ];
        assert_eq!(peak_of(&demands(&chain)), 21_632 + 5_408);
    }

    #[test]
    fn a_chain_takes_turns_at_both_ends() {
        let chain = [(104, [0; 2]), (44, [0; 2]), (28, [1; 2]), (76, [2; 2])];
        assert_eq!(peak_of(&demands(&chain)), 104 + 44);
    }

    #[test]
    fn a_residual_keeps_its_shortcut() {
        let block = [(100, [0; 2]), (100, [0; 2]), (100, [1; 2]), (100, [0, 2])];
        assert_eq!(peak_of(&demands(&block)), 300);
    }

    #[test]
    fn an_addition_writes_over_its_input() {
        let mut block = demands(&[(100, [0; 2]), (100, [0; 2]), (100, [0, 1])]);
        block[2].1 = Kernel::Elementwise;
        assert_eq!(peak_of(&block), 200);
    }

    #[test]
    fn scratch_lies_behind_its_layer() {
        let mut block = demands(&[(10, [0; 2]), (7, [0; 2]), (100, [1; 2])]);
        block[1].0.scratch = 20;
        assert_eq!(peak_of(&block), 107);
    }

    #[test]
    fn every_plan_is_accepted() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..200 {
            let count = random.random_range(1..12u8);
            let list: Vec<_> = (0..count)
                .map(|tensor| {
                    let mut input = || random.random_range(0..tensor.max(1));
                    let inputs = [input(), input()];
                    (random.random_range(1..200), inputs)
                })
                .collect();
            let mut demands = demands(&list);
            for (demand, kernel) in &mut demands {
                demand.scratch = random.random_range(0..30);
                if random.random_range(0..2) == 0 {
                    *kernel = Kernel::Elementwise;
                }
            }
            peak_of(&demands);
        }
    }
}
