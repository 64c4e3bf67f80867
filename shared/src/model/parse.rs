//! Every check of [`Model::parse`].

use core::ops::Range;

use heapless::Vec;
use serde::Deserialize;

use super::*;
use crate::arith::MAX_BIAS;
use crate::kernels::channels::{Packed, is_packed};
use crate::kernels::coded::{Coded, Damage};
use crate::kernels::sparse::{self, Sparse};
use crate::kernels::{self, conv2d::POOL};
use crate::kernels::{ConvParams, DepthwiseParams, Way};
use crate::layer::{Activation, Padding, Size2, Window};
use crate::plan::{self, Demand, Kernel};

impl<'a> Model<'a> {
    /// Checks everything: length, magic, version, checksum, descriptor, shapes,
    /// scales, parameter ranges, data flow, memory plan.
    ///
    /// `bytes` may be longer than the file, such as a whole slot of flash.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        // In place, and one after the other: a model takes a kilobyte of stack, and so
        // does each of the tables behind these two.
        let mut parsed = Self::read(bytes);
        if let Ok(model) = &mut parsed
            && let Err(error) = model.place_tensors()
        {
            parsed = Err(error);
        }
        parsed
    }

    /// What each tensor asks of the arena, and the kernel that writes it, for the
    /// host to make a plan with. All checks but that of the plan in the file.
    pub fn demands(bytes: &'a [u8]) -> Result<Vec<(Demand, Kernel), MAX_TENSORS>, ParseError> {
        let model = Self::read(bytes)?;
        let mut demands = Vec::new();
        model.tensor_demands(&mut demands);
        let with_kernel = |(tensor, demand)| (demand, model.kernel(tensor));
        Ok(demands.into_iter().enumerate().map(with_kernel).collect())
    }

    /// All checks but that of the plan.
    #[inline(never)] // what it needs is gone before anything is placed or inferred
    fn read(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes)?;
        let mut reader = Reader {
            file: header.file,
            offset: HEADER_BYTES,
            end: header.descriptor_end,
        };
        let head: Head = reader.value()?;
        let input_place = reader.value()?;
        let names = reader.names(head.class_count)?;
        let mut model = Self {
            file: header.file,
            head,
            input_place,
            names,
            nodes: reader.rest(),
            logits: 0,
            confidence: None,
            weights_start: weights_start(header.descriptor_end - HEADER_BYTES) as u32,
            tensors: Vec::new(),
            unstored: 0,
            arena_bytes: 0,
            golden: Golden {
                seed: head.golden_seed,
                output_len: 1,
                expected: &[],
            },
        };
        let blocks_end = model.read_layers(&mut reader)?;
        let layers = model.nodes.len() - reader.rest().len();
        model.nodes = model.nodes.get(..layers).unwrap_or_default();
        model.confidence = reader.confidence()?;
        reader.finish()?;
        model.read_golden(blocks_end)?;
        model.check_parameters()?;
        model.check_readers()?;
        model.unstored = model.fused_convolutions();
        Ok(model)
    }

    /// Reads the layers, fills in the tensors, and gives the offset behind the
    /// last block.
    fn read_layers(&mut self, reader: &mut Reader<'a>) -> Result<u32, ParseError> {
        let count = usize::from(self.head.layer_count);
        if count == 0 || count > MAX_LAYERS {
            return Err(ParseError::LayerCount { count });
        }
        self.push_tensor(self.head.input, self.head.input_quant)?;
        let mut block = self.weights_start;
        for layer in 0..self.head.layer_count {
            let described = reader.described()?;
            let step = Step::new(&described, layer, block);
            block = self.push_layer(&described.0, &step)?;
            self.logits = match step.layer {
                Layer::Softmax => step.inputs[0],
                _ => step.output,
            };
        }
        Ok(block)
    }

    fn push_tensor(&mut self, shape: Shape, quant: Quant) -> Result<(), ParseError> {
        let tensor = self.tensors.len();
        if !(quant.scale.is_finite() && quant.scale > 0.0) {
            return Err(ParseError::Scale { tensor });
        }
        let too_many = ParseError::LayerCount { count: tensor };
        let tensor = Tensor {
            shape,
            scale: quant.scale,
            zero_point: quant.zero_point,
            offset: 0,
        };
        self.tensors.push(tensor).map_err(|_| too_many)
    }

    /// Checks a layer and gives the offset of the next one's block.
    fn push_layer(&mut self, node: &Node, step: &Step) -> Result<u32, ParseError> {
        let layer = usize::from(step.output) - 1;
        let tensor = |index: u8| {
            self.tensors
                .get(usize::from(index))
                .copied()
                .ok_or(ParseError::Source { layer })
        };
        let [a, b] = [tensor(step.inputs[0])?, tensor(step.inputs[1])?];
        let shape = match node.sources {
            Sources::One(_) => node.layer.output_shape(&[a.shape]),
            Sources::Two(..) => node.layer.output_shape(&[a.shape, b.shape]),
        };
        let shape = shape.map_err(|error| ParseError::Shape { layer, error })?;
        if !keeps_scale_rule(node, &a) {
            return Err(ParseError::Rescale {
                layer,
                kind: node.layer.kind(),
            });
        }
        let (start, layout) = (step.block as usize, step.layout);
        self.check_layout(layer, step, a.shape)?;
        let needed = start + block_bytes(&node.layer, layout, a.shape);
        let end = block_end(step.block, &node.layer, layout, a.shape);
        if end as usize > self.file.len() {
            return Err(ParseError::CutOff {
                needed: end as usize,
                available: self.file.len(),
            });
        }
        if let (Layer::DepthwiseConv2d(_), WeightLayout::Dense, Some(params)) =
            (node.layer, layout.weights, node.layer.params(a.shape))
        {
            let padded = start + weight_bytes(&node.layer, layout.weights, params);
            check_zero(self.file, start + params.weights()..padded)?;
        }
        check_zero(self.file, needed..end as usize)?;
        self.push_tensor(shape, node.output)?;
        Ok(end)
    }

    /// Checks weights whose number of bytes the descriptor says.
    fn check_layout(&self, layer: usize, step: &Step, input: Shape) -> Result<(), ParseError> {
        let Some(params) = step.layer.params(input) else {
            return Ok(());
        };
        match step.layout.weights {
            WeightLayout::Dense => Ok(()),
            WeightLayout::Sparse { entries } => {
                if matches!(step.layer, Layer::DepthwiseConv2d(_)) {
                    return Err(ParseError::Layout { layer });
                }
                let entries = MAX_FILE.min(entries as usize);
                let bytes = self.weights(step, sparse::bytes(params.channels, entries))?;
                let parsed = Sparse::parse(bytes, params.channels, params.fan_in);
                parsed.map_or_else(
                    |filter| Err(ParseError::Entries { layer, filter }),
                    |_| Ok(()),
                )
            }
            WeightLayout::Coded { bytes } => {
                let bytes = self.weights(step, bytes as usize)?;
                match Coded::parse(bytes, params) {
                    Ok(_) => Ok(()),
                    Err(Damage::Codebook) => Err(ParseError::Codebook { layer }),
                    Err(Damage::Stream) => Err(ParseError::Stream { layer }),
                }
            }
        }
    }

    /// The weights at the start of a layer's block, which are no longer than the file,
    /// so that no offset overflows.
    fn weights(&self, step: &Step, bytes: usize) -> Result<&'a [u8], ParseError> {
        let start = step.block as usize;
        let needed = start.saturating_add(bytes);
        let available = self.file.len();
        let weights = self.file.get(start..needed);
        weights.ok_or(ParseError::CutOff { needed, available })
    }

    /// Checks that nothing but the self-test's outputs follows the blocks.
    fn read_golden(&mut self, start: u32) -> Result<(), ParseError> {
        let outputs = self.output_shape().len();
        let names = usize::from(self.head.class_count);
        if names != 0 && names != outputs {
            return Err(ParseError::Classes { names, outputs });
        }
        let start = start as usize;
        let golden = usize::from(self.head.golden_count).saturating_mul(outputs);
        let end = start.saturating_add(golden);
        if end > self.file.len() {
            return Err(ParseError::CutOff {
                needed: end,
                available: self.file.len(),
            });
        }
        if end < self.file.len() {
            return Err(ParseError::Stray { offset: end });
        }
        self.golden.output_len = outputs;
        self.golden.expected = bytemuck::cast_slice(self.file.get(start..).unwrap_or_default());
        Ok(())
    }

    fn check_parameters(&self) -> Result<(), ParseError> {
        for (layer, step) in self.steps().enumerate() {
            let channels = self.params(&step).map_or(0, |params| params.channels);
            let wrong = |channel: usize, bias: i32, valid: bool, zero: bool| {
                let valid = valid && bias.unsigned_abs() <= MAX_BIAS as u32;
                !valid || channel >= channels && !(zero && bias == 0)
            };
            let wrong = match self.data(&step) {
                Data::Conv(ConvParams { channels: of, .. })
                | Data::Depthwise(DepthwiseParams { channels: of, .. }) => match of {
                    Channels::Compact(words) => wrong_word(words, channels),
                    Channels::Wide { .. } => of.iter().enumerate().position(|(channel, (b, f))| {
                        let zero = f.mantissa() == 0 && f.shift() == 0;
                        wrong(channel, b, is_normal(f), zero)
                    }),
                },
                Data::Dense(DenseParams { units, .. }) => match units {
                    Units::Compact(words) => wrong_word(words, channels),
                    Units::Wide { .. } => units.iter().enumerate().position(|(channel, (b, f))| {
                        wrong(channel, b, is_finite_and_not_negative(f), f.to_bits() == 0)
                    }),
                },
                Data::Add(_) | Data::Softmax(_) => self.wrong_pair(&step),
                Data::None => None,
            };
            if let Some(channel) = wrong {
                return Err(ParseError::Parameter { layer, channel });
            }
        }
        Ok(())
    }

    /// The first pair of mantissa and shift, both whole words, out of range.
    fn wrong_pair(&self, step: &Step) -> Option<usize> {
        let input = self.tensor(step.inputs[0]).shape;
        let bytes = block_bytes(&step.layer, step.layout, input);
        let start = step.block as usize;
        let block = self.file.get(start..start + bytes).unwrap_or_default();
        let (pairs, _) = block.as_chunks::<8>();
        let in_range = |(index, &[a, b, c, d, e, f, g, h]): (usize, &[u8; 8])| {
            let mantissa = i32::from_le_bytes([a, b, c, d]);
            let shift = i32::from_le_bytes([e, f, g, h]);
            let side = match step.layer {
                // Both inputs are scaled down, so their sum fits.
                Layer::Add(_) if index < 2 => shift <= 0,
                Layer::Softmax => shift >= 0,
                _ => true,
            };
            side && Multiplier::new(mantissa, shift).is_some()
        };
        pairs.iter().enumerate().position(|pair| !in_range(pair))
    }

    /// The convolutions, as bits of their outputs, whose only reader is a max
    /// pool of the next layer with windows of 2x2 side by side and no activation
    /// of its own.
    fn fused_convolutions(&self) -> u128 {
        let mut fused = 0;
        for (conv, pool) in self.steps().zip(self.steps().skip(1)) {
            let side_by_side = Size2::new(POOL as u8, POOL as u8).is_some_and(|two| {
                let window = pool.layer.window(self.tensor(pool.inputs[0]).shape);
                window.is_some_and(|window| {
                    let Window {
                        kernel,
                        stride,
                        padding,
                    } = window;
                    (kernel, stride, padding) == (two, two, Padding::Valid)
                })
            });
            let readers = self
                .steps()
                .filter(|step| step.inputs.contains(&conv.output));
            let fits = matches!(conv.layer, Layer::Conv2d(_))
                && matches!(pool.layer, Layer::MaxPool2d(_))
                && pool.layer.activation() == Activation::None
                && side_by_side
                && pool.inputs[0] == conv.output
                && readers.count() == 1;
            fused |= u128::from(fits) << conv.output;
        }
        fused
    }

    /// [`ParseError::Unused`] where nobody reads a tensor that is not the output.
    fn check_readers(&self) -> Result<(), ParseError> {
        let read = |tensor: &usize| {
            let reads = |step: Step| step.inputs.map(usize::from).contains(tensor);
            self.steps().any(reads)
        };
        match (0..usize::from(self.head.layer_count)).find(|tensor| !read(tensor)) {
            Some(tensor) => Err(ParseError::Unused { tensor }),
            None => Ok(()),
        }
    }

    /// Takes over the plan, which has to meet every tensor's demand.
    #[inline(never)] // its tables are gone before anything is inferred
    fn place_tensors(&mut self) -> Result<(), ParseError> {
        let mut demands = Vec::new();
        self.tensor_demands(&mut demands);
        let mut places: Vec<Place, MAX_TENSORS> = Vec::new();
        // The list has room for every tensor, so no push is refused.
        let _ = places.push(self.input_place);
        for step in self.steps() {
            let _ = places.push(step.place);
        }
        let peak = plan::check(&places, &demands, |tensor| self.kernel(tensor));
        let peak = peak.map_err(|tensor| ParseError::Plan { tensor })?;
        let side_by_side: u64 = demands.iter().map(Demand::aligned).sum();
        let arena = peak.checked_add(plan::ALIGN - 1);
        let arena = arena.filter(|_| u64::from(peak) <= side_by_side);
        self.arena_bytes = arena.ok_or(ParseError::Arena { bytes: peak })?;
        for (tensor, place) in self.tensors.iter_mut().zip(&places) {
            tensor.offset = place.offset;
        }
        Ok(())
    }

    /// Adds what each tensor asks of the arena.
    fn tensor_demands(&self, demands: &mut Vec<Demand, MAX_TENSORS>) {
        // The list has room for every tensor, so no push is refused.
        let _ = demands.push(Demand::new(0, [0; 2], self.input_shape().len()));
        for (step, conv) in self.computed_steps() {
            let owner = |index: u8| demands.get(usize::from(index)).map_or(index, |d| d.owner);
            let inputs = conv.inputs.map(owner);
            let output = self.tensor(step.output).shape;
            let demand = if step.layer == Layer::Flatten {
                Demand {
                    owner: inputs[0],
                    ..Demand::new(step.output, inputs, 0)
                }
            } else if !self.is_stored(step.output) {
                Demand::new(step.output, [step.output; 2], 0)
            } else {
                let input = self.tensor(conv.inputs[0]).shape;
                let way = way(&step, &conv);
                Demand {
                    scratch: kernels::scratch_bytes(&conv.layer, input, output, way) as u32,
                    ..Demand::new(step.output, inputs, output.len())
                }
            };
            for input in demand.inputs {
                if let Some(input) = demands.get_mut(usize::from(input)) {
                    input.last = step.output;
                }
            }
            let _ = demands.push(demand);
        }
        // What goes out is read after the last step.
        let output = demands.last().map_or(0, |demand| demand.owner);
        if let Some(output) = demands.get_mut(usize::from(output)) {
            output.last = u8::MAX;
        }
    }

    /// The kernel that writes a tensor.
    fn kernel(&self, tensor: usize) -> Kernel {
        let writes = |(step, _): &(Step, Step)| usize::from(step.output) == tensor;
        let Some((step, conv)) = self.computed_steps().find(writes) else {
            return Kernel::Other;
        };
        let input = self.tensor(conv.inputs[0]).shape;
        let output = self.tensor(step.output).shape;
        Kernel::of(&conv.layer, input, output, way(&step, &conv))
    }

    /// Each step with the one whose kernel computes it: itself, or for a pool that
    /// is fused, the convolution before it.
    fn computed_steps(&self) -> impl Iterator<Item = (Step, Step)> {
        let mut fused = None;
        self.steps().map(move |step| {
            let computed = fused.take().unwrap_or(step);
            if !self.is_stored(step.output) {
                fused = Some(step);
            }
            (step, computed)
        })
    }
}

