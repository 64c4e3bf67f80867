//! Factorising: a convolution becomes a depthwise one and a convolution of 1x1, and a
//! dense layer over a picture a depthwise convolution of the picture's size and a dense
//! layer over its channels.
//!
//! Of the weights of a layer, those that belong to one input channel are a matrix of
//! outputs and places in the window. The nearest matrix of rank m is the sum of m
//! products of a column and a row: the rows are m depthwise filters for that channel, and the
//! columns what the outputs take from them (Guo et al. 2018, "Network Decoupling: From
//! Regular to Depthwise Separable Convolutions"). Between both there is no activation.

use std::num::NonZeroU8;

use shared::layer::{Activation, Conv2d, DepthwiseConv2d, Layer, Padding, Size2};

use super::PerLayer;
use crate::checkpoint::{Array, Checkpoint, transposed};
use crate::network::{Definition, Network, NetworkError, Node, Role};

/// Behind the name of a layer, that of its first part.
pub const DEPTHWISE: &str = "_depthwise";

/// Steps of the power iteration: singular values that are not apart by then are near
/// enough to serve for each other.
const ITERATIONS: usize = 60;

/// Factorises every layer that has a rank, the number of depthwise filters for each input
/// channel, and gets smaller by it. Batch normalisation of such a layer stays behind its
/// second part.
pub fn factorise(
    checkpoint: &Checkpoint,
    ranks: &PerLayer<NonZeroU8>,
) -> Result<Checkpoint, NetworkError> {
    let mut new = Rebuilt {
        whole: checkpoint,
        definitions: Vec::new(),
        tensor_of: vec![0],
        smaller: Checkpoint {
            grids: Default::default(),
            training: None,
            ..checkpoint.clone()
        },
    };
    for node in &checkpoint.network.nodes {
        let rank = ranks.of(&node.name);
        match rank.and_then(|rank| Factors::of(checkpoint, node, rank)) {
            Some(factors) => new.split(node, factors),
            None => new.keep(node),
        }
    }
    new.finish()
}

/// The two parts of a layer.
struct Factors {
    depthwise: DepthwiseConv2d,
    /// O 1 H W.
    depthwise_weight: Array,
    second: Layer,
    /// O I 1 1, or of a dense layer I O.
    second_weight: Array,
}

impl Factors {
    /// `None` for a layer that would not get smaller.
    fn of(checkpoint: &Checkpoint, node: &Node, rank: NonZeroU8) -> Option<Self> {
        let network = &checkpoint.network;
        let input = match (&node.layer, before_flatten(network, node)) {
            (Layer::Dense(_), Some(flatten)) => network.input_of(flatten),
            _ => network.input_of(node),
        };
        let (kernel, stride, padding, second) = match node.layer {
            Layer::Conv2d(conv) => {
                let second = Layer::Conv2d(Conv2d {
                    kernel: Size2::ONE,
                    stride: Size2::ONE,
                    padding: Padding::Valid,
                    ..conv
                });
                (conv.kernel, conv.stride, conv.padding, second)
            }
            Layer::Dense(_) => {
                let side = |side| u8::try_from(side).ok();
                let kernel = Size2::new(side(input.height())?, side(input.width())?)?;
                (kernel, Size2::ONE, Padding::Valid, node.layer)
            }
            _ => return None,
        };
        let weight = checkpoint.tensor(node, Role::Weight)?;
        let (rank_of, area) = (usize::from(rank.get()), kernel.area());
        let (channels, outputs) = (input.channels(), node.output.channels());
        let inner = channels * rank_of;
        if inner * (area + 1 + outputs) >= channels * area * outputs {
            return None;
        }
        let mut depthwise = Vec::with_capacity(inner * area);
        let mut columns = Vec::with_capacity(inner * outputs);
        for channel in 0..channels {
            let at = |output: usize, place: usize| match node.layer {
                Layer::Dense(_) => (place * channels + channel) * outputs + output,
                _ => (output * channels + channel) * area + place,
            };
            let matrix = (0..outputs).flat_map(|o| (0..area).map(move |p| (o, p)));
            let matrix = matrix.map(|(o, p)| weight.data[at(o, p)]).collect();
            for (column, row) in largest_products(matrix, area, rank_of) {
                depthwise.extend(row);
                columns.extend(column);
            }
        }
        // `columns` is I O.
        let second_weight = match node.layer {
            Layer::Dense(_) => Array {
                shape: vec![inner, outputs],
                data: columns,
            },
            _ => Array {
                shape: vec![outputs, inner, 1, 1],
                data: transposed(&columns, outputs),
            },
        };
        Some(Self {
            depthwise: DepthwiseConv2d {
                multiplier: rank,
                kernel,
                stride,
                padding,
                activation: Activation::None,
            },
            depthwise_weight: Array {
                shape: vec![inner, 1, kernel.height(), kernel.width()],
                data: depthwise,
            },
            second,
            second_weight,
        })
    }
}

