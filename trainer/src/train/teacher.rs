//! Networks that another one learns to answer like.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

use super::{TrainError, check_data, digest};
use crate::checkpoint::{Checkpoint, InputScale};
use crate::data::Dataset;
use crate::network::{FloatNetwork, numbers};

/// For each picture of the data, how many augmented ones answers are kept of.
const KNOWN_PICTURES: usize = 4;

/// Networks that teach, and what they have said: without augmentation, or with flips
/// alone, the same pictures come again, and each of them is answered once.
pub struct Teacher {
    /// Of the pictures, which is that of the first network.
    input: InputScale,
    first: FloatNetwork,
    others: Vec<Other>,
    /// Of their tensors.
    digest: String,
    /// The means of their logits, by the keys of pictures.
    known: Mutex<HashMap<u64, Vec<f32>>>,
    /// Most pictures in `known`.
    room: usize,
}

impl Teacher {
    /// A teacher for pictures of the shape and the classes of these.
    pub fn new(checkpoint: &Checkpoint, data: &Dataset) -> Result<Self, TrainError> {
        check_data(checkpoint, data)?;
        Ok(Self {
            input: checkpoint.input,
            first: FloatNetwork::new(checkpoint, &Device::flex()),
            others: Vec::new(),
            digest: digest(checkpoint),
            known: Mutex::default(),
            room: KNOWN_PICTURES * data.pictures.len(),
        })
    }

    /// One network more: the answer is the mean of all.
    pub fn join(&mut self, checkpoint: &Checkpoint, data: &Dataset) -> Result<(), TrainError> {
        check_data(checkpoint, data)?;
        self.others.push(Other {
            network: FloatNetwork::new(checkpoint, &Device::flex()),
            input: checkpoint.input,
        });
        self.digest += &digest(checkpoint);
        self.known = Mutex::default();
        Ok(())
    }

    /// Tells teachers apart.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Logits [pictures, classes]; `keys` tells the pictures apart.
    fn logits(&self, input: Tensor<4>, keys: &[u64]) -> Tensor<2> {
        let device = input.device();
        let new = self.answer_unknown(input, keys);
        let mut known = self.lock();
        let row = |key: &u64| new.get(key).or_else(|| known.get(key)).cloned();
        let rows: Vec<f32> = keys.iter().filter_map(row).flatten().collect();
        if known.len() < self.room {
            known.extend(new);
        }
        drop(known);
        let shape = [keys.len(), rows.len() / keys.len().max(1)];
        Tensor::from_data(TensorData::new(rows, shape), &device)
    }

    fn answer_unknown(&self, input: Tensor<4>, keys: &[u64]) -> HashMap<u64, Vec<f32>> {
        let unknown: Vec<(i32, u64)> = {
            let known = self.lock();
            let numbered = (0..).zip(keys.iter().copied());
            numbered
                .filter(|(_, key)| !known.contains_key(key))
                .collect()
        };
        if unknown.is_empty() {
            return HashMap::new();
        }
        let mut indices: Vec<i32> = unknown.iter().map(|&(index, _)| index).collect();
        if let &[index] = indices.as_slice() {
            // A product of a matrix and a vector rounds otherwise than one of two matrices, and
            // which pictures are unknown depends on where a training was resumed.
            indices.push(index);
        }
        let count = indices.len();
        let indices = Tensor::from_data(indices.as_slice(), &input.device());
        let logits = numbers(self.mean(input.select(0, indices)));
        let rows = logits.chunks(logits.len() / count);
        let keys = unknown.iter().map(|&(_, key)| key);
        keys.zip(rows.map(<[f32]>::to_vec)).collect()
    }

    /// The mean of all networks' logits [pictures, classes].
    fn mean(&self, input: Tensor<4>) -> Tensor<2> {
        let add = |sum, other: &Other| {
            let input = rescaled(input.clone(), self.input, other.input);
            sum + other.network.logits(input)
        };
        let first = self.first.logits(input.clone());
        let sum = self.others.iter().fold(first, add);
        sum / (self.others.len() + 1) as f64
    }

    /// A worker that panicked while it held the lock left whole rows behind.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<f32>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network that teaches beside the first.
struct Other {
    network: FloatNetwork,
    /// Of the pictures that it was trained on.
    input: InputScale,
}

/// Pictures in another scale.
fn rescaled(input: Tensor<4>, from: InputScale, to: InputScale) -> Tensor<4> {
    if from == to {
        return input;
    }
    let factor = f64::from(to.scale) / f64::from(from.scale);
    let shift = f64::from(from.mean) - f64::from(to.mean);
    input * factor + shift * f64::from(to.scale)
}

/// How much a teacher counts.
#[derive(Clone, Copy)]
pub(crate) struct Lesson<'a> {
    pub teacher: &'a Teacher,
    /// Its share of the loss, 0 to 1.
    pub share: f32,
    /// What its logits are divided by, above 0.
    pub temperature: f32,
}

