//! Which bytes of the arena a tensor may take.
//!
//! The offsets are in the model file, where the host has searched for good ones;
//! what is here says what they have to satisfy, and the chip only checks. Tensors
//! whose lifetimes do not touch share bytes, and so do the input and the output of
//! a layer whose kernel reads ahead of what it writes.

use crate::kernels::conv2d::Positions;
use crate::kernels::{Way, overlap};
use crate::layer::{Layer, Shape};
use crate::model::Place;

/// Most tensors in one network, the input among them.
pub const MAX_TENSORS: usize = 65;

/// Offset of a kernel's scratch: a multiple of this many bytes.
pub const ALIGN: u32 = 4;

/// What one tensor, and the layer that writes it, ask of the arena. Tensor 0 is
/// the network's input.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Bytes; 0 where it is never stored or is another one's bytes.
    pub size: u32,
    /// Last step that reads it, by the tensor that the step writes.
    pub last: u8,
    /// Tensors that its layer reads, those whose bytes they are.
    pub inputs: [u8; 2],
    /// The tensor whose bytes these are: itself, but for `Flatten`.
    pub owner: u8,
    /// Bytes of scratch of its layer's kernel.
    pub scratch: u32,
}

impl Demand {
    /// Of a tensor of `size` bytes that owns them, written without scratch.
    pub fn new(tensor: u8, inputs: [u8; 2], size: usize) -> Self {
        Self {
            size: size as u32,
            last: tensor,
            inputs,
            owner: tensor,
            scratch: 0,
        }
    }

    /// Bytes of tensor and scratch, each up to a multiple of [`ALIGN`].
    pub fn aligned(&self) -> u64 {
        let aligned = |bytes: u32| u64::from(bytes.next_multiple_of(ALIGN));
        aligned(self.size) + aligned(self.scratch)
    }
}

/// How a kernel goes through its input, which decides where the output may lie.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// Element by element in order.
    Elementwise,
    /// Depthwise with one output of the same size per channel.
    ChannelByChannel,
    /// Window by window.
    Windows(Positions),
    /// Any other way.
    Other,
}

impl Kernel {
    /// The kernel of a layer.
    pub fn of(layer: &Layer, input: Shape, output: Shape, way: Way) -> Self {
        match (layer, layer.window(input)) {
            (Layer::Add(_), _) => Self::Elementwise,
            (Layer::DepthwiseConv2d(_), _) if input == output => Self::ChannelByChannel,
            (Layer::Conv2d(_), Some(window)) => Self::Windows(Positions {
                window,
                input,
                output,
                way,
            }),
            _ => Self::Other,
        }
    }

    /// Whether an output at offset `output` may share bytes with an input at
    /// offset `input` that nobody reads later.
    pub fn may_share(&self, input: u32, output: u32) -> bool {
        match self {
            Self::Elementwise => output <= input,
            Self::ChannelByChannel => output == input,
            Self::Windows(positions) => i64::from(output) + lag(positions) <= i64::from(input),
            Self::Other => false,
        }
    }
}

/// How many bytes before its input a convolution's output has to start, so that
/// no byte is written before it has been read for the last time; negative where
/// it may start behind.
#[inline(never)]
pub fn lag(positions: &Positions) -> i64 {
    let Positions {
        window,
        input,
        output,
        ..
    } = *positions;
    let (top, left) = window.padding_before(input);
    let start = |(y, x): (usize, usize)| {
        let (kernel, stride) = (window.kernel, window.stride);
        let rows = overlap(y, stride.height(), top, kernel.height(), input.height());
        let columns = overlap(x, stride.width(), left, kernel.width(), input.width());
        (rows.input.start * input.width() + columns.input.start) * input.channels()
    };
    let count = output.height() * output.width();
    let group = positions.way.group();
    let mut needed = input.len();
    let mut lag = i64::MIN;
    for first in (0..count).step_by(group).rev() {
        let end = (first + group).min(count);
        lag = lag.max((end * output.channels()) as i64 - needed as i64);
        let tile = 0..(end - first) * positions.way.per_output();
        let starts = tile.map(|position| start(positions.at(first, position)));
        needed = needed.min(starts.min().unwrap_or(needed));
    }
    lag
}

/// Bytes that the arena needs for tensors at these places, or the first tensor
/// that is in the way of another one or of scratch. `kernel` gives the kernel that
/// writes a tensor.
pub fn check(
    places: &[Place],
    demands: &[Demand],
    kernel: impl Fn(usize) -> Kernel,
) -> Result<u32, usize> {
    let mut peak = 0;
    for (tensor, (place, demand)) in places.iter().zip(demands).enumerate() {
        let end = place.offset.checked_add(demand.size).ok_or(tensor)?;
        let scratch_end = place.scratch.checked_add(demand.scratch).ok_or(tensor)?;
        if !is_canonical(place, demand, places, tensor) {
            return Err(tensor);
        }
        peak = peak.max(end).max(scratch_end);
        let mut earlier = demands.iter().zip(places).take(tensor + 1).enumerate();
        let fits = earlier.all(|(index, (old, at))| {
            let old = Placed {
                tensor: index,
                demand: old,
                place: at,
            };
            let new = Placed {
                tensor,
                demand,
                place,
            };
            new.leaves_room_for(old, &kernel)
        });
        if !fits {
            return Err(tensor);
        }
    }
    Ok(peak)
}

