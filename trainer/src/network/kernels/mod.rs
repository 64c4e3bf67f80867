//! Convolution and max pooling for training on the CPU, in place of Burn's.
//!
//! Burn's Flex device takes a convolution apart into many small products and moves its
//! layout before and behind each; here a few pictures are one product, and bias and
//! activation are part of it. On every other device the layers are Burn's own.

mod convolution;
mod depthwise;
mod max_pool;
mod windows;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, TensorData};
use shared::layer::Activation;

pub(super) use windows::Windows;

/// A convolution, with what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    /// Where its windows lie.
    pub windows: Windows,
    /// Whether each channel has filters of its own.
    pub depthwise: bool,
    /// What follows.
    pub activation: Activation,
}

/// Whether this device has the functions of this module.
pub(super) fn run_on(device: &Device) -> bool {
    *device == Device::flex()
}

/// Activated outputs of a layer over x [pictures, channels, height, width].
pub(super) fn convolve(x: Tensor<4>, layer: &Conv2d, convolution: Convolution) -> Tensor<4> {
    let weight = layer.weight.val();
    let bias = match &layer.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([weight.dims()[0]], &x.device()),
    };
    let (x, weight, bias) = (
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    Tensor::from_dispatch(<Dispatch as Kernels>::convolve(
        x,
        weight,
        bias,
        convolution,
    ))
}

/// The largest value of each window over x [pictures, channels, height, width].
pub(super) fn max_pool(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::max_pool(x.into_dispatch(), windows))
}

/// What Flex does here, with gradients and without.
#[backend_extension(Flex, Autodiff)]
trait Kernels: Backend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self>;

    fn max_pool(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn convolve(x: Flat, weight: Flat, bias: Flat, convolution: Convolution) -> Flat {
        match convolution.depthwise {
            true => depthwise::forward(x, weight, bias, convolution).0,
            false => convolution::forward(x, weight, bias, convolution),
        }
    }

    fn max_pool(x: Flat, windows: Windows) -> Flat {
        max_pool::forward(x, windows).0
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (
            x.into_primitive(),
            weight.into_primitive(),
            bias.into_primitive(),
        );
        match Convolved.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(Flex::convolve(x, weight, bias, convolution)),
            OpsKind::Tracked(prep) => {
                let (y, seen) = match convolution.depthwise {
                    true => depthwise::forward(x, weight.clone(), bias, convolution),
                    false => {
                        let y = convolution::forward(x.clone(), weight.clone(), bias, convolution);
                        (y, x)
                    }
                };
                let seen = (seen, y.clone());
                prep.finish((seen, weight, convolution), y)
            }
        }
    }

    fn max_pool(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        match Pooled.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(Flex::max_pool(x.into_primitive(), windows)),
            OpsKind::Tracked(prep) => {
                let (y, places) = max_pool::forward(x.into_primitive(), windows);
                prep.finish((places, windows), y)
            }
        }
    }
}

/// Takes the gradient of a convolution back.
#[derive(Debug)]
struct Convolved;

impl Backward<Flex, 3> for Convolved {
    /// The input as the forward pass laid it out, and the output; the weights.
    type State = ((Flat, Flat), Flat, Convolution);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x, weight, bias] = ops.parents;
        let ((seen, y), weights, convolution) = ops.state;
        let grad = grads.consume::<Flex>(&ops.node);
        let back = match convolution.depthwise {
            true => depthwise::backward(seen, weights, y, grad, convolution, x.is_some()),
            false => convolution::backward(seen, weights, y, grad, convolution, x.is_some()),
        };
        for (node, grad) in [
            (x, back.x),
            (weight, Some(back.weight)),
            (bias, Some(back.bias)),
        ] {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<Flex>(node.id, grad);
            }
        }
    }
}

/// Takes the gradient of a max pooling back.
#[derive(Debug)]
struct Pooled;

