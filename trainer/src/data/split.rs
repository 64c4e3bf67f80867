//! Which training pictures are learnt from, and which are held back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the training pictures of a source are divided. A checkpoint keeps the one that it
/// was trained with, so that nobody measures it on what it knows.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Fixes which pictures are taken.
    pub seed: u64,
    /// Pictures of each class that are taken; all where there is none.
    pub per_class: Option<usize>,
    /// Share that is held back for decisions.
    pub validation: Option<f32>,
    /// Whether a part is held back to measure on, because the source has no test part.
    pub test: bool,
}

impl Split {
    /// Whether a network that has learnt by `other` may know what this one holds back.
    pub fn is_known_to(&self, other: &Self) -> bool {
        let knows_test = self.test && !(other.test && other.seed == self.seed);
        knows_test || self.validation.is_some() && self != other
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "split_seed = {}", self.seed)?;
        if let Some(count) = self.per_class {
            write!(f, ", per_class = {count}")?;
        }
        match self.validation {
            Some(share) => write!(f, ", validation = {share}"),
            None => write!(f, ", no validation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_known_to_another_split() {
        let whole = Split {
            seed: 1,
            per_class: None,
            validation: None,
            test: false,
        };
        let with = |seed, validation, test| Split {
            seed,
            validation,
            test,
            ..whole
        };
        // Nothing is held back, or the same.
        assert!(!whole.is_known_to(&with(2, Some(0.1), false)));
        assert!(!with(1, Some(0.1), true).is_known_to(&with(1, Some(0.1), true)));
        // The same test part, whatever is taken of the rest.
        assert!(!with(1, None, true).is_known_to(&with(1, Some(0.1), true)));
        for (now, then) in [
            (with(1, None, true), with(2, None, true)),
            (with(1, None, true), whole),
            (with(1, Some(0.1), false), whole),
            (with(1, Some(0.1), false), with(2, Some(0.1), false)),
            (with(1, Some(0.1), false), with(1, Some(0.2), false)),
        ] {
            assert!(now.is_known_to(&then), "{now:?} {then:?}");
        }
    }
}
