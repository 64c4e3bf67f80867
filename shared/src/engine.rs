//! One inference.

use core::ops::Range;

use crate::arith::Clamp;
use crate::kernels::add::add;
use crate::kernels::depthwise_conv2d::depthwise_conv2d;
use crate::kernels::pool2d::avg_pool2d;
use crate::kernels::softmax::softmax;
use crate::kernels::target::{conv2d, conv2d_max_pool2d, dense, max_pool2d};
use crate::kernels::{Input, Output};
use crate::layer::Layer;
use crate::model::{Data, Model, Step, Tensor};

/// The arena is smaller than the model's plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the model needs an arena of {needed} bytes and got {available}")]
pub struct ArenaTooSmall {
    /// Bytes the plan needs.
    pub needed: usize,
    /// Bytes given.
    pub available: usize,
}

/// A model and the memory it works in.
#[derive(Debug)]
pub struct Engine<'m, 'a> {
    model: &'m Model<'m>,
    arena: &'a mut [i8],
}

impl<'m, 'a> Engine<'m, 'a> {
    /// Takes the arena, which needs no initial content, or says how large it
    /// has to be. It may start at any address.
    pub fn new(model: &'m Model<'m>, arena: &'a mut [i8]) -> Result<Self, ArenaTooSmall> {
        let (needed, available) = (model.arena_bytes(), arena.len());
        match arena.get_mut(..needed) {
            Some(arena) => Ok(Self { model, arena }),
            None => Err(ArenaTooSmall { needed, available }),
        }
    }

    /// One inference: `fill` writes the input, quantised and in NHWC order,
    /// into the arena; the answer is the output of the last layer. It cannot
    /// fail. The input does not outlive the call: its bytes are used again by
    /// later layers.
    pub fn infer(&mut self, fill: impl FnOnce(&mut [i8])) -> &[i8] {
        fill(&mut self.arena[self.model.input().range()]);
        let mut steps = self.model.steps();
        while let Some(step) = steps.next() {
            if self.model.is_stored(step.output) {
                self.run(&step);
            } else if let Some(pool) = steps.next() {
                self.run_fused(&step, &pool);
            }
        }
        &self.arena[self.model.output().range()]
    }

    /// A convolution and the pool behind it, whose input is never stored.
    fn run_fused(&mut self, conv: &Step, pool: &Step) {
        let input = self.model.tensor(conv.inputs[0]);
        let unpooled = self.model.tensor(conv.output).shape;
        let out = self.model.tensor(pool.output);
        let (tensors, scratch) = self.arena.split_at_mut(self.model.scratch_start());
        let (data, _, data_out) = split(tensors, input.range(), input.range(), out.range());
        let window = conv.layer.window(input.shape);
        if let (Some(window), Data::Conv(params)) = (window, self.model.data(conv)) {
            conv2d_max_pool2d(
                window,
                read(input, data),
                params,
                unpooled,
                write(out, conv.clamp, data_out),
                words(scratch),
            );
        }
    }

    fn run(&mut self, step: &Step) {
        let [a, b] = step.inputs.map(|index| self.model.tensor(index));
        let out = self.model.tensor(step.output);
        if matches!(step.layer, Layer::Flatten) {
            return; // the same bytes under another shape
        }
        let (tensors, scratch) = self.arena.split_at_mut(self.model.scratch_start());
        let (data_a, data_b, data_out) = split(tensors, a.range(), b.range(), out.range());
        let input = read(a, data_a);
        let output = write(out, step.clamp, data_out);
        let window = step.layer.window(a.shape);
        match (step.layer, window, self.model.data(step)) {
            (Layer::Conv2d(_), Some(window), Data::Conv(params)) => {
                conv2d(window, input, params, output, words(scratch));
            }
            (Layer::DepthwiseConv2d(_), Some(window), Data::Conv(params)) => {
                depthwise_conv2d(window, input, params, output);
            }
            (Layer::Dense(_), _, Data::Dense(params)) => dense(input, params, output),
            (Layer::MaxPool2d(_), Some(window), _) => max_pool2d(window, input, output),
            (Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d, Some(window), _) => {
                avg_pool2d(window, input, output);
            }
            (Layer::Add(_), _, Data::Add(factors)) => add(input, read(b, data_b), factors, output),
            (Layer::Softmax, _, Data::Softmax(factor)) => softmax(input, factor, output),
            _ => {} // parse lets no other combination through
        }
    }
}

fn read<'a>(tensor: &Tensor, data: &'a [i8]) -> Input<'a> {
    Input {
        shape: tensor.shape,
        zero_point: tensor.zero_point.into(),
        data,
    }
}

fn write<'a>(tensor: &Tensor, clamp: Clamp, data: &'a mut [i8]) -> Output<'a> {
    Output {
        shape: tensor.shape,
        zero_point: tensor.zero_point.into(),
        clamp,
        data,
    }
}

/// The aligned words of the scratch; the plan has room for what alignment
/// skips.
fn words(scratch: &mut [i8]) -> &mut [u32] {
    let skipped = scratch.as_ptr().align_offset(align_of::<u32>());
    let aligned = scratch.get_mut(skipped..).unwrap_or_default();
    let whole = aligned.len() - aligned.len() % size_of::<u32>();
    let bytes = aligned.get_mut(..whole).unwrap_or_default();
    bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()
}

/// Two ranges to read and one to write; the plan keeps the last apart from the
/// other two, which may overlap.
fn split(
    arena: &mut [i8],
    a: Range<usize>,
    b: Range<usize>,
    out: Range<usize>,
) -> (&[i8], &[i8], &mut [i8]) {
    let (head, rest) = arena.split_at_mut(out.start);
    let (written, tail) = rest.split_at_mut(out.len());
    let (head, tail) = (&*head, &*tail);
    let pick = |range: Range<usize>| {
        if range.end <= out.start {
            &head[range]
        } else {
            &tail[range.start - out.end..range.end - out.end]
        }
    };
    (pick(a), pick(b), written)
}
