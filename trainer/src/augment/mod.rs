//! Augmentation: small random changes that leave the class of a picture alone.
//!
//! Each operation is a struct of its own; [`Augmentation`] has a field for each. Operations that move pixels only
//! draw a map: the maps are multiplied and the picture is resampled once, so that ten operations blur no more
//! than one. Those that change values follow, and mixing two pictures comes last.

mod elastic;
mod geometry;
mod mix;
mod pixels;
mod random;
mod resample;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::data::{Dataset, PictureShape};
use crate::random::stream;
pub use elastic::Elastic;
use elastic::Field;
pub use geometry::{Crop, Flip, FlipVertical, Rotate, Scale, Shear, Shift};
pub use mix::{Cutmix, Mixup};
pub use pixels::{Blur, Brightness, Contrast, Erase, Noise};
pub use random::Random;
use resample::{Affine, resample};
pub use resample::{Border, Colour};

/// Which random changes are made to training pictures; by default none.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Mirror left and right.
    pub flip: Flip,
    /// Mirror top and bottom.
    pub flip_vertical: FlipVertical,
    /// Turn.
    pub rotate: Rotate,
    /// Slant.
    pub shear: Shear,
    /// Shrink or enlarge.
    pub scale: Scale,
    /// Cut away and scale back.
    pub crop: Crop,
    /// Move.
    pub shift: Shift,
    /// Bend.
    pub elastic: Elastic,
    /// Blur.
    pub blur: Blur,
    /// More or less contrast.
    pub contrast: Contrast,
    /// Lighter or darker.
    pub brightness: Brightness,
    /// Noise.
    pub noise: Noise,
    /// A rectangle of nonsense.
    pub erase: Erase,
    /// One more operation for each picture, at random.
    pub random: Random,
    /// Blend with another picture.
    pub mixup: Mixup,
    /// Paste a part of another picture.
    pub cutmix: Cutmix,
}

/// Names one random change: the same draw gives the same change on every machine and thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The seed of the training run.
    pub seed: u64,
    /// Which sample: its position in the data set.
    pub index: u64,
    /// Which pass over the data set.
    pub epoch: u64,
}

/// The picture that was mixed into another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// Its class.
    pub label: usize,
    /// How much of the result it is, 0 to 1.
    pub share: f32,
}

/// A setting out of its range.
#[derive(Debug, Error, Clone, PartialEq)]
#[error("augment.{key} = {value} is out of range; give a number from 0 to {max}")]
pub struct AugmentError {
    /// The key, as in `espalier.toml`.
    pub key: &'static str,
    /// What was given.
    pub value: f32,
    /// The largest value allowed.
    pub max: f32,
}

