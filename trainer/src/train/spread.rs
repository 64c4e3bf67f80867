//! A step on several devices: who computes what, and what happens when one is lost.

use std::fmt;

use serde::Serialize;

use super::TrainError;
use super::batch::part;
use super::learn::{Learned, Numbered, Sides, Silent, Task, crossing};
use super::workers::{Workers, join};
use crate::checkpoint::Checkpoint;
use crate::distributed::{DeviceName, Devices, Layout, Seat};
use crate::network::{FloatNetwork, Network};

/// Bytes of a number.
const F32: u64 = 4;

/// The devices of a training.
pub(super) struct Spread<'a> {
    devices: &'a Devices,
    /// The first node of the second device, where the network is divided.
    split: Option<usize>,
}

/// Devices that did not give what they were asked for.
struct Lost<'a>(Vec<(&'a Seat, String)>);

/// Too few devices are left to go on.
pub(super) struct NoneLeft;

impl<'a> Spread<'a> {
    /// Checks that the network can be trained so.
    pub(super) fn new(devices: &'a Devices, network: &Network) -> Result<Self, TrainError> {
        let split = match devices.layout() {
            Layout::Split(layer) => Some(split_at(network, layer)?),
            Layout::Parts => None,
        };
        let normalised = network.has_batch_norm();
        let count = devices.all().len();
        match split.is_none() && normalised && count > 1 {
            true => Err(TrainError::NotDivisible(count)),
            false => Ok(Self { devices, split }),
        }
    }

    /// Whether any device asks for the present tensors.
    pub(super) fn needs_tensors(&self) -> bool {
        !self.devices.all().iter().all(Seat::is_here)
    }

    /// The step, of which those that are left do again what one that is lost did not.
    /// `checkpoint` has the present tensors, where one asks for them.
    pub(super) fn learn(
        &self,
        task: &Task,
        workers: &Workers,
        network: &FloatNetwork,
        checkpoint: &Checkpoint,
        shards: &[Numbered],
    ) -> Result<Vec<Learned>, NoneLeft> {
        loop {
            let seats = self.devices.left();
            let result = match (self.split, seats.as_slice()) {
                (_, []) | (Some(_), [_]) => return Err(NoneLeft),
                (Some(at), [front, back, ..]) => {
                    divided(task, checkpoint, (front, back, at), shards)
                }
                (None, seats) => in_parts(task, workers, network, checkpoint, seats, shards),
            };
            match result {
                Ok(learned) => return Ok(learned),
                Err(lost) => self.lose(lost, task.step),
            }
        }
    }

    fn lose(&self, Lost(lost): Lost, step: usize) {
        for (seat, reason) in lost {
            tracing::debug!("{}: {reason}", seat.name());
            let reason = match seat.name() {
                DeviceName::Worker { .. } => format!(
                    "the connection broke off, or nothing was heard for {} s",
                    self.devices.patience().as_secs()
                ),
                _ => reason,
            };
            tracing::warn!("{} is lost in step {}: {reason}", seat.name(), step + 1);
            seat.lose(reason);
        }
    }

    /// All that are lost, with the reasons.
    pub(super) fn obituary(&self) -> String {
        let lost = self.devices.all().iter();
        let lost =
            lost.filter_map(|seat| Some(format!("{} is lost: {}", seat.name(), seat.lost()?)));
        lost.collect::<Vec<_>>().join("; ")
    }
}

/// Runs of shards that differ by one at the most, in the order of the devices.
fn in_parts<'a>(
    task: &Task,
    workers: &Workers,
    network: &FloatNetwork,
    checkpoint: &Checkpoint,
    seats: &[&'a Seat],
    shards: &[Numbered],
) -> Result<Vec<Learned>, Lost<'a>> {
    let learn = |seat: &Seat, shards: &[Numbered]| match (shards, seat.is_here()) {
        ([], _) => Ok(Vec::new()),
        (_, true) => Ok(task.on_cores(workers, network, shards.to_vec())),
        (_, false) => seat.work(|| {
            let device = seat.device().clone().autodiff();
            Ok(vec![task.on_device(&device, checkpoint, shards)?])
        }),
    };
    let learn = &learn;
    let results: Vec<_> = std::thread::scope(|scope| {
        let parts = seats.iter().enumerate();
        let started = parts.map(|(index, &seat)| {
            let part = part(shards, index, seats.len());
            (seat, scope.spawn(move || learn(seat, part)))
        });
        let started: Vec<_> = started.collect();
        let started = started.into_iter();
        started.map(|(seat, thread)| (seat, join(thread))).collect()
    });
    let (mut all, mut lost) = (Vec::new(), Vec::new());
    for (seat, result) in results {
        match result {
            Ok(learned) => all.extend(learned),
            Err(reason) => lost.push((seat, reason)),
        }
    }
    match lost.is_empty() {
        true => Ok(all),
        false => Err(Lost(lost)),
    }
}

