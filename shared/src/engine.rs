//! One inference.

use crate::kernels::conv2d::{Conv2d, conv2d};
use crate::kernels::dense::dense;
use crate::kernels::depthwise_conv2d::{DepthwiseConv2d, depthwise_conv2d};
use crate::kernels::pool2d::avg_pool2d;
use crate::kernels::softmax::softmax;
use crate::kernels::target::{add, max_pool2d};
use crate::kernels::{Input, Memory, Output, View};
use crate::layer::{Layer, Window};
use crate::model::{Data, Model, Step, Tensor};
use crate::{argmax, margin};

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
        if available < needed {
            return Err(ArenaTooSmall { needed, available });
        }
        // The plan has room for what alignment skips.
        let skipped = arena.as_ptr().align_offset(align_of::<u32>());
        let arena = arena.get_mut(skipped..needed).unwrap_or_default();
        Ok(Self { model, arena })
    }

    /// One inference: `fill` writes the input, quantised and in NHWC order,
    /// into the arena; the answer is the output of the last layer. It cannot
    /// fail. The input does not outlive the call: its bytes are used again by
    /// later layers.
    pub fn infer(&mut self, fill: impl FnOnce(&mut [i8])) -> &[i8] {
        self.infer_observed(fill, |_, _| {})
    }

    /// As [`Engine::infer`], and calls `done` with the number of each layer, from 0, and
    /// what it has computed, for whoever wants to know how long each one takes or where
    /// two machines part. A convolution that is computed together with the max pool
    /// behind it is not told apart from that: both are done when the pool is.
    pub fn infer_observed(
        &mut self,
        fill: impl FnOnce(&mut [i8]),
        mut done: impl FnMut(usize, &[i8]),
    ) -> &[i8] {
        fill(
            self.arena
                .get_mut(self.model.input().range())
                .unwrap_or_default(),
        );
        let mut steps = self.model.steps();
        while let Some(step) = steps.next() {
            let last = if self.model.is_stored(step.output) {
                Some(step)
            } else {
                steps.next()
            };
            if let Some(last) = last {
                self.run(&step, &last);
                let output = self.model.tensor(last.output).range();
                done(
                    usize::from(last.output) - 1,
                    self.arena.get(output).unwrap_or_default(),
                );
            }
        }
        self.arena
            .get(self.model.output().range())
            .unwrap_or_default()
    }

    /// The class that the last inference has found: the position of the largest of the
    /// [`Engine::logits`], the first of equals. Before a softmax the scores of small logits,
    /// or of certain answers, are still apart. Anything before the first inference.
    pub fn answer(&self) -> usize {
        argmax(self.logits())
    }

    /// Whether the last inference is sure enough of its answer: whether the largest of the
    /// logits is as far above the second as [`Model::confidence`] asks for. A comparison of
    /// integers, the same on every machine.
    pub fn is_sure(&self) -> bool {
        let confidence = self.model.confidence();
        confidence.is_none_or(|confidence| margin(self.logits()) >= confidence.margin)
    }

    /// What the last inference has computed for each class, before a softmax; scale and zero
    /// point are those of [`Model::logits`]. Anything before the first inference.
    pub fn logits(&self) -> &[i8] {
        self.arena
            .get(self.model.logits().range())
            .unwrap_or_default()
    }

    /// Runs a layer; `last` is the layer itself, or the max pool that a convolution
    /// is computed with.
    fn run(&mut self, step: &Step, last: &Step) {
        let [a, b] = step.inputs.map(|index| *self.model.tensor(index));
        let out = *self.model.tensor(last.output);
        let window = step.layer.window(a.shape);
        match (step.layer, window, self.model.data(step)) {
            (Layer::Conv2d(_), Some(window), Data::Conv(params)) => {
                let conv = Conv2d {
                    window,
                    input: view(&a),
                    params,
                    output: view(&out),
                    clamp: step.clamp,
                    pooled: step.output != last.output,
                };
                conv2d(self.memory(last), conv);
            }
            (Layer::DepthwiseConv2d(_), Some(window), Data::Depthwise(params)) => {
                let conv = DepthwiseConv2d {
                    window,
                    input: view(&a),
                    params,
                    output: view(&out),
                    clamp: step.clamp,
                };
                depthwise_conv2d(self.memory(last), conv);
            }
            (Layer::Add(_), _, Data::Add(factors)) => {
                let (a, b, out) = (view(&a), view(&b), view(&out));
                add(self.arena, a, b, factors, out, step.clamp);
            }
            (_, window, data) => self.run_apart(step, window, data),
        }
    }

    /// Runs a layer whose output shares no byte with its input.
    fn run_apart(&mut self, step: &Step, window: Option<Window>, data: Data) {
        let a = self.model.tensor(step.inputs[0]);
        let out = self.model.tensor(step.output);
        if step.layer == Layer::Flatten {
            return; // the same bytes under another shape
        }
        let memory = self.memory(step);
        let Ok([input, output]) = memory.tensors.get_disjoint_mut([a.range(), out.range()]) else {
            return; // the plan keeps them apart
        };
        let input = Input {
            shape: a.shape,
            zero_point: a.zero_point.into(),
            data: input,
        };
        let output = Output {
            shape: out.shape,
            zero_point: out.zero_point.into(),
            clamp: step.clamp,
            data: output,
        };
        match (step.layer, window, data) {
            (Layer::Dense(_), _, Data::Dense(params)) => {
                dense(input, params, output, memory.scratch);
            }
            (Layer::MaxPool2d(_), Some(window), _) => max_pool2d(window, input, output),
            (Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d, Some(window), _) => {
                avg_pool2d(window, input, output);
            }
            (Layer::Softmax, _, Data::Softmax(factor)) => softmax(input, factor, output),
            _ => {} // parse lets no other combination through
        }
    }

    /// The arena, cut where the scratch of a layer begins.
    fn memory(&mut self, step: &Step) -> Memory<'_> {
        let scratch = step.place.scratch as usize;
        let (tensors, scratch) = if scratch == 0 {
            (&mut *self.arena, Default::default())
        } else {
            self.arena.split_at_mut_checked(scratch).unwrap_or_default()
        };
        // A slice of whole words, and aligned as the arena and the offset are.
        let whole = scratch.len() - scratch.len() % size_of::<u32>();
        let words = bytemuck::try_cast_slice_mut(scratch.get_mut(..whole).unwrap_or_default());
        Memory {
            tensors,
            scratch: words.unwrap_or_default(),
        }
    }
}

fn view(tensor: &Tensor) -> View {
    View {
        shape: tensor.shape,
        zero_point: tensor.zero_point.into(),
        start: tensor.offset as usize,
    }
}