impl Augmentation {
    /// The same for each picture alone: no part of another one comes in.
    pub fn without_mixing(&self) -> Self {
        Self {
            mixup: Mixup::default(),
            cutmix: Cutmix::default(),
            ..self.clone()
        }
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    ///
    /// [`AugmentError`] for the first one that is not, or is not a number.
    pub fn validate(&self) -> Result<(), AugmentError> {
        let operations = self.operations();
        operations
            .iter()
            .try_for_each(|operation| operation.check())?;
        self.mixup.check()?;
        self.cutmix.check()
    }

    /// Each operation alone, at a strength that shows well, by its key: to be looked at.
    #[must_use]
    pub fn each() -> Vec<(&'static str, Self)> {
        macro_rules! alone {
            ($($key:ident: $value:expr),* $(,)?) => {
                vec![$((stringify!($key), Self { $key: $value, ..Self::default() })),*]
            };
        }
        alone![
            flip: Flip(true),
            flip_vertical: FlipVertical(true),
            rotate: Rotate(20.0),
            shear: Shear(0.3),
            scale: Scale(0.3),
            crop: Crop(0.2),
            shift: Shift(0.2),
            elastic: Elastic(0.15),
            blur: Blur(1.5),
            contrast: Contrast(0.8),
            brightness: Brightness(0.4),
            noise: Noise(0.15),
            erase: Erase(0.3),
            random: Random(true),
            mixup: Mixup(1.0),
            cutmix: Cutmix(1.0),
        ]
    }

    /// Writes to `out` what training sees of the picture at `draw.index`: changed by [`Augmentation::apply`], and
    /// mixed with another one that is changed likewise, which it then names.
    ///
    /// Where both `mixup` and `cutmix` are set, each has every other picture.
    pub fn view(
        &self,
        data: &Dataset,
        border: Border,
        draw: Draw,
        out: &mut [u8],
    ) -> Option<Second> {
        let changed = |index: u64, out: &mut [u8]| {
            let picture = data.pictures.get(usize::try_from(index).ok()?)?;
            let draw = Draw { index, ..draw };
            self.apply(&picture.pixels, data.shape, border, draw, out);
            Some(picture.label)
        };
        changed(draw.index, out)?;
        if !self.mixup.is_on() && !self.cutmix.is_on() {
            return None;
        }
        let mut random = draw.stream("mix");
        let index = random.random_range(0..data.pictures.len() as u64);
        let first: bool = random.random();
        let mut other = vec![0; out.len()];
        let label = changed(index, &mut other)?;
        let share = match self.mixup.is_on() && (first || !self.cutmix.is_on()) {
            true => self.mixup.mix(&mut random, out, &other),
            false => self.cutmix.mix(&mut random, data.shape, out, &mut other),
        };
        Some(Second { label, share })
    }

    /// Writes a changed copy of `picture` to `out`: both unsigned bytes, HWC, of `shape`.
    ///
    /// The operations happen in the order of the fields, those that move pixels with one bilinear resampling. Each
    /// operation has a random stream of its own, so that setting one does not alter what the others do.
    pub fn apply(
        &self,
        picture: &[u8],
        shape: PictureShape,
        border: Border,
        draw: Draw,
        out: &mut [u8],
    ) {
        let chosen = self.random.choose(draw);
        let on = |augmentation: &Self, stream: &dyn Fn(&str) -> ChaCha8Rng| -> Vec<Change> {
            let on = augmentation.operations().into_iter().filter(|o| o.is_on());
            on.map(|operation| operation.draw(stream(operation.key()), shape))
                .collect()
        };
        let mut changes = on(self, &|key| draw.stream(key));
        if let Some((augmentation, random)) = &chosen {
            changes.extend(on(augmentation, &|_| random.clone()));
        }
        let (mut map, mut fields, mut paints) = (Affine::IDENTITY, Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::Move(next) => map = map.after(next),
                Change::Bend(field) => fields.push(*field),
                Change::Repaint(paint) => paints.push(paint),
            }
        }
        resample(&map, &fields, picture, shape, border, out);
        paints.into_iter().for_each(|paint| paint(out));
    }

    /// The operations on one picture, in the order in which they happen. A new one is listed here.
    fn operations(&self) -> [&dyn Operation; 13] {
        let Self {
            flip,
            flip_vertical,
            rotate,
            shear,
            scale,
            crop,
            shift,
            elastic,
            blur,
            contrast,
            brightness,
            noise,
            erase,
            random: _,
            mixup: _,
            cutmix: _,
        } = self;
        [
            flip,
            flip_vertical,
            rotate,
            shear,
            scale,
            crop,
            shift,
            elastic,
            blur,
            contrast,
            brightness,
            noise,
            erase,
        ]
    }
}

impl Draw {
    /// Another one for each operation.
    fn stream(&self, key: &str) -> ChaCha8Rng {
        stream([self.seed, self.index, self.epoch], key)
    }
}

/// A key of `[augment]`.
trait Setting {
    /// Its name. The first eight letters also name the random stream and must be its own.
    fn key(&self) -> &'static str;
    /// What it is set to; 0 does nothing, and true is 1.
    fn value(&self) -> f32;
    /// The largest value allowed.
    fn max(&self) -> f32;

    /// Whether it does anything.
    fn is_on(&self) -> bool {
        self.value() != 0.0
    }