fn divided<'a>(
    task: &Task,
    checkpoint: &Checkpoint,
    (front, back, at): (&'a Seat, &'a Seat, usize),
    shards: &[Numbered],
) -> Result<Vec<Learned>, Lost<'a>> {
    let devices = [front, back].map(|seat| seat.device().clone().autodiff());
    let sides = Sides {
        front: &devices[0],
        back: &devices[1],
        at,
    };
    // On the thread of one that is not here: that keeps its panics to itself.
    let seat = if back.is_here() { front } else { back };
    let result = seat.work(|| Ok(task.on_sides(&sides, checkpoint, shards)));
    match result {
        Ok(Ok(learned)) => Ok(vec![learned]),
        Ok(Err(Silent {
            back: behind,
            reason,
        })) => {
            let seat = if behind { back } else { front };
            Err(Lost(vec![(seat, reason)]))
        }
        // Which of the two it was is not known.
        Err(reason) => Err(Lost(vec![(seat, reason)])),
    }
}

/// The node of a name before which a network can be divided.
fn split_at(network: &Network, layer: &str) -> Result<usize, TrainError> {
    let possible = possible_splits(network);
    let found = possible.clone().find(|&at| network.nodes[at].name == layer);
    found.ok_or_else(|| TrainError::NoSplit {
        name: layer.to_owned(),
        layers: possible
            .map(|at| network.nodes[at].name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Nodes with at least one before them, less a closing softmax, which is not trained.
fn possible_splits(network: &Network) -> impl Iterator<Item = usize> + Clone {
    let closing = network.nodes.last();
    let closing = closing.is_some_and(|node| node.layer == shared::layer::Layer::Softmax);
    1..network.nodes.len() - usize::from(closing)
}

/// What goes to and fro between the sides of a divided network, in bytes for each step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SplitCost {
    /// The first layer of the second device.
    pub layer: String,
    /// Pictures of the largest batch.
    pub pictures: usize,
    /// Activations from the first device to the second.
    pub activation_bytes: u64,
    /// Their gradients back.
    pub gradient_bytes: u64,
    /// Parameters to the devices that are not this machine.
    pub parameter_bytes: u64,
    /// Their gradients back.
    pub parameter_gradient_bytes: u64,
    /// All four.
    pub bytes_per_step: u64,
}

impl SplitCost {
    /// From the shapes alone; `None` where nothing is split.
    pub fn of(devices: &Devices, network: &Network, pictures: usize) -> Option<Self> {
        let (Layout::Split(layer), [front, back]) = (devices.layout(), devices.all()) else {
            return None;
        };
        let at = split_at(network, layer).ok()?;
        let crossing = crossing(network, at).into_iter();
        let values: usize = crossing.map(|value| network.shape(value).len()).sum();
        let activation_bytes = (values * pictures) as u64 * F32;
        let of_side = |seat: &Seat, nodes: &[crate::network::Node]| match seat.is_here() {
            true => 0,
            false => parameter_bytes(network, nodes),
        };
        let (before, behind) = network.nodes.split_at(at);
        let parameter_bytes = of_side(front, before) + of_side(back, behind);
        Some(Self {
            layer: layer.clone(),
            pictures,
            activation_bytes,
            gradient_bytes: activation_bytes,
            parameter_bytes,
            parameter_gradient_bytes: parameter_bytes,
            bytes_per_step: 2 * (activation_bytes + parameter_bytes),
        })
    }
}

fn parameter_bytes(network: &Network, nodes: &[crate::network::Node]) -> u64 {
    let tensors = nodes.iter().flat_map(|node| network.tensors_of(node));
    let lengths = tensors.map(|(_, shape)| shape.iter().product::<usize>() as u64);
    lengths.sum::<u64>() * F32
}

impl fmt::Display for SplitCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "before {}; {} bytes for a step of {} pictures: {} of activations, as many back, {} of parameters, as many back",
            self.layer,
            self.bytes_per_step,
            self.pictures,
            self.activation_bytes,
            self.parameter_bytes
        )
    }
}