/// How the kernel of `computed` computes what `step` writes.
fn way(step: &Step, computed: &Step) -> Way {
    Way {
        pooled: computed.output != step.output,
        storage: computed.layout.weights.storage(),
    }
}

/// The first compact channel without a factor, or where something follows the last one.
fn wrong_word(words: &[Packed], channels: usize) -> Option<usize> {
    words.iter().enumerate().position(|(channel, &word)| {
        let valid = if channel < channels {
            is_packed(word)
        } else {
            word == [0; 4]
        };
        !valid
    })
}

fn is_normal(factor: Multiplier) -> bool {
    Multiplier::new(factor.mantissa(), factor.shift().into()).is_some()
}

/// By its bits: comparing `f64` is code of its own on a chip. -0 counts as 0.
fn is_finite_and_not_negative(factor: f64) -> bool {
    let bits = factor.to_bits();
    bits < f64::INFINITY.to_bits() || bits == (-0.0f64).to_bits()
}

struct Header<'a> {
    file: &'a [u8],
    descriptor_end: usize,
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let cut_off = |needed| ParseError::CutOff {
            needed,
            available: bytes.len(),
        };
        let seen = bytes.len().min(MAGIC.len());
        if bytes.get(..seen) != MAGIC.get(..seen) {
            return Err(ParseError::Magic);
        }
        let (header, _) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(cut_off(HEADER_BYTES))?;
        let [
            ..,
            v0,
            v1,
            _,
            _,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let found = u16::from_le_bytes([v0, v1]);
        if found != VERSION {
            return Err(ParseError::Version { found });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_FILE {
            return Err(ParseError::TooLong { length });
        }
        if length < HEADER_BYTES {
            return Err(ParseError::CutOff {
                needed: HEADER_BYTES,
                available: length,
            });
        }
        let file = bytes.get(..length).ok_or(cut_off(length))?;
        let stored = u32::from_le_bytes([c0, c1, c2, c3]);
        let found = crc32(file);
        if stored != found {
            return Err(ParseError::Crc { stored, found });
        }
        check_zero(file, RESERVED_RANGE)?;
        let descriptor_end = (u32::from_le_bytes([d0, d1, d2, d3]) as usize)
            .checked_add(HEADER_BYTES)
            .filter(|&end| end <= length)
            .ok_or(ParseError::Descriptor { offset: 20 })?;
        Ok(Self {
            file,
            descriptor_end,
        })
    }
}

