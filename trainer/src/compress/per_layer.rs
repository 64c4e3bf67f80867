//! A value for each layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::factorise::DEPTHWISE;
use crate::network::Network;

/// One value for all layers, or one for each of some: `4`, or
/// `{ conv2d_1 = 8, "*" = 4 }`, where `*` stands for all that are not named.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLayer<T> {
    /// For all.
    All(T),
    /// By the names of layers.
    Named(BTreeMap<String, T>),
}

/// The name of all other layers.
pub const OTHERS: &str = "*";

impl<T: Copy> PerLayer<T> {
    /// The value for a layer, if it has one.
    pub fn of(&self, layer: &str) -> Option<T> {
        match self {
            Self::All(value) => Some(*value),
            Self::Named(values) => values.get(layer).or_else(|| values.get(OTHERS)).copied(),
        }
    }

    /// With another value in place of each.
    pub fn map<U>(&self, change: impl Fn(T) -> U) -> PerLayer<U> {
        match self {
            Self::All(value) => PerLayer::All(change(*value)),
            Self::Named(values) => {
                let values = values.iter();
                PerLayer::Named(values.map(|(name, &v)| (name.clone(), change(v))).collect())
            }
        }
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = T> {
        let (one, named) = match self {
            Self::All(value) => (Some(*value), None),
            Self::Named(values) => (None, Some(values.values().copied())),
        };
        one.into_iter().chain(named.into_iter().flatten())
    }

    /// A name that no layer with weights has, nor the first part of one that is split.
    pub fn unknown(&self, network: &Network) -> Option<&str> {
        let Self::Named(values) = self else {
            return None;
        };
        unknown(values.keys(), network)
    }
}

/// A name that no layer with weights has, nor the first part of one that is split.
pub(super) fn unknown<'a>(
    mut names: impl Iterator<Item = &'a String>,
    network: &Network,
) -> Option<&'a str> {
    let known = |name: &str| {
        let mut nodes = network.nodes.iter();
        let name = name.strip_suffix(DEPTHWISE).unwrap_or(name);
        name == OTHERS || nodes.any(|n| n.name == name && network.params(n).is_some())
    };
    names.find(|name| !known(name)).map(String::as_str)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Bits {
        bits: PerLayer<u8>,
    }

    #[test]
    fn a_layer_has_its_own_value_or_that_of_the_others() {
        let read = |text| toml::from_str::<Bits>(text).unwrap().bits;
        assert_eq!(read("bits = 4").of("a"), Some(4));
        let named = read("bits = { a = 8, '*' = 4 }");
        assert_eq!((named.of("a"), named.of("b")), (Some(8), Some(4)));
        assert_eq!(read("bits = { a = 8 }").of("b"), None);
    }
}
