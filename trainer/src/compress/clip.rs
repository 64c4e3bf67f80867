//! Clamps weights to a range, so that a few large ones do not decide the int8 scale of
//! all the others. The number of parameters stays what it was.

use crate::checkpoint::Checkpoint;
use crate::network::Role;

/// Clamps every weight to `-limit` to `limit`; biases and normalisation stay. A limit is
/// a number above 0.
pub fn clip(checkpoint: &mut Checkpoint, limit: f32) {
    for node in &checkpoint.network.nodes {
        if let Some(array) = checkpoint.tensors.get_mut(&node.tensor_name(Role::Weight)) {
            let weights = array.data.iter_mut();
            weights.for_each(|weight| *weight = weight.clamp(-limit, limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::tests::{GRAPH, checkpoint};

    #[test]
    fn weights_beyond_the_limit_become_the_limit() {
        let whole = checkpoint(GRAPH);
        let mut clipped = whole.clone();
        clip(&mut clipped, 0.05);
        let mut clamped = 0;
        for (name, array) in &whole.tensors {
            for (old, new) in array.data.iter().zip(&clipped.tensors[name].data) {
                match name.ends_with(".weight") && old.abs() > 0.05 {
                    true => assert_eq!(*new, 0.05f32.copysign(*old)),
                    false => assert_eq!(new, old),
                }
                clamped += usize::from(new != old);
            }
        }
        assert!(clamped > 100, "{clamped}");
    }
}
