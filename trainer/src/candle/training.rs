//! Gradients on Candle. Loss and optimiser are those of every training: the loss sees the
//! logits as a tensor of its own device, says its gradient there, and Candle carries that
//! through the network.

use std::cell::RefCell;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor as Flex, TensorData};
use burn_autodiff_21::Autodiff;
use burn_tensor_21::Tensor;
use burn_tensor_21::backend::AutodiffBackend;

use super::network::{
    CandleNetwork, Cpu, Norm, Parameters, Pass, Weights, logits, numbers, tensor,
};
use crate::network::{FloatNetwork, NORM_MOMENTUM, Role, numbers as flex_numbers};

/// With gradients.
type Learning = Autodiff<Cpu>;

/// What was found out about some pictures.
pub(crate) struct Found<T> {
    /// On Flex, for the parameters of the Flex network.
    pub gradients: GradientsParams,
    /// Their loss.
    pub loss: f32,
    /// What the loss found out beside.
    pub more: T,
    /// The new running statistics of batch normalisation: names in a checkpoint, and values.
    pub statistics: Vec<(String, Vec<f32>)>,
}

impl CandleNetwork {
    /// The gradients of a loss of some pictures [pictures, channels, height, width], for the
    /// optimiser of `network`, which is the same one on Flex. `drop` zeroes and scales the
    /// inputs [pictures, values] of the dense layer of a number.
    ///
    /// `loss` gets the logits [pictures, classes] on Flex, with gradients, and gives one
    /// number, with whatever else it finds out.
    pub(crate) fn learn<T>(
        &self,
        network: &FloatNetwork,
        input: Flex<4>,
        drop: Option<impl Fn(usize, Flex<2>) -> Flex<2>>,
        loss: impl FnOnce(Flex<2>) -> (Flex<1>, T),
    ) -> Found<T> {
        let layers: Vec<Parameters<Learning>> = self.layers.iter().map(leaf).collect();
        let input = Tensor::from_inner(moved(input.inner()));
        let pass = Training {
            candle: self,
            drop,
            statistics: RefCell::default(),
        };
        let logits = logits(&self.network, &layers, input, &pass);

        let seen = TensorData::new(numbers(logits.clone()), logits.dims());
        let seen = Flex::from_data(seen, &Device::flex().autodiff()).require_grad();
        let (loss, more) = loss(seen.clone());
        let value = flex_numbers(loss.clone().inner()).into_iter().sum();
        let slope = seen.grad(&loss.backward());

        let mut gradients = GradientsParams::new();
        if let Some(slope) = slope {
            // The gradient of the sum of the products is that of the loss.
            let sum = (logits * Tensor::from_inner(moved(slope))).sum();
            let all = sum.backward();
            let values = layers.iter().flat_map(|layer| gradients_of(layer, &all));
            network.visit(&mut Register {
                values,
                gradients: &mut gradients,
            });
        }
        Found {
            gradients,
            loss: value,
            more,
            statistics: pass.statistics.into_inner(),
        }
    }
}

/// A batch that is learnt from.
struct Training<'a, D> {
    candle: &'a CandleNetwork,
    drop: Option<D>,
    statistics: RefCell<Vec<(String, Vec<f32>)>>,
}

impl<D: Fn(usize, Flex<2>) -> Flex<2>> Pass<Learning> for Training<'_, D> {
    const BY_BATCH: bool = true;

    fn before_dense(&self, node: usize, x: Tensor<Learning, 2>) -> Tensor<Learning, 2> {
        match &self.drop {
            None => x,
            Some(drop) => {
                let factors = drop(node, Flex::ones(x.dims(), &Device::flex()));
                x * Tensor::from_inner(moved(factors))
            }
        }
    }

    fn see(&self, node: usize, mean: &Tensor<Learning, 4>, variance: &Tensor<Learning, 4>) {
        let Some(running) = &self.candle.layers[node].norm else {
            return;
        };
        let node = &self.candle.network.nodes[node];
        let pairs = [
            (Role::Mean, &running.mean, mean),
            (Role::Variance, &running.variance, variance),
        ];
        let new = pairs.map(|(role, running, of_batch)| {
            let channels = running.dims()[0];
            let of_batch = of_batch.clone().inner().reshape([channels]);
            let new = running.clone() * (1.0 - NORM_MOMENTUM) + of_batch * NORM_MOMENTUM;
            (node.tensor_name(role), numbers(new))
        });
        self.statistics.borrow_mut().extend(new);
    }
}

/// The same parameters, which gradients are asked of.
fn leaf(parameters: &Parameters<Cpu>) -> Parameters<Learning> {
    fn leaf<const D: usize>(tensor: &Tensor<Cpu, D>) -> Tensor<Learning, D> {
        Tensor::from_inner(tensor.clone()).require_grad()
    }
    let norm = |norm: &Norm<Cpu>| Norm {
        gamma: leaf(&norm.gamma),
        beta: leaf(&norm.beta),
        mean: Tensor::from_inner(norm.mean.clone()),
        variance: Tensor::from_inner(norm.variance.clone()),
    };
    Parameters {
        weights: match &parameters.weights {
            Weights::None => Weights::None,
            Weights::Conv(weight, bias) => Weights::Conv(leaf(weight), leaf(bias)),
            Weights::Dense(weight, bias) => Weights::Dense(leaf(weight), leaf(bias)),
        },
        norm: parameters.norm.as_ref().map(norm),
    }
}

/// In the order in which Burn visits the parameters of a layer: weights, biases, and of
/// batch normalisation gamma, beta and the running statistics, which have none.
fn gradients_of(
    parameters: &Parameters<Learning>,
    all: &<Learning as AutodiffBackend>::Gradients,
) -> Vec<Option<Vec<f32>>> {
    let mut gradients = match &parameters.weights {
        Weights::None => Vec::new(),
        Weights::Conv(weight, bias) => vec![gradient(weight, all), gradient(bias, all)],
        Weights::Dense(weight, bias) => vec![gradient(weight, all), gradient(bias, all)],
    };
    if let Some(norm) = &parameters.norm {
        gradients.extend([
            gradient(&norm.gamma, all),
            gradient(&norm.beta, all),
            None,
            None,
        ]);
    }
    gradients
}

fn gradient<const D: usize>(
    tensor: &Tensor<Learning, D>,
    all: &<Learning as AutodiffBackend>::Gradients,
) -> Option<Vec<f32>> {
    tensor.grad(all).map(numbers)
}

/// Numbers of Flex on Candle.
fn moved<const D: usize>(flex: Flex<D>) -> Tensor<Cpu, D> {
    let shape = flex.dims().to_vec();
    tensor(flex_numbers(flex), shape)
}

/// Gives the parameters of a network their gradients, in the network's order.
struct Register<'a, I> {
    values: I,
    gradients: &'a mut GradientsParams,
}

impl<I: Iterator<Item = Option<Vec<f32>>>> ModuleVisitor for Register<'_, I> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Flex<D>>) {
        if let Some(values) = self.values.next().flatten() {
            let data = TensorData::new(values, param.base().dims());
            let gradient = Flex::<D>::from_data(data, &Device::flex());
            self.gradients.register(param.id, gradient);
        }
    }
}
