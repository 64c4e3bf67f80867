//! What is computed of one step: loss and gradients of some of its pictures.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

use super::TrainOptions;
use super::batch::{Batches, Prepared, Shard};
use super::dropout::Dropout;
use super::loss::{Goal, Loss};
use super::teacher::{Lesson, Taught};
use super::workers::Workers;
#[cfg(feature = "candle")]
use crate::candle::{CandleNetwork, Found};
use crate::checkpoint::Checkpoint;
use crate::network::{FloatNetwork, Network, numbers};

/// One step, for all who compute parts of it.
pub(super) struct Task<'a> {
    pub batches: &'a Batches<'a>,
    pub loss: &'a Loss,
    pub lesson: Option<&'a Lesson<'a>>,
    pub options: &'a TrainOptions,
    /// Which, from 0.
    pub step: usize,
    /// In the whole batch.
    pub pictures: usize,
}

/// What was found out about some pictures of a batch.
pub(super) struct Learned {
    /// On the Flex device.
    pub gradients: GradientsParams,
    /// The pictures' part of the mean over the batch.
    pub loss: f32,
    /// How many were answered rightly.
    pub right: usize,
    /// Of batch normalisation, where they are not in the network yet: names and values.
    pub statistics: Vec<(String, Vec<f32>)>,
}

#[cfg(feature = "candle")]
impl From<Found<usize>> for Learned {
    fn from(found: Found<usize>) -> Self {
        Self {
            gradients: found.gradients,
            loss: found.loss,
            right: found.more,
            statistics: found.statistics,
        }
    }
}

/// Shards with their numbers in the batch.
pub(super) type Numbered = (usize, Shard);

/// The sides of a network that is divided between two devices, with gradients.
pub(super) struct Sides<'a> {
    /// That of the layers before.
    pub front: &'a Device,
    /// That of the layer `at` and those behind.
    pub back: &'a Device,
    pub at: usize,
}

/// Which side of a network did not answer, and why.
pub(super) struct Silent {
    pub back: bool,
    pub reason: String,
}

/// What a network is asked, on a device.
struct Question {
    input: Tensor<4>,
    goal: Goal,
    labels: Vec<usize>,
    dropout: Dropout,
}

