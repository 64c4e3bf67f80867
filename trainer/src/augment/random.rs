//! A random operation for each picture.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    Augmentation, Blur, Brightness, Contrast, Draw, Elastic, Noise, Rotate, Scale, Setting, Shear,
    Shift, setting,
};

/// One random operation of random strength for each picture, if true: TrivialAugment (Mueller and Hutter 2021,
/// "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation"), with the operations of this module and
/// about the strengths of its search space RA. It never mirrors, erases or mixes, and turns by 30 degrees at most.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(transparent)]
pub struct Random(pub bool);

/// Operations to choose from, with that which does nothing.
const CHOICES: u32 = 10;

setting!(Random, "random", 0 to 1.0);

impl Random {
    /// The operation of a draw, alone and as strong as it may be, and the stream that it draws from.
    pub(super) fn choose(self, draw: Draw) -> Option<(Augmentation, ChaCha8Rng)> {
        if !self.0 {
            return None;
        }
        let mut random = draw.stream(self.key());
        let choice = random.random_range(0..CHOICES);
        Some((Self::choice(choice), random))
    }

    fn choice(number: u32) -> Augmentation {
        let nothing = Augmentation::default();
        match number {
            0 => Augmentation {
                rotate: Rotate(30.0),
                ..nothing
            },
            1 => Augmentation {
                shear: Shear(0.3),
                ..nothing
            },
            2 => Augmentation {
                scale: Scale(0.3),
                ..nothing
            },
            3 => Augmentation {
                shift: Shift(0.3),
                ..nothing
            },
            4 => Augmentation {
                elastic: Elastic(0.15),
                ..nothing
            },
            5 => Augmentation {
                blur: Blur(1.0),
                ..nothing
            },
            6 => Augmentation {
                contrast: Contrast(0.9),
                ..nothing
            },
            7 => Augmentation {
                brightness: Brightness(0.5),
                ..nothing
            },
            8 => Augmentation {
                noise: Noise(0.1),
                ..nothing
            },
            _ => nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_turn() {
        let all: Vec<Augmentation> = (0..CHOICES).map(Random::choice).collect();
        let mut turns = vec![0; all.len()];
        for index in 0..5000 {
            let draw = Draw {
                seed: 1,
                index,
                epoch: 0,
            };
            let chosen = Random(true).choose(draw).map(|(chosen, _)| chosen);
            let place = all.iter().position(|one| Some(one) == chosen.as_ref());
            place.map(|place| turns[place] += 1).unwrap_or_default();
        }
        assert!(
            turns.iter().all(|turn| (400..600).contains(turn)),
            "{turns:?}"
        );
        for one in &all {
            assert_eq!(one.validate(), Ok(()));
            let on = one.operations().into_iter().filter(|o| o.is_on()).count();
            assert_eq!(on, usize::from(*one != Augmentation::default()));
        }
    }
}