    /// Whether it is in its range; what is not a number is in none.
    fn check(&self) -> Result<(), AugmentError> {
        let (key, value, max) = (self.key(), self.value(), self.max());
        match (0.0..=max).contains(&value) {
            true => Ok(()),
            false => Err(AugmentError { key, value, max }),
        }
    }
}

/// Makes a struct of one value, a number or true and false, a [`Setting`].
macro_rules! setting {
    ($type:ty, $key:literal, 0 to $max:literal) => {
        impl $crate::augment::Setting for $type {
            fn key(&self) -> &'static str {
                $key
            }

            fn value(&self) -> f32 {
                f32::from(self.0)
            }

            fn max(&self) -> f32 {
                $max
            }
        }
    };
}
use setting;

/// A change of one picture.
trait Operation: Setting {
    /// What it does to this picture, by its stream.
    fn draw(&self, random: ChaCha8Rng, shape: PictureShape) -> Change;
}

/// What an operation does to a picture.
enum Change {
    /// Moves pixels: from a pixel of the result to the place in the picture that it shows.
    Move(Affine),
    /// Moves pixels, each by itself.
    Bend(Box<Field>),
    /// Changes values.
    Repaint(Paint),
}

/// Changes the values of a picture.
type Paint = Box<dyn FnOnce(&mut [u8])>;

impl Change {
    fn repaint(paint: impl FnOnce(&mut [u8]) + 'static) -> Self {
        Self::Repaint(Box::new(paint))
    }
}