impl Task<'_> {
    /// On the cores of this machine, shard by shard. Statistics of batch normalisation go
    /// to the network at once.
    pub(super) fn on_cores(
        &self,
        workers: &Workers,
        network: &FloatNetwork,
        shards: Vec<Numbered>,
    ) -> Vec<Learned> {
        let device = Device::flex().autodiff();
        workers.map(shards, |shard: Numbered| {
            // A copy of its own for each, or they would wait for each other.
            let network = match shard.1.whole {
                true => network.clone(),
                false => network.valid().train(),
            };
            let Question {
                input,
                goal,
                labels,
                dropout,
            } = self.question(&[shard], &device);
            let logits = network.logits_through(input, &|layer, x| dropout.apply(layer, x));
            let right = count_right(&numbers(logits.clone().inner()), &labels);
            let loss = self.part_of_mean(logits, &goal);
            Learned {
                loss: numbers(loss.clone().inner()).into_iter().sum(),
                right,
                gradients: GradientsParams::from_grads(loss.backward(), &network),
                statistics: Vec::new(),
            }
        })
    }

    /// The same on Candle, whose network it is; the statistics come back.
    #[cfg(feature = "candle")]
    pub(super) fn on_candle(
        &self,
        candle: &CandleNetwork,
        workers: &Workers,
        network: &FloatNetwork,
        shards: Vec<Numbered>,
    ) -> Vec<Learned> {
        let device = Device::flex().autodiff();
        workers.map(shards, |shard: Numbered| {
            let Question {
                input,
                goal,
                labels,
                dropout,
            } = self.question(&[shard], &device);
            let judge = |logits: Tensor<2>| {
                let right = count_right(&numbers(logits.clone().inner()), &labels);
                (self.part_of_mean(logits, &goal), right)
            };
            let drop = |layer, ones| dropout.apply(layer, ones);
            let drop = (dropout.share > 0.0).then_some(drop);
            Learned::from(candle.learn(network, input, drop, judge))
        })
    }

    /// On another device with gradients, all shards at once, by the present tensors of the
    /// checkpoint. All that comes back comes in one piece: a network has as many tensors
    /// as a connection has delays to wait for otherwise.
    pub(super) fn on_device(
        &self,
        device: &Device,
        checkpoint: &Checkpoint,
        shards: &[Numbered],
    ) -> Result<Learned, String> {
        let network = FloatNetwork::new(checkpoint, device);
        let Question {
            input,
            goal,
            labels,
            dropout,
        } = self.question(shards, device);
        let logits = network.logits_through(input, &|layer, x| dropout.apply(layer, x));
        let mut parcel = Parcel::default();
        parcel.put(logits.clone());
        let loss = self.part_of_mean(logits, &goal);
        parcel.put(loss.clone());
        let mut gradients = GradientsParams::from_grads(loss.backward(), &network);
        let kinds = parcel.put_gradients(&mut gradients, &network);
        let names = parcel.put_statistics(&network, 0..usize::MAX);
        let mut received = parcel.fetch()?;
        let classes = checkpoint.network.classes();
        Ok(Learned {
            right: count_right(&received.take(labels.len() * classes), &labels),
            loss: received.take(1).into_iter().sum(),
            gradients: received.take_gradients(kinds, &network),
            statistics: received.take_named(names),
        })
    }

    /// With a network that is divided between two devices. Activations go to the back and
    /// their gradients come back by way of this machine, which reaches both.
    pub(super) fn on_sides(
        &self,
        sides: &Sides,
        checkpoint: &Checkpoint,
        shards: &[Numbered],
    ) -> Result<Learned, Silent> {
        let Sides { front, back, at } = *sides;
        let in_front = |reason| Silent {
            back: false,
            reason,
        };
        let behind = |reason| Silent { back: true, reason };
        let network = FloatNetwork::placed(checkpoint, |node| if node < at { front } else { back });
        let Question {
            input,
            goal,
            labels,
            dropout,
        } = self.question(shards, back);
        let dropped = |layer, x| dropout.apply(layer, x);
        let crossing = crossing(&checkpoint.network, at);

        let values = network.go_on(vec![moved(input, front)], at, &dropped);
        let mut parcel = Parcel::default();
        crossing
            .iter()
            .for_each(|&value| parcel.put(values[value].clone()));
        let mut received = parcel.fetch().map_err(in_front)?;

        // Leaves on the other side, whose gradients are what the front is told.
        let nothing = Tensor::zeros([1, 1, 1, 1], back);
        let mut arrived = vec![nothing; values.len()];
        for &value in &crossing {
            let dims = values[value].dims();
            arrived[value] = received.take_tensor(dims, back).require_grad();
        }
        let logits = network.head(arrived.clone(), &dropped);
        let mut parcel = Parcel::default();
        parcel.put(logits.clone());
        let loss = self.part_of_mean(logits, &goal);
        parcel.put(loss.clone());
        let mut all = loss.backward();
        let mut told = Vec::new();
        for &value in &crossing {
            if let Some(gradient) = arrived[value].grad_remove(&mut all) {
                parcel.put(gradient);
                told.push(value);
            }
        }
        let mut gradients = GradientsParams::from_grads(all, &network);
        let back_kinds = parcel.put_gradients(&mut gradients, &network);
        let back_names = parcel.put_statistics(&network, at..usize::MAX);
        let mut received = parcel.fetch().map_err(behind)?;
        let classes = checkpoint.network.classes();
        let mut learned = Learned {
            right: count_right(&received.take(labels.len() * classes), &labels),
            loss: received.take(1).into_iter().sum(),
            gradients: GradientsParams::new(),
            statistics: Vec::new(),
        };

        // The gradient of the sum of the products is the gradient by way of the back.
        let product = |&value: &usize| {
            let gradient = received.take_tensor(values[value].dims(), front);
            (values[value].clone() * gradient).sum()
        };
        let products: Vec<Tensor<1>> = told.iter().map(product).collect();
        learned.gradients = received.take_gradients(back_kinds, &network);
        learned.statistics = received.take_named(back_names);
        let has_parameters = |node| checkpoint.network.params(node).is_some();
        if checkpoint.network.nodes.iter().take(at).any(has_parameters)
            && let Some(sum) = products.into_iter().reduce(|sum, product| sum + product)
        {
            let mut gradients = GradientsParams::from_grads(sum.backward(), &network);
            let mut parcel = Parcel::default();
            let kinds = parcel.put_gradients(&mut gradients, &network);
            let names = parcel.put_statistics(&network, 0..at);
            let mut received = parcel.fetch().map_err(in_front)?;
            received.add_gradients(kinds, &network, &mut learned.gradients);
            learned.statistics.extend(received.take_named(names));
        }
        Ok(learned)
    }

    /// Pictures and answers are made on this machine, the teacher's too.
    fn question(&self, shards: &[Numbered], device: &Device) -> Question {
        let here = Device::flex().autodiff();
        let dropout = Dropout {
            share: self.options.dropout,
            seed: self.options.seed,
            step: self.step,
            shards: shards
                .iter()
                .map(|(number, shard)| (*number, shard.len()))
                .collect(),
        };
        let shard = Shard::joined(shards.iter().map(|(_, shard)| shard));
        let Prepared {
            input,
            targets,
            labels,
            keys,
        } = self.batches.prepare(&shard, &here);
        let taught = self.lesson.map(|lesson| lesson.answers(&input, &keys));
        let taught = taught.map(|taught| Taught {
            answers: moved(taught.answers, device),
            ..taught
        });
        Question {
            input: moved(input, device),
            goal: Goal {
                targets: moved(targets, device),
                taught,
            },
            labels,
            dropout,
        }
    }

    /// Over all pictures of the batch, so that the sum over its parts is the mean, whatever
    /// their number and sizes.
    fn part_of_mean(&self, logits: Tensor<2>, goal: &Goal) -> Tensor<1> {
        self.loss.sum(logits, goal) / self.pictures as f64
    }
}