impl Lesson<'_> {
    /// What the teacher says to pictures; `keys` tells them apart.
    pub(super) fn answers(&self, input: &Tensor<4>, keys: &[u64]) -> Taught {
        let temperature = f64::from(self.temperature);
        let logits = self.teacher.logits(input.clone().inner(), keys);
        Taught {
            answers: Tensor::from_inner(softmax(logits / temperature, 1)),
            share: self.share.into(),
            temperature,
        }
    }
}

/// A teacher's answers.
pub(super) struct Taught {
    /// softmax(logits / temperature): [pictures, classes].
    pub answers: Tensor<2>,
    pub share: f64,
    pub temperature: f64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::network::pictures_to_tensor;
    use crate::train::tests::{data, untrained};

    #[test]
    fn several_answer_as_their_mean() {
        let (one, mut other) = (untrained(false), untrained(false));
        for tensor in other.tensors.values_mut() {
            tensor.data.iter_mut().for_each(|value| *value *= 0.5);
        }
        let shape = one.network.input;
        let pixels = &data().pictures[0].pixels;
        let input = pictures_to_tensor(pixels, shape, one.input, &Device::flex());
        let alone = |checkpoint: &Checkpoint| {
            let teacher = Teacher::new(checkpoint, &data()).unwrap();
            numbers(teacher.mean(input.clone()))
        };
        let mut both = Teacher::new(&one, &data()).unwrap();
        both.logits(input.clone(), &[1]);
        both.join(&other, &data()).unwrap();
        // What the first has said alone is forgotten.
        let answers = numbers(both.logits(input.clone(), &[1]));
        for ((a, b), both) in alone(&one).iter().zip(alone(&other)).zip(answers) {
            assert!(((a + b) / 2.0 - both).abs() < 1e-5);
        }
    }

    #[test]
    fn each_sees_pictures_in_its_own_scale() {
        let one = untrained(false);
        let mut other = one.clone();
        other.input = InputScale {
            mean: one.input.mean + 20,
            scale: one.input.scale * 3.0,
        };
        let (shape, device) = (one.network.input, Device::flex());
        let pixels = &data().pictures[0].pixels;
        let input = pictures_to_tensor(pixels, shape, one.input, &device);
        let mut both = Teacher::new(&one, &data()).unwrap();
        both.join(&other, &data()).unwrap();
        let alone = |checkpoint: &Checkpoint| {
            let input = pictures_to_tensor(pixels, shape, checkpoint.input, &device);
            numbers(FloatNetwork::new(checkpoint, &device).logits(input))
        };
        let (a, b) = (alone(&one), alone(&other));
        assert!(a != b);
        for ((a, b), both) in a.iter().zip(b).zip(numbers(both.mean(input))) {
            assert!(((a + b) / 2.0 - both).abs() < 1e-4, "{a} {b} {both}");
        }
    }

    #[test]
    fn an_answer_does_not_depend_on_the_pictures_beside_it() {
        let checkpoint = crate::compress::tests::checkpoint(
            "layers = [
                { conv2d = { filters = 24, kernel = 3, activation = 'relu' } },
                { dense = { units = 200, activation = 'relu' } },
                { dense = {} },
            ]",
        );
        let (shape, device) = (checkpoint.network.input, Device::flex());
        let pixels: Vec<u8> = (0..33 * 128u32).map(|i| (i * i * 31 % 251) as u8).collect();
        let input = pictures_to_tensor(&pixels, shape, checkpoint.input, &device);
        let data = Dataset {
            shape: crate::data::PictureShape {
                height: 8,
                width: 8,
                channels: 2,
            },
            classes: checkpoint.classes.clone(),
            pictures: vec![crate::data::Picture {
                pixels: pixels[..128].to_vec(),
                label: 0,
            }],
        };
        let answers = |count: usize| {
            let teacher = Teacher::new(&checkpoint, &data).unwrap();
            let keys: Vec<u64> = (0..count as u64).collect();
            numbers(teacher.logits(input.clone().narrow(0, 0, count), &keys))
        };
        let all = answers(33);
        for count in 1..33 {
            assert_eq!(answers(count), all[..3 * count], "{count}");
        }
    }

    #[test]
    fn a_picture_is_answered_once() {
        let checkpoint = untrained(false);
        let pictures = &data().pictures[..4];
        let pixels: Vec<u8> = pictures.iter().flat_map(|p| p.pixels.clone()).collect();
        let (shape, device) = (checkpoint.network.input, Device::flex());
        let input = pictures_to_tensor(&pixels, shape, checkpoint.input, &device);
        let teacher = Teacher::new(&checkpoint, &data()).unwrap();
        let some = input.clone().narrow(0, 1, 2);
        assert_eq!(teacher.logits(some, &[11, 12]).dims(), [2, 3]);
        // Known and new ones together come out in order.
        let all = numbers(teacher.logits(input.clone(), &[10, 11, 12, 13]));
        let expected = numbers(teacher.mean(input.clone()));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(all.iter().zip(&expected).all(close), "{all:?} {expected:?}");
        assert_eq!(teacher.lock().len(), 4);
        assert!(teacher.answer_unknown(input, &[10, 11, 12, 13]).is_empty());
    }
}
