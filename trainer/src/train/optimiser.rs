//! What turns gradients into steps.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, MultiGradientsParams,
    Optimizer as Burn, RmsPropConfig, SgdConfig,
};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TrainOptions;
use crate::network::{FloatNetwork, numbers};

/// Added to what the adaptive ones divide by.
const EPSILON: f32 = 1e-8;
/// Share of the last step that `momentum` and `nesterov` make again.
const MOMENTUM: f64 = 0.9;

/// The optimisers, all of them Burn's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Gradient descent: the gradient of all pictures in every step (Cauchy 1847).
    Gd,
    /// Stochastic gradient descent: that of a batch (Robbins and Monro 1951).
    Sgd,
    /// With momentum 0.9 (Polyak 1964).
    Momentum,
    /// With Nesterov's momentum 0.9 (Sutskever et al. 2013, "On the importance of
    /// initialization and momentum in deep learning").
    Nesterov,
    /// Duchi et al. 2011, "Adaptive Subgradient Methods".
    Adagrad,
    /// Tieleman and Hinton 2012, lecture 6.5; the mean keeps 0.99.
    Rmsprop,
    /// Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization".
    Adam,
    /// Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".
    #[default]
    Adamw,
}

impl Optimizer {
    /// The learning rate where none is given.
    pub fn usual_rate(self) -> f64 {
        match self {
            Self::Gd | Self::Sgd => 0.1,
            Self::Momentum | Self::Nesterov => 0.02,
            Self::Adagrad => 0.01,
            Self::Rmsprop | Self::Adam | Self::Adamw => 1e-3,
        }
    }

    /// The weight decay where none is given.
    pub fn usual_decay(self) -> f64 {
        match self {
            Self::Gd | Self::Sgd | Self::Momentum | Self::Nesterov => 5e-4,
            // Their steps do not get longer with the penalty, so that it hardly helps.
            Self::Adagrad | Self::Rmsprop | Self::Adam => 0.0,
            Self::Adamw => 0.5,
        }
    }

    /// One with nothing behind it yet. Only weights decay: biases and normalisation carry
    /// no risk of overfitting.
    pub(super) fn build(self, weight_decay: f64) -> ModuleOptimizer {
        let decay = weight_decay as f32;
        let penalty = WeightDecayConfig::new(decay);
        match self {
            Self::Gd | Self::Sgd => {
                let config = SgdConfig::new();
                let decaying = config.clone().with_weight_decay(Some(penalty));
                of_two(config.build(), decaying.build())
            }
            Self::Momentum | Self::Nesterov => {
                let momentum = MomentumConfig::new()
                    .with_momentum(MOMENTUM)
                    .with_dampening(0.0)
                    .with_nesterov(self == Self::Nesterov);
                let config = SgdConfig::new().with_momentum(Some(momentum));
                let decaying = config.clone().with_weight_decay(Some(penalty));
                of_two(config.build(), decaying.build())
            }
            Self::Adagrad => {
                let config = AdaGradConfig::new().with_epsilon(EPSILON);
                let decaying = config.clone().with_weight_decay(Some(penalty));
                of_two(config.build(), decaying.build())
            }
            Self::Rmsprop => {
                let config = RmsPropConfig::new()
                    .with_momentum(0.0)
                    .with_epsilon(EPSILON);
                let decaying = config.clone().with_weight_decay(Some(penalty));
                of_two(config.build(), decaying.build())
            }
            Self::Adam => {
                let config = AdamConfig::new().with_epsilon(EPSILON);
                let decaying = config.clone().with_weight_decay(Some(penalty));
                of_two(config.build(), decaying.build())
            }
            Self::Adamw => {
                let config = AdamWConfig::new().with_epsilon(EPSILON);
                let decaying = config.clone().with_weight_decay(decay);
                of_two(config.with_weight_decay(0.0).build(), decaying.build())
            }
        }
    }
}

/// One for the weights and one for all else.
fn of_two<O: Burn>(others: O, weights: O) -> ModuleOptimizer {
    let weight = ParamGroup::from_predicate("weight");
    ModuleOptimizer::from(others).with_group(weight, weights, None)
}

/// The gradients of all shards, for one step; of the length that options allow.
pub(super) fn gather(
    shards: Vec<GradientsParams>,
    network: &FloatNetwork,
    options: &TrainOptions,
) -> MultiGradientsParams {
    let device = Device::flex();
    let with_device = |gradients| (gradients, device.clone());
    let all = MultiGradientsParams {
        grads: shards.into_iter().map(with_device).collect(),
    };
    match options.clip_norm {
        None => all,
        Some(longest) => MultiGradientsParams {
            grads: vec![with_device(clip(all, network, longest))],
        },
    }
}

/// The sum of all gradients, no longer than `longest` over all parameters together.
fn clip(all: MultiGradientsParams, network: &FloatNetwork, longest: f64) -> GradientsParams {
    let mut sum = Sum {
        all,
        sum: GradientsParams::new(),
        squares: 0.0,
    };
    network.visit(&mut sum);
    let length = sum.squares.sqrt();
    if length <= longest {
        return sum.sum;
    }
    let mut scale = Scale {
        gradients: sum.sum,
        factor: longest / length,
    };
    network.visit(&mut scale);
    scale.gradients
}

struct Sum {
    all: MultiGradientsParams,
    sum: GradientsParams,
    squares: f64,
}

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((gradient, _)) = self.all.remove::<D>(param.id) {
            let values = numbers(gradient.clone());
            self.squares += values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            self.sum.register(param.id, gradient);
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let scaled = gradient.mul_scalar(self.factor);
            self.gradients.register(param.id, scaled);
        }
    }
}