/// The values (0 is the input, n the output of node n - 1) that a network divided before
/// node `at` needs on the other side.
pub(super) fn crossing(network: &Network, at: usize) -> Vec<usize> {
    let behind = network.nodes.iter().skip(at);
    let mut values: Vec<usize> = behind
        .flat_map(|node| node.inputs.iter().copied())
        .collect();
    values.retain(|&value| value <= at);
    values.sort_unstable();
    values.dedup();
    values
}

/// The same numbers on a device, without their history. They come from this machine's
/// memory, which can always be read.
fn moved<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    match tensor.device() == *device {
        true => tensor,
        false => Tensor::from_data(tensor.into_data(), device),
    }
}

/// Tensors that leave a device in one piece.
#[derive(Default)]
struct Parcel(Vec<Tensor<1>>);

impl Parcel {
    fn put<const D: usize>(&mut self, tensor: Tensor<D>) {
        let tensor = match tensor.device().is_autodiff() {
            true => tensor.inner(),
            false => tensor,
        };
        let elements = tensor.dims().iter().product::<usize>();
        self.0.push(tensor.reshape([elements]));
    }

    /// Those that there are, and of which parameters they are.
    fn put_gradients(
        &mut self,
        gradients: &mut GradientsParams,
        network: &FloatNetwork,
    ) -> Vec<ParamId> {
        let mut pack = Pack {
            parcel: self,
            gradients,
            packed: Vec::new(),
        };
        network.visit(&mut pack);
        pack.packed
    }

    /// Those of some nodes: their names and lengths.
    fn put_statistics(
        &mut self,
        network: &FloatNetwork,
        nodes: std::ops::Range<usize>,
    ) -> Vec<(String, usize)> {
        let statistics = network.statistics(nodes).into_iter();
        let put = |(name, values): (String, Tensor<1>)| {
            let length = values.dims()[0];
            self.put(values);
            (name, length)
        };
        statistics.map(put).collect()
    }

    fn fetch(self) -> Result<Received, String> {
        if self.0.is_empty() {
            return Ok(Received(Vec::new().into_iter()));
        }
        let data = Tensor::cat(self.0, 0)
            .try_into_data()
            .map_err(|error| error.to_string())?;
        let values: Vec<f32> = data.iter::<f32>().collect();
        Ok(Received(values.into_iter()))
    }
}

/// What was in a [`Parcel`], in the order in which it was put there.
struct Received(std::vec::IntoIter<f32>);

impl Received {
    fn take(&mut self, count: usize) -> Vec<f32> {
        self.0.by_ref().take(count).collect()
    }

    fn take_tensor<const D: usize>(&mut self, dims: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.take(dims.iter().product());
        Tensor::from_data(TensorData::new(values, dims), device)
    }

    fn take_named(&mut self, names: Vec<(String, usize)>) -> Vec<(String, Vec<f32>)> {
        let take = |(name, length)| (name, self.take(length));
        names.into_iter().map(take).collect()
    }

    fn take_gradients(&mut self, packed: Vec<ParamId>, network: &FloatNetwork) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        self.add_gradients(packed, network, &mut gradients);
        gradients
    }

    fn add_gradients(
        &mut self,
        packed: Vec<ParamId>,
        network: &FloatNetwork,
        gradients: &mut GradientsParams,
    ) {
        network.visit(&mut Unpack {
            received: self,
            packed,
            gradients,
        });
    }
}

struct Pack<'a> {
    parcel: &'a mut Parcel,
    gradients: &'a mut GradientsParams,
    packed: Vec<ParamId>,
}

impl ModuleVisitor for Pack<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.parcel.put(gradient);
            self.packed.push(param.id);
        }
    }
}

struct Unpack<'a> {
    received: &'a mut Received,
    packed: Vec<ParamId>,
    gradients: &'a mut GradientsParams,
}

impl ModuleVisitor for Unpack<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.packed.contains(&param.id) {
            let gradient = self
                .received
                .take_tensor(param.val().dims(), &Device::flex());
            self.gradients.register(param.id, gradient);
        }
    }
}

fn count_right(logits: &[f32], labels: &[usize]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let rows = logits.chunks(classes.max(1)).zip(labels);
    rows.filter(|(row, label)| super::argmax(row) == **label)
        .count()
}