impl Backward<Flex, 1> for Pooled {
    type State = (max_pool::Places, Windows);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents;
        let (places, windows) = ops.state;
        let grad = grads.consume::<Flex>(&ops.node);
        if let Some(node) = x {
            grads.register::<Flex>(node.id, max_pool::backward(grad, &places, windows));
        }
    }
}

/// A tensor on the CPU.
type Flat = FloatTensor<Flex>;

/// Gradients of a convolution.
struct Back {
    x: Option<Flat>,
    weight: Flat,
    bias: Flat,
}

fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Flat {
    Flat::from_data(TensorData::new(data, shape))
}

/// Sides of a tensor of four.
fn sides(tensor: &Flat) -> [usize; 4] {
    std::array::from_fn(|side| tensor.layout().shape()[side])
}

fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::None => {}
        // What is not a number stays so, that a training which diverges is found out.
        Activation::Relu => values
            .iter_mut()
            .for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
        Activation::Relu6 => values.iter_mut().for_each(|y| *y = y.clamp(0.0, 6.0)),
    }
}

/// Writes the gradients before an activation, from those behind it and its outputs.
fn deactivate(activation: Activation, y: &[f32], grad: &[f32], out: &mut [f32]) {
    match activation {
        Activation::None => out.copy_from_slice(grad),
        Activation::Relu => pass(y, grad, out, |y| y > 0.0),
        Activation::Relu6 => pass(y, grad, out, |y| y > 0.0 && y < 6.0),
    }
}