/// The flatten that a dense layer reads, if nothing else reads it.
fn before_flatten<'n>(network: &'n Network, node: &Node) -> Option<&'n Node> {
    let &[tensor] = node.inputs.as_slice() else {
        return None;
    };
    let readers = network.nodes.iter().filter(|n| n.inputs.contains(&tensor));
    let before = network.nodes.get(tensor.checked_sub(1)?)?;
    (before.layer == Layer::Flatten && readers.count() == 1).then_some(before)
}

/// The new network as far as it has come.
struct Rebuilt<'a> {
    whole: &'a Checkpoint,
    definitions: Vec<Definition>,
    /// For each tensor of the whole network, the one that stands for it.
    tensor_of: Vec<usize>,
    smaller: Checkpoint,
}

impl Rebuilt<'_> {
    fn keep(&mut self, node: &Node) {
        let inputs = node.inputs.iter().map(|&tensor| self.tensor_of[tensor]);
        self.definitions.push(Definition {
            inputs: inputs.collect(),
            ..Definition::from(node)
        });
        self.tensor_of.push(self.definitions.len());
    }

    fn split(&mut self, node: &Node, factors: Factors) {
        // A flatten keeps its place until nobody reads it, see `finish`.
        let read = match before_flatten(&self.whole.network, node) {
            Some(flatten) if matches!(node.layer, Layer::Dense(_)) => flatten.inputs[0],
            _ => node.inputs[0],
        };
        let first = Definition {
            name: self.name(&format!("{}{DEPTHWISE}", node.name)),
            layer: Layer::DepthwiseConv2d(factors.depthwise),
            inputs: vec![self.tensor_of[read]],
            batch_norm: false,
        };
        let channels = factors.depthwise_weight.shape[0];
        let bias = Array {
            shape: vec![channels],
            data: vec![0.0; channels],
        };
        let tensors = &mut self.smaller.tensors;
        tensors.insert(format!("{}.{}", first.name, Role::Bias.suffix()), bias);
        tensors.insert(
            format!("{}.{}", first.name, Role::Weight.suffix()),
            factors.depthwise_weight,
        );
        tensors.insert(node.tensor_name(Role::Weight), factors.second_weight);
        self.definitions.push(first);
        let inputs = vec![self.definitions.len()];
        self.definitions.push(Definition {
            layer: factors.second,
            inputs,
            ..Definition::from(node)
        });
        self.tensor_of.push(self.definitions.len());
    }

    /// This name, or one with a number behind it where a layer already has it.
    fn name(&self, wanted: &str) -> String {
        let taken = |name: &String| {
            let mut nodes = self.whole.network.nodes.iter();
            nodes.any(|node| node.name == *name)
        };
        let numbered = (2..).map(|number| format!("{wanted}_{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).unwrap_or_default()
    }

    fn finish(mut self) -> Result<Checkpoint, NetworkError> {
        let last = self.definitions.len();
        while let Some(unread) = (1..last).find(|&tensor| {
            let definitions = &self.definitions;
            tensor < definitions.len() && !definitions.iter().any(|d| d.inputs.contains(&tensor))
        }) {
            self.definitions.remove(unread - 1);
            let inputs = self.definitions.iter_mut().flat_map(|d| &mut d.inputs);
            inputs
                .filter(|input| **input > unread)
                .for_each(|input| *input -= 1);
        }
        self.smaller.network = Network::new(self.whole.network.input, self.definitions)?;
        Ok(self.smaller)
    }
}

/// The `count` products of a column and a row whose sum comes nearest to a matrix,
/// the square root of each singular value in both.
fn largest_products(
    mut matrix: Vec<f32>,
    columns: usize,
    count: usize,
) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut products = Vec::new();
    for _ in 0..count {
        let (column, row) = largest_product(&matrix, columns);
        let rows = matrix.chunks_mut(columns);
        for (values, factor) in rows.zip(&column) {
            values
                .iter_mut()
                .zip(&row)
                .for_each(|(v, r)| *v -= factor * r);
        }
        products.push((column, row));
    }
    products
}

