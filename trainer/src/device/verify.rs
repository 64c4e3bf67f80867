//! Compares a device with this machine, byte by byte, and finds where they part.

use serde::Serialize;
use shared::{Engine, Model};

use super::DeviceRun;

/// What a device is asked to answer.
#[derive(Clone, Copy, Debug)]
pub struct Questions<'q> {
    /// The inputs, one behind the other.
    pub inputs: &'q [i8],
    /// Whether what every layer computes is wanted too.
    pub layers: bool,
}

impl<'q> Questions<'q> {
    /// The answers to these inputs alone.
    pub fn of(inputs: &'q [i8]) -> Self {
        Self {
            inputs,
            layers: false,
        }
    }
}

/// How far a device and this machine agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Bytes that this machine puts out for all inputs.
    pub output_bytes: usize,
    /// Those that differ on the device, or are missing there.
    pub mismatched_bytes: usize,
    /// First output byte that differs: number of the inference, and of the byte in its
    /// output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<(usize, usize)>,
    /// Inferences that the device is not sure enough of to answer.
    pub not_sure: usize,
    /// Those where this machine decides otherwise.
    pub mismatched_decisions: usize,
}

impl Comparison {
    /// Why the device is not to be trusted, if it is not.
    pub fn failure(&self, device: &str) -> Option<String> {
        if let Some((inference, byte)) = self.first_mismatch {
            let (count, all) = (self.mismatched_bytes, self.output_bytes);
            return Some(format!(
                "{count} of {all} output bytes differ between {device} and this machine, first in inference {inference}, byte {byte}"
            ));
        }
        (self.mismatched_decisions > 0).then(|| {
            format!(
                "{device} and this machine are not sure of the same answers: {} differ",
                self.mismatched_decisions
            )
        })
    }
}

/// Where a device and this machine part: the first element of the first layer that differs,
/// in the order of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parting {
    /// Number of the inference, from 0.
    pub inference: usize,
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Row, column and channel of its output.
    pub element: [usize; 3],
    /// What this machine computes.
    pub host: i8,
    /// What the device does; nothing where it sent too few bytes.
    pub device: Option<i8>,
}

/// A device's answers, how far they agree, and where they part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the device answered and what that cost it, without its layers.
    pub run: DeviceRun,
    /// Its outputs against those of this machine.
    pub outputs: Comparison,
    /// The first layer that differs. Nothing where all bytes are the same, or where the
    /// input whose output differed came out right when it was asked again.
    pub parting: Option<Parting>,
    /// Bytes of all layers that were compared: of all inputs where layers were asked for,
    /// else of the one whose output differs.
    pub layer_bytes: usize,
}

/// Has a device answer all inputs. Where an output differs, the first such input is asked
/// again with all layers, to find the one that is at fault; with `layers` all inputs are
/// compared layer by layer.
pub fn verify<E>(
    model: &Model,
    inputs: &[i8],
    layers: bool,
    mut ask: impl FnMut(Questions) -> Result<DeviceRun, E>,
) -> Result<Verified, E> {
    let mut run = ask(Questions { inputs, layers })?;
    let outputs = compare(model, inputs, &run);
    let (parting, layer_bytes) = match outputs.first_mismatch {
        _ if layers => part(model, inputs, &std::mem::take(&mut run.layers)),
        None => (None, 0),
        Some((inference, _)) => {
            let width = model.input_shape().len();
            let one = inputs.chunks_exact(width).nth(inference);
            let inputs = one.unwrap_or_default();
            let again = ask(Questions {
                inputs,
                layers: true,
            })?;
            let (parting, bytes) = part(model, inputs, &again.layers);
            (parting.map(|part| Parting { inference, ..part }), bytes)
        }
    };
    Ok(Verified {
        run,
        outputs,
        parting,
        layer_bytes,
    })
}

/// Compares the outputs of a device with those of this machine.
pub fn compare(model: &Model, inputs: &[i8], run: &DeviceRun) -> Comparison {
    let (mut outputs, mut sure) = (Vec::new(), Vec::new());
    infer(model, inputs, |engine, input| {
        outputs.extend_from_slice(engine.infer(|to| to.copy_from_slice(input)));
        sure.push(engine.is_sure());
    });
    let width = model.output_shape().len();
    let missing = run.outputs.len().abs_diff(outputs.len());
    let differing: Vec<usize> = differing(&outputs, &run.outputs).collect();
    let first = differing.first().copied();
    // What is missing, or too much, begins where the shorter ends.
    let first = first.or((missing > 0).then(|| run.outputs.len().min(outputs.len())));
    Comparison {
        output_bytes: outputs.len(),
        mismatched_bytes: differing.len() + missing,
        first_mismatch: first.map(|at| (at / width, at % width)),
        not_sure: run.sure.iter().filter(|sure| !**sure).count(),
        mismatched_decisions: run.sure.iter().zip(&sure).filter(|(a, b)| a != b).count()
            + run.sure.len().abs_diff(sure.len()),
    }
}

fn differing<'s>(host: &'s [i8], device: &'s [i8]) -> impl Iterator<Item = usize> + 's {
    let pairs = host.iter().zip(device).enumerate();
    pairs
        .filter(|(_, (host, device))| host != device)
        .map(|(at, _)| at)
}

/// The first element in which the layers of all inputs differ, and how many bytes they have.
fn part(model: &Model, inputs: &[i8], device: &[i8]) -> (Option<Parting>, usize) {
    let (mut parting, mut offset, mut inference) = (None, 0, 0);
    infer(model, inputs, |engine, input| {
        let fill = |to: &mut [i8]| to.copy_from_slice(input);
        engine.infer_observed(fill, |layer, host| {
            let device = device.get(offset..).unwrap_or_default();
            offset += host.len();
            let first = differing(host, device).next();
            let first = first.or((device.len() < host.len()).then_some(device.len()));
            if let (None, Some(at)) = (parting, first) {
                parting = Some(Parting {
                    inference,
                    layer,
                    element: place(model, layer, at),
                    host: host.get(at).copied().unwrap_or_default(),
                    device: device.get(at).copied(),
                });
            }
        });
        inference += 1;
    });
    (parting, offset)
}

/// Row, column and channel of an element of what a layer writes.
fn place(model: &Model, layer: usize, at: usize) -> [usize; 3] {
    let shape = model.tensor(layer as u8 + 1).shape;
    let (width, channels) = (shape.width().max(1), shape.channels().max(1));
    [at / channels / width, at / channels % width, at % channels]
}

fn infer(model: &Model, inputs: &[i8], mut each: impl FnMut(&mut Engine, &[i8])) {
    let mut arena = vec![0; model.arena_bytes()];
    // The arena is as large as the model says.
    if let Ok(mut engine) = Engine::new(model, &mut arena) {
        for input in inputs.chunks_exact(model.input_shape().len()) {
            each(&mut engine, input);
        }
    }
}