/// What takes no bytes has one place only; scratch is aligned.
fn is_canonical(place: &Place, demand: &Demand, places: &[Place], tensor: usize) -> bool {
    let owner = usize::from(demand.owner);
    let shared = match places.get(owner) {
        Some(owner_place) if owner != tensor => owner_place.offset,
        _ => 0,
    };
    let offset = demand.size > 0 || place.offset == shared;
    let scratch = demand.scratch > 0 || place.scratch == 0;
    offset && scratch && place.scratch.is_multiple_of(ALIGN)
}

/// A tensor at its place.
#[derive(Clone, Copy)]
struct Placed<'a> {
    tensor: usize,
    demand: &'a Demand,
    place: &'a Place,
}

impl Placed<'_> {
    /// Whether the step that writes this tensor, with its scratch, leaves an earlier
    /// tensor, or this one, as it has to be.
    #[inline(never)]
    fn leaves_room_for(&self, old: Placed, kernel: impl Fn(usize) -> Kernel) -> bool {
        let last = usize::from(old.demand.last);
        if last < self.tensor || old.demand.size == 0 {
            return true;
        }
        let (at, end) = (old.place.offset, old.place.offset + old.demand.size);
        let apart = |start: u32, size: u32| size == 0 || start + size <= at || end <= start;
        let reads = self.demand.inputs.map(usize::from).contains(&old.tensor);
        let (scratch, bytes) = (self.place.scratch, self.demand.scratch);
        let beside = if old.tensor == self.tensor || reads {
            bytes == 0 || end <= scratch
        } else {
            apart(scratch, bytes)
        };
        let to = self.place.offset;
        let may_share = || reads && last == self.tensor && kernel(self.tensor).may_share(at, to);
        beside && (old.tensor == self.tensor || apart(to, self.demand.size) || may_share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Storage;
    use crate::layer::{Padding, Size2, Window};

    fn positions(side: usize, kernel: u8, filters: usize, way: Way) -> Positions {
        let window = Window {
            kernel: Size2::new(kernel, kernel).unwrap(),
            stride: Size2::ONE,
            padding: Padding::Same,
        };
        let out = if way.pooled { side / 2 } else { side };
        Positions {
            window,
            input: Shape::new(side, side, 16).unwrap(),
            output: Shape::new(out, out, filters).unwrap(),
            way,
        }
    }

    #[test]
    fn a_pointwise_layer_writes_behind_what_it_reads() {
        assert_eq!(lag(&positions(8, 1, 16, Way::default())), 0);
        // At the last tile all is written and four positions were still to be read.
        assert_eq!(lag(&positions(8, 1, 32, Way::default())), 64 * 32 - 64 * 16);
    }

    #[test]
    fn a_window_of_three_looks_one_row_back() {
        // Before the last row of 8 is written up to position 7, the row before it
        // is needed from position 2 on.
        let rows = 8;
        let lag = lag(&positions(rows, 3, 16, Way::default()));
        assert_eq!(lag, (rows as i64 + 1) * 16);
    }

    #[test]
    fn no_byte_is_written_before_it_was_read_last() {
        use Storage::{Coded, Dense, Sparse};
        let way = |pooled, storage| Way { pooled, storage };
        for positions in [
            positions(7, 3, 16, way(false, Dense)),
            positions(7, 3, 16, way(false, Sparse)),
            positions(6, 2, 5, way(false, Coded)),
            positions(8, 3, 24, way(true, Dense)),
            positions(10, 3, 24, way(true, Sparse)),
            positions(9, 5, 40, way(false, Sparse)),
        ] {
            let lag = lag(&positions);
            let clash = |lag: i64| clashes(&positions, lag);
            assert!(!clash(lag), "{positions:?}");
            assert!(clash(lag - 1), "{positions:?}");
        }
    }

    /// Walks through all windows and marks what has been overwritten.
    fn clashes(positions: &Positions, lag: i64) -> bool {
        let Positions {
            window,
            input,
            output,
            ..
        } = *positions;
        let (top, left) = window.padding_before(input);
        let mut written = i64::MIN;
        let count = output.height() * output.width();
        for first in (0..count).step_by(positions.way.group()) {
            let outputs = positions.way.group().min(count - first);
            for position in 0..outputs * positions.way.per_output() {
                let (y, x) = positions.at(first, position);
                for (ky, kx) in (0..window.kernel.height())
                    .flat_map(|y| (0..window.kernel.width()).map(move |x| (y, x)))
                {
                    let (Some(iy), Some(ix)) =
                        ((y + ky).checked_sub(top), (x + kx).checked_sub(left))
                    else {
                        continue;
                    };
                    let byte = (iy * input.width() + ix) * input.channels();
                    if iy < input.height() && ix < input.width() && (byte as i64) < written {
                        return true;
                    }
                }
            }
            written = ((first + outputs) * output.channels()) as i64 - lag;
        }
        false
    }
}