/// Power iteration, from the longest row.
fn largest_product(matrix: &[f32], columns: usize) -> (Vec<f32>, Vec<f32>) {
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let longest = matrix
        .chunks(columns)
        .max_by(|a, b| norm(a).total_cmp(&norm(b)));
    let mut row = longest.unwrap_or_default().to_vec();
    let mut column = vec![0.0; matrix.len() / columns.max(1)];
    for _ in 0..ITERATIONS {
        let length = norm(&row);
        if !length.is_normal() {
            break;
        }
        row.iter_mut().for_each(|value| *value /= length);
        let dot = |values: &[f32]| values.iter().zip(&row).map(|(a, b)| a * b).sum();
        column = matrix.chunks(columns).map(dot).collect::<Vec<f32>>();
        let of_column = norm(&column).powi(2).max(f32::MIN_POSITIVE);
        let mut next = vec![0.0; columns];
        for (values, factor) in matrix.chunks(columns).zip(&column) {
            next.iter_mut()
                .zip(values)
                .for_each(|(n, v)| *n += factor * v / of_column);
        }
        row = next;
    }
    // column row^T with |row| = 1, nearly: the singular value is in the column.
    let share = (norm(&row) / norm(&column).max(f32::MIN_POSITIVE)).sqrt();
    column.iter_mut().for_each(|value| *value *= share);
    row.iter_mut()
        .for_each(|value| *value /= share.max(f32::MIN_POSITIVE));
    (column, row)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compress::tests::{GRAPH, PLAIN, checkpoint, logits};

    fn to_rank(whole: &Checkpoint, rank: u8) -> Checkpoint {
        factorise(whole, &PerLayer::All(NonZeroU8::new(rank).unwrap())).unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn products_add_up_to_the_matrix() {
        let matrix: Vec<f32> = (0..24).map(|i| (i * i % 17) as f32 - 8.0).collect();
        let error = |count| {
            let mut left = matrix.clone();
            for (column, row) in largest_products(matrix.clone(), 4, count) {
                for (values, c) in left.chunks_mut(4).zip(&column) {
                    values.iter_mut().zip(&row).for_each(|(v, r)| *v -= c * r);
                }
            }
            left.iter().map(|v| v * v).sum::<f32>()
        };
        let errors: Vec<f32> = (0..5).map(error).collect();
        assert!(
            errors.windows(2).all(|pair| pair[1] < pair[0]),
            "{errors:?}"
        );
        assert!(errors[4] < 1e-6 * errors[0], "{errors:?}");
    }

    #[test]
    fn more_filters_come_nearer() {
        // Wide enough that four depthwise filters are still fewer weights.
        let layers = "layers = [
            { conv2d = { filters = 12, kernel = 3, padding = 'same', stride = 2, activation = 'relu' }, batch_norm = true },
            { max_pool2d = { kernel = 2 } },
            { flatten = {} },
            { dense = { units = 30, activation = 'relu' } },
            { dense = {} },
            { softmax = {} },
        ]";
        let whole = checkpoint(layers);
        let exact = logits(&whole);
        let errors = [1, 2, 3].map(|r| {
            let smaller = to_rank(&whole, r);
            assert!(smaller.parameters() < whole.parameters());
            distance(&logits(&smaller), &exact)
        });
        assert!(errors[2] < errors[0], "{errors:?}");
        let one = to_rank(&whole, 1);
        let names: Vec<_> = one.network.nodes.iter().map(|n| n.name.as_str()).collect();
        assert!(names.contains(&"dense_1_depthwise"), "{names:?}");
        assert!(!names.contains(&"flatten_1"), "{names:?}");
    }

    #[test]
    fn graphs_stay_networks() {
        for layers in [GRAPH, PLAIN] {
            let whole = checkpoint(layers);
            let smaller = to_rank(&whole, 1);
            assert!(smaller.parameters() < whole.parameters());
            assert!(logits(&smaller).iter().all(|x| x.is_finite()));
            for node in &smaller.network.nodes {
                for (role, shape) in smaller.network.tensors_of(node) {
                    assert_eq!(smaller.tensor(node, role).unwrap().shape, shape);
                }
            }
        }
    }
}