/// Reads the descriptor's values one after the other.
struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn value<T: Deserialize<'a>>(&mut self) -> Result<T, ParseError> {
        let error = ParseError::Descriptor {
            offset: self.offset,
        };
        let (value, left) = postcard::take_from_bytes(self.rest()).map_err(|_| error)?;
        self.offset = self.end - left.len();
        Ok(value)
    }

    fn described(&mut self) -> Result<Described, ParseError> {
        let error = ParseError::Descriptor {
            offset: self.offset,
        };
        let (described, left) = take_described(self.rest()).map_err(|_| error)?;
        self.offset = self.end - left.len();
        Ok(described)
    }

    fn rest(&self) -> &'a [u8] {
        self.file.get(self.offset..self.end).unwrap_or_default()
    }

    fn names(&mut self, count: u16) -> Result<&'a [u8], ParseError> {
        let start = self.offset;
        for index in 0..usize::from(count) {
            let offset = self.offset;
            let length = self.value::<&str>()?.len();
            if length > MAX_NAME {
                return Err(ParseError::Name { index });
            }
            // One byte holds the length. More would be a number that a 64-bit
            // host reads and a 32-bit chip may refuse.
            if self.offset - offset != 1 + length {
                return Err(ParseError::Descriptor { offset });
            }
        }
        Ok(self.file.get(start..self.offset).unwrap_or_default())
    }

    /// What may lie behind the layers.
    fn confidence(&mut self) -> Result<Option<Confidence>, ParseError> {
        if self.rest().is_empty() {
            return Ok(None);
        }
        let confidence: Confidence = self.value()?;
        let Confidence {
            temperature,
            pictures,
            answered,
            correct,
            ..
        } = confidence;
        let positive = temperature.is_finite() && temperature > 0.0;
        match positive && correct <= answered && answered <= pictures {
            true => Ok(Some(confidence)),
            false => Err(ParseError::Confidence),
        }
    }

    /// Nothing may be left but zeroes up to the weight section.
    fn finish(&self) -> Result<(), ParseError> {
        if self.offset != self.end {
            return Err(ParseError::Stray {
                offset: self.offset,
            });
        }
        let start = weights_start(self.end - HEADER_BYTES).min(self.file.len());
        check_zero(self.file, self.end..start)
    }
}

fn check_zero(file: &[u8], range: Range<usize>) -> Result<(), ParseError> {
    let padding = file.get(range.clone()).unwrap_or_default();
    match padding.iter().position(|&byte| byte != 0) {
        Some(at) => Err(ParseError::Stray {
            offset: range.start + at,
        }),
        None => Ok(()),
    }
}

/// Pools and flatten pass values through; softmax always writes
/// [`SOFTMAX_QUANT`].
fn keeps_scale_rule(node: &Node, input: &Tensor) -> bool {
    match node.layer {
        Layer::MaxPool2d(_) | Layer::AvgPool2d(_) | Layer::GlobalAvgPool2d | Layer::Flatten => {
            node.output.scale == input.scale && node.output.zero_point == input.zero_point
        }
        Layer::Softmax => node.output == SOFTMAX_QUANT,
        _ => true,
    }
}