fn pass(y: &[f32], grad: &[f32], out: &mut [f32], passes: impl Fn(f32) -> bool) {
    for ((out, &y), &grad) in out.iter_mut().zip(y).zip(grad) {
        *out = if passes(y) { grad } else { 0.0 };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::module::Param;
    use burn::nn::PaddingConfig2d;
    use burn::nn::pool::MaxPool2dConfig;
    use burn::tensor::activation::relu;
    use shared::layer::{Padding, Shape, Size2, Window};

    use super::*;
    use crate::network::numbers;

    /// Numbers of both signs, without ties.
    fn waves<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let wave = |i: usize| ((i + 1) as f32 * 0.7 + seed as f32 * 1.3).sin();
        let data = TensorData::new((0..count).map(wave).collect(), shape);
        Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
    }

    struct Case {
        channels: usize,
        filters: usize,
        depthwise: bool,
        kernel: [u8; 2],
        stride: [u8; 2],
        padding: Padding,
        activation: Activation,
    }

    const PLAIN: Case = Case {
        channels: 3,
        filters: 5,
        depthwise: false,
        kernel: [3, 2],
        stride: [1, 1],
        padding: Padding::Valid,
        activation: Activation::Relu,
    };

    const SIDES: [usize; 2] = [7, 6];

    fn windows(kernel: [u8; 2], stride: [u8; 2], padding: Padding) -> Windows {
        let size = |[height, width]: [u8; 2]| Size2::new(height, width).unwrap();
        let window = Window {
            kernel: size(kernel),
            stride: size(stride),
            padding,
        };
        let shape = |[height, width]: [usize; 2]| Shape::new(height, width, 1).unwrap();
        let (height, width) = window.output(shape(SIDES)).unwrap();
        Windows::new(window, shape(SIDES), shape([height, width]))
    }

    fn padding(padding: Padding) -> PaddingConfig2d {
        match padding {
            Padding::Valid => PaddingConfig2d::Valid,
            Padding::Same => PaddingConfig2d::Same,
        }
    }

    fn sides([height, width]: [u8; 2]) -> [usize; 2] {
        [height.into(), width.into()]
    }

    /// The outputs, and the gradients of a sum that weighs each of them differently.
    fn outputs_and_gradients(
        y: Tensor<4>,
        of: &[Tensor<4>],
        bias: Option<&Tensor<1>>,
    ) -> Vec<Vec<f32>> {
        let weighed = (y.clone() * waves(y.dims(), 9).detach()).sum();
        let gradients = weighed.backward();
        let mut all = vec![numbers(y.inner())];
        all.extend(of.iter().map(|x| numbers(x.grad(&gradients).unwrap())));
        all.extend(bias.map(|bias| numbers(bias.grad(&gradients).unwrap())));
        all
    }

    fn same(ours: &[Vec<f32>], burns: &[Vec<f32>]) {
        assert_eq!(ours.len(), burns.len());
        for (ours, burns) in ours.iter().zip(burns) {
            assert_eq!(ours.len(), burns.len());
            for (ours, burns) in ours.iter().zip(burns) {
                assert!((ours - burns).abs() < 1e-4, "{ours} and not {burns}");
            }
        }
    }

    fn convolves_as_burn(case: &Case) {
        let groups = if case.depthwise { case.channels } else { 1 };
        let [height, width] = sides(case.kernel);
        let x = waves([2, case.channels, SIDES[0], SIDES[1]], 1);
        let weight = waves([case.filters, case.channels / groups, height, width], 2);
        let bias = waves([case.filters], 3);
        let layer = Conv2d {
            weight: Param::from_tensor(weight.clone()),
            bias: Some(Param::from_tensor(bias.clone())),
            stride: sides(case.stride),
            kernel_size: sides(case.kernel),
            dilation: [1, 1],
            groups,
            padding: padding(case.padding),
        };
        let convolution = Convolution {
            windows: windows(case.kernel, case.stride, case.padding),
            depthwise: case.depthwise,
            activation: case.activation,
        };
        let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().unwrap().val());
        let of = [x.clone(), weight];
        let ours = convolve(x.clone(), &layer, convolution);
        let ours = outputs_and_gradients(ours, &of, Some(&bias));
        let y = layer.forward(x);
        let y = match case.activation {
            Activation::None => y,
            Activation::Relu => relu(y),
            Activation::Relu6 => y.clamp(0.0, 6.0),
        };
        same(&ours, &outputs_and_gradients(y, &of, Some(&bias)));
    }

    #[test]
    fn a_convolution_is_that_of_burn() {
        for padding in [Padding::Valid, Padding::Same] {
            for stride in [[1, 1], [2, 1], [1, 3]] {
                for kernel in [[3, 2], [1, 1], [4, 5]] {
                    for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
                        let case = Case {
                            kernel,
                            stride,
                            padding,
                            activation,
                            ..PLAIN
                        };
                        convolves_as_burn(&case);
                        for filters in [3, 6] {
                            convolves_as_burn(&Case {
                                filters,
                                depthwise: true,
                                ..case
                            });
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn max_pooling_is_that_of_burn() {
        for border in [Padding::Valid, Padding::Same] {
            for (kernel, stride) in [([2, 2], [2, 2]), ([3, 2], [1, 2]), ([3, 3], [2, 1])] {
                let x = waves([2, 3, SIDES[0], SIDES[1]], 4);
                let ours = max_pool(x.clone(), windows(kernel, stride, border));
                let ours = outputs_and_gradients(ours, std::slice::from_ref(&x), None);
                let burns = MaxPool2dConfig::new(sides(kernel))
                    .with_strides(sides(stride))
                    .with_padding(padding(border))
                    .init()
                    .forward(x.clone());
                same(&ours, &outputs_and_gradients(burns, &[x], None));
            }
        }
    }

    #[test]
    fn what_is_no_number_goes_through() {
        let device = Device::flex();
        let x = Tensor::<4>::full([1, 1, SIDES[0], SIDES[1]], f32::NAN, &device);
        let pooled = max_pool(x.clone(), windows([2, 2], [2, 2], Padding::Valid));
        assert!(numbers(pooled).iter().all(|y| y.is_nan()));
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            let mut values = [f32::NAN];
            activate(activation, &mut values);
            assert!(values[0].is_nan());
        }
    }
}
