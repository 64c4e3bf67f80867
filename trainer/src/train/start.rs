//! The checkpoint from which a training starts.

use std::path::Path;

use shared::layer::Layer;
use shared::model::Resize;

use super::{TrainError, TrainOptions};
use crate::checkpoint::{Checkpoint, InputScale};
use crate::data::Dataset;
use crate::network::{Network, Node, initial_tensors};

/// A checkpoint to start from: random by `options.seed`, or `options.base` with
/// a new head where the classes differ.
pub fn start(
    network: Network,
    data: &Dataset,
    resize: Resize,
    options: &TrainOptions,
) -> Result<Checkpoint, TrainError> {
    check_frozen(&network, &options.freeze)?;
    let mut checkpoint = Checkpoint {
        tensors: initial_tensors(&network, options.seed),
        classes: data.classes.clone(),
        input: input_scale(data),
        training: None,
        split: None,
        grids: Default::default(),
        network,
        resize,
    };
    if let Some(file) = &options.base {
        take_over(&mut checkpoint, Checkpoint::load(file)?, file)?;
    }
    Ok(checkpoint)
}

/// Frozen layers are layers with weights.
fn check_frozen(network: &Network, freeze: &[String]) -> Result<(), TrainError> {
    let nodes = network.nodes.iter();
    let nodes = nodes.filter(|node| network.params(node).is_some());
    let layers: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
    match freeze.iter().find(|name| !layers.contains(&name.as_str())) {
        Some(name) => Err(TrainError::NoLayer {
            name: name.clone(),
            layers: layers.join(", "),
        }),
        None => Ok(()),
    }
}

/// Mean 0 and standard deviation 1 over all pixels of the sample, but for the
/// mean, which is rounded to a whole pixel value.
fn input_scale(data: &Dataset) -> InputScale {
    let (mut count, mut sum, mut squares) = (0u64, 0u64, 0u64);
    for &pixel in data.pictures.iter().flat_map(|picture| &picture.pixels) {
        count += 1;
        sum += u64::from(pixel);
        squares += u64::from(pixel).pow(2);
    }
    let mean = sum as f64 / count.max(1) as f64;
    let variance = squares as f64 / count.max(1) as f64 - mean * mean;
    InputScale {
        mean: mean.round() as u8,
        // Pictures of one grey have a deviation of 0.
        scale: (1.0 / variance.sqrt().max(1.0)) as f32,
    }
}

/// Copies the tensors of a base, and its input scale, which they are made for.
/// The head stays new unless it tells the same classes apart.
fn take_over(new: &mut Checkpoint, base: Checkpoint, file: &Path) -> Result<(), TrainError> {
    check_architecture(&new.network, &base.network, file)?;
    let head = new.network.head()?.name.clone() + ".";
    let same_classes = new.classes == base.classes;
    let taken = base
        .tensors
        .into_iter()
        .filter(|(name, _)| same_classes || !name.starts_with(&head));
    new.tensors.extend(taken);
    new.input = base.input;
    Ok(())
}

/// The body must be the same, layer by layer; the head may have other units.
fn check_architecture(new: &Network, base: &Network, file: &Path) -> Result<(), TrainError> {
    let differ = |layer: &str, new: String, base: String| TrainError::Architecture {
        file: file.to_owned(),
        layer: layer.to_owned(),
        new,
        base,
    };
    if new.input != base.input {
        return Err(differ(
            "input",
            new.input.to_string(),
            base.input.to_string(),
        ));
    }
    let head = &new.head()?.name;
    let mut behind_body = false;
    for index in 0..new.nodes.len().max(base.nodes.len()) {
        let pair = (new.nodes.get(index), base.nodes.get(index));
        let same = match pair {
            (Some(a), Some(b)) if behind_body || a.name == *head => same_kind(a, b),
            (a, b) => a == b,
        };
        if !same {
            let name = pair.0.or(pair.1).map_or("", |node| node.name.as_str());
            return Err(differ(name, describe(pair.0), describe(pair.1)));
        }
        behind_body |= pair.0.is_some_and(|node| node.name == *head);
    }
    Ok(())
}

/// Equal but for the number of units, and what follows from it.
fn same_kind(a: &Node, b: &Node) -> bool {
    let same_layer = match (a.layer, b.layer) {
        (Layer::Dense(a), Layer::Dense(b)) => a.activation == b.activation,
        (a, b) => a == b,
    };
    same_layer && a.name == b.name && a.inputs == b.inputs && a.batch_norm == b.batch_norm
}

fn describe(node: Option<&Node>) -> String {
    node.map_or_else(
        || "missing".to_owned(),
        |node| format!("{} to {}", node.layer.kind(), node.output),
    )
}