/// Uniform from `-max` to `max`.
fn either_way(random: &mut ChaCha8Rng, max: f32) -> f32 {
    (random.random::<f32>() * 2.0 - 1.0) * max
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Picture;
    use rayon::prelude::*;

    const SHAPE: PictureShape = PictureShape {
        height: 28,
        width: 28,
        channels: 1,
    };

    fn draw(index: u64) -> Draw {
        Draw {
            seed: 1,
            index,
            epoch: 0,
        }
    }

    fn noise(shape: PictureShape) -> Vec<u8> {
        (0..shape.bytes())
            .map(|at| (at * at * 31 + at * 7 + 1) as u8)
            .collect()
    }

    fn applied(
        augmentation: &Augmentation,
        shape: PictureShape,
        border: Border,
        draw: Draw,
    ) -> Vec<u8> {
        let mut out = vec![0; shape.bytes()];
        augmentation.apply(&noise(shape), shape, border, draw, &mut out);
        out
    }

    fn every() -> Augmentation {
        Augmentation {
            flip: Flip(true),
            rotate: Rotate(15.0),
            crop: Crop(0.1),
            shift: Shift(0.1),
            ..Augmentation::default()
        }
    }

    /// All that can be set.
    fn everything() -> Augmentation {
        Augmentation {
            flip_vertical: FlipVertical(true),
            shear: Shear(0.2),
            scale: Scale(0.2),
            elastic: Elastic(0.1),
            blur: Blur(1.0),
            contrast: Contrast(0.5),
            brightness: Brightness(0.2),
            noise: Noise(0.1),
            erase: Erase(0.3),
            random: Random(true),
            mixup: Mixup(0.2),
            cutmix: Cutmix(1.0),
            ..every()
        }
    }

    /// Through a given map, with a border of 0.
    fn mapped(map: Affine, shape: PictureShape) -> Vec<u8> {
        let mut out = vec![0; shape.bytes()];
        resample(
            &map,
            &[],
            &noise(shape),
            shape,
            Border::Fill([0; 3]),
            &mut out,
        );
        out
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        for shape in [
            SHAPE,
            PictureShape {
                height: 5,
                width: 8,
                channels: 3,
            },
        ] {
            assert_eq!(
                applied(&Augmentation::default(), shape, Border::Edge, draw(3)),
                noise(shape)
            );
        }
    }

    #[test]
    fn a_flip_is_exact_and_happens_every_other_time() {
        let shape = PictureShape {
            height: 5,
            width: 8,
            channels: 3,
        };
        let flip = Augmentation {
            flip: Flip(true),
            ..Augmentation::default()
        };
        let picture = noise(shape);
        let mirrored: Vec<u8> = picture
            .chunks(24)
            .flat_map(|row| row.chunks(3).rev().flatten().copied().collect::<Vec<_>>())
            .collect();
        let mut flipped = 0;
        for index in 0..1000 {
            let out = applied(&flip, shape, Border::Fill([0; 3]), draw(index));
            assert!(out == picture || out == mirrored);
            flipped += usize::from(out == mirrored);
        }
        assert!((450..550).contains(&flipped), "{flipped}");
    }

    #[test]
    fn quarter_turns_and_whole_shifts_are_exact() {
        let turned = mapped(
            Affine {
                xx: 0.0,
                xy: 1.0,
                yx: -1.0,
                yy: 0.0,
                x: 0.0,
                y: 0.0,
            },
            SHAPE,
        );
        let shifted = mapped(
            Affine {
                x: 2.0,
                y: -1.0,
                ..Affine::IDENTITY
            },
            SHAPE,
        );
        let picture = noise(SHAPE);
        for (y, x) in (0..28).flat_map(|y| (0..28).map(move |x| (y, x))) {
            assert_eq!(turned[y * 28 + x], picture[(27 - x) * 28 + y]);
            let from = if y >= 1 && x < 26 {
                picture[(y - 1) * 28 + x + 2]
            } else {
                0
            };
            assert_eq!(shifted[y * 28 + x], from);
        }
    }

    #[test]
    fn half_a_pixel_blends_two() {
        let shape = PictureShape {
            height: 1,
            width: 3,
            channels: 1,
        };
        let through = |border| {
            let mut out = [0; 3];
            let map = Affine {
                x: 0.5,
                ..Affine::IDENTITY
            };
            resample(&map, &[], &[10, 20, 40], shape, border, &mut out);
            out
        };
        assert_eq!(through(Border::Edge), [15, 30, 40]);
        assert_eq!(through(Border::Fill([100; 3])), [15, 30, 70]);
    }

    #[test]
    fn maps_multiply_in_the_order_of_the_operations() {
        // Flipped, then moved right by 2: the first column of the result is empty, the third shows the last.
        let flip = Affine {
            xx: -1.0,
            ..Affine::IDENTITY
        };
        let out = mapped(
            flip.after(Affine {
                x: -2.0,
                ..Affine::IDENTITY
            }),
            SHAPE,
        );
        assert_eq!((out[0], out[2]), (0, noise(SHAPE)[27]));
    }

    #[test]
    fn samples_keep_to_their_ranges() {
        let frame = PictureShape {
            height: 10,
            width: 20,
            channels: 1,
        };
        for index in 0..1000 {
            let sample = |operation: &dyn Operation| match operation
                .draw(draw(index).stream(operation.key()), frame)
            {
                Change::Move(map) => map,
                _ => panic!("{} does not move", operation.key()),
            };
            let turn = sample(&Rotate(30.0));
            assert!(turn.xx >= 0.866 && (turn.xx * turn.yy - turn.xy * turn.yx - 1.0).abs() < 1e-5);
            let shift = sample(&Shift(0.2));
            assert!(shift.x.abs() <= 4.0 && shift.y.abs() <= 2.0);
            let crop = sample(&Crop(0.25));
            // The corners of the result show places within the picture.
            for (x, y) in [(-10.0, -5.0), (10.0, -5.0), (-10.0, 5.0), (10.0, 5.0)] {
                let (x, y) = crop.at(x, y);
                assert!(x.abs() <= 10.001 && y.abs() <= 5.001 && crop.xx >= 0.5);
            }
            let shear = sample(&Shear(0.2));
            assert!(shear.xy.abs() <= 0.2 && shear.yx.abs() <= 0.2 && shear.xy * shear.yx == 0.0);
            let scale = sample(&Scale(0.25));
            assert!((0.8..=1.25).contains(&scale.xx) && scale.xx == scale.yy);
            assert_eq!(sample(&FlipVertical(true)).yy.abs(), 1.0);
        }
    }

    #[test]
    fn a_draw_decides_alone() {
        let one = |index| applied(&every(), SHAPE, Border::Fill([0; 3]), draw(index));
        let in_order: Vec<_> = (0..200).map(one).collect();
        let in_parallel: Vec<_> = (0..200u64).into_par_iter().map(one).collect();
        assert_eq!(in_order, in_parallel);
        let other = |draw| applied(&every(), SHAPE, Border::Fill([0; 3]), draw);
        assert_ne!(in_order[0], in_order[1]);
        assert_ne!(
            in_order[0],
            other(Draw {
                epoch: 1,
                ..draw(0)
            })
        );
        assert_ne!(in_order[0], other(Draw { seed: 2, ..draw(0) }));
    }

    /// Twenty pictures of two classes.
    fn data() -> Dataset {
        let picture = |at: usize| Picture {
            pixels: noise(SHAPE).iter().map(|v| v ^ (at as u8 * 11)).collect(),
            label: at % 2,
        };
        Dataset {
            shape: SHAPE,
            classes: vec!["a".into(), "b".into()],
            pictures: (0..20).map(picture).collect(),
        }
    }

    #[test]
    fn a_draw_decides_alone_what_is_mixed() {
        let data = data();
        let view = |index: u64| {
            let mut out = vec![0; SHAPE.bytes()];
            let second = everything().view(&data, Border::Edge, draw(index), &mut out);
            (out, second)
        };
        let in_order: Vec<_> = (0..20).map(view).collect();
        let in_parallel: Vec<_> = (0..20u64).into_par_iter().map(view).collect();
        assert_eq!(in_order, in_parallel);
        let seconds: Vec<Second> = in_order.iter().filter_map(|(_, second)| *second).collect();
        assert_eq!(seconds.len(), 20);
        assert!(
            seconds
                .iter()
                .all(|s| s.label < 2 && (0.0..=1.0).contains(&s.share))
        );
        assert!(seconds.iter().any(|s| s.label == 0) && seconds.iter().any(|s| s.label == 1));
    }

    #[test]
    fn what_is_mixed_in_has_its_share() {
        let mut data = data();
        for (at, picture) in data.pictures.iter_mut().enumerate() {
            picture.pixels = vec![10 * at as u8; SHAPE.bytes()];
            picture.label = at;
        }
        for (mixup, cutmix) in [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)] {
            let mixed = Augmentation {
                mixup: Mixup(mixup),
                cutmix: Cutmix(cutmix),
                ..Augmentation::default()
            };
            for index in 0..20 {
                let mut out = vec![0; SHAPE.bytes()];
                let second = mixed
                    .view(&data, Border::Edge, draw(index), &mut out)
                    .unwrap();
                let sum: u64 = out.iter().map(|&value| u64::from(value)).sum();
                let mean = sum as f32 / out.len() as f32;
                let (own, other) = (10.0 * index as f32, 10.0 * second.label as f32);
                let wanted = own * (1.0 - second.share) + other * second.share;
                assert!((mean - wanted).abs() <= 0.5, "{mean} and not {wanted}");
            }
        }
        assert_eq!(
            every().view(&data, Border::Edge, draw(1), &mut [0; 784]),
            None
        );
        assert_eq!(
            everything().view(&data, Border::Edge, draw(99), &mut [0; 784]),
            None
        );
    }

    #[test]
    fn each_operation_changes_pictures_and_has_a_stream_of_its_own() {
        let everything = everything();
        let operations = everything.operations();
        let mut names: Vec<String> = operations
            .iter()
            .map(|operation| operation.key())
            .chain(["random", "mix"])
            .map(|key| key.chars().take(8).collect())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), operations.len() + 2);
        let table = toml::Table::try_from(&everything).unwrap();
        for (key, value) in table {
            let text = format!("{key} = {value}");
            let alone: Augmentation = toml::from_str(&text).unwrap();
            let data = data();
            let changed = (0..20).filter(|&index| {
                let mut out = vec![0; SHAPE.bytes()];
                alone.view(&data, Border::Edge, draw(index), &mut out);
                out != data.pictures[index as usize].pixels
            });
            assert!(changed.count() >= 5, "{key} changes nothing");
        }
    }

    #[test]
    fn one_operation_does_not_alter_what_another_draws() {
        let both = Augmentation {
            rotate: Rotate(0.0),
            crop: Crop(0.0),
            ..every()
        };
        let alone = Augmentation {
            flip: Flip(false),
            ..both.clone()
        };
        let unflipped = (0..50).filter(|&index| {
            applied(&both, SHAPE, Border::Edge, draw(index))
                == applied(&alone, SHAPE, Border::Edge, draw(index))
        });
        assert!((15..35).contains(&unflipped.count()));
    }

    #[test]
    fn the_stream_is_pinned() {
        // A change here changes every training run that names a seed.
        let sum = |border| {
            applied(&every(), SHAPE, border, draw(5))
                .iter()
                .map(|&value| u32::from(value))
                .sum::<u32>()
        };
        assert_eq!(
            [sum(Border::Fill([0; 3])), sum(Border::Edge)],
            [96058, 98918]
        );
    }

    #[test]
    fn silly_settings_are_refused() {
        assert_eq!(everything().validate(), Ok(()));
        let limits = Augmentation {
            rotate: Rotate(180.0),
            crop: Crop(0.5),
            shift: Shift(0.5),
            ..every()
        };
        assert_eq!(limits.validate(), Ok(()));
        for wrong in [-0.1, 181.0, f32::NAN, f32::INFINITY] {
            for (silly, key) in [
                (
                    Augmentation {
                        rotate: Rotate(wrong),
                        ..every()
                    },
                    "rotate",
                ),
                (
                    Augmentation {
                        crop: Crop(wrong),
                        ..every()
                    },
                    "crop",
                ),
                (
                    Augmentation {
                        shift: Shift(wrong),
                        ..every()
                    },
                    "shift",
                ),
            ] {
                assert_eq!(silly.validate().unwrap_err().key, key);
            }
        }
        let error = Augmentation {
            shift: Shift(0.6),
            ..every()
        }
        .validate()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "augment.shift = 0.6 is out of range; give a number from 0 to 0.5"
        );
    }

    #[test]
    fn odd_buffers_do_no_harm() {
        for (height, width, channels) in [
            (0, 0, 1),
            (1, 1, 1),
            (1, 1, 3),
            (3, 4, 2),
            (3, 4, 0),
            (28, 28, 1),
        ] {
            let shape = PictureShape {
                height,
                width,
                channels,
            };
            for border in [Border::Fill([1; 3]), Border::Edge] {
                for index in 0..20 {
                    everything().apply(&[1, 2, 3], shape, border, draw(index), &mut [0; 30]);
                }
                let silly = Augmentation {
                    shift: Shift(f32::INFINITY),
                    rotate: Rotate(f32::NAN),
                    ..every()
                };
                silly.apply(&[1, 2, 3], shape, border, draw(1), &mut [0; 30]);
                let far = Augmentation {
                    shift: Shift(f32::MAX),
                    ..every()
                };
                far.apply(&[1, 2, 3], shape, border, draw(1), &mut [0; 30]);
            }
        }
    }

    #[test]
    fn settings_are_plain_values() {
        let read: Augmentation =
            toml::from_str("flip = true\nrotate = 15\ncrop = 0.1\nshift = 0.1").unwrap();
        assert_eq!(read, every());
        assert_eq!(
            toml::from_str::<Augmentation>(&toml::to_string(&read).unwrap()).unwrap(),
            read
        );
        assert_eq!(
            toml::from_str::<Augmentation>("").unwrap(),
            Augmentation::default()
        );
        assert!(toml::from_str::<Augmentation>("rotation = 15").is_err());
    }
}
