//! A network of other layers, which learns to answer like the one that was given.

use crate::checkpoint::Checkpoint;
use crate::network::{NetworkError, NetworkSpec, initial_tensors};

/// The network of `spec`, with new weights, for the pictures and the classes of `trained`.
pub fn student(
    trained: &Checkpoint,
    spec: &NetworkSpec,
    seed: u64,
) -> Result<Checkpoint, NetworkError> {
    let network = spec.build(trained.network.input, trained.classes.len())?;
    Ok(Checkpoint {
        tensors: initial_tensors(&network, seed),
        grids: Default::default(),
        training: None,
        network,
        ..trained.clone()
    })
}
