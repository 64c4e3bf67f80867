//! Pictures in memory, and how to take some of them.

use std::collections::HashMap;
use std::fmt;

use image::RgbImage;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::DataError;
use crate::augment::{Border, Colour};

/// The shape that all pictures of a data set have: rows, then columns, then channels (HWC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureShape {
    /// Rows, in pixels.
    pub height: usize,
    /// Columns, in pixels.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
}

impl PictureShape {
    /// That of a picture in colour.
    #[must_use]
    pub fn of(picture: &RgbImage) -> Self {
        Self {
            height: picture.height() as usize,
            width: picture.width() as usize,
            channels: 3,
        }
    }

    /// Bytes of one picture.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl fmt::Display for PictureShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// One labelled picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Unsigned bytes, HWC, [`PictureShape::bytes`] of them.
    pub pixels: Vec<u8>,
    /// Index into [`Dataset::classes`].
    pub label: usize,
}

/// Labelled pictures of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The shape of every picture.
    pub shape: PictureShape,
    /// Class names, at least two; a label is an index into them.
    pub classes: Vec<String>,
    /// The pictures: a folder's by class and file name, an IDX file's in its order.
    pub pictures: Vec<Picture>,
}

impl Dataset {
    /// How many pictures each class has, in the order of [`Dataset::classes`].
    #[must_use]
    pub fn counts(&self) -> Vec<usize> {
        self.members().iter().map(Vec::len).collect()
    }

    /// Positions of `count` randomly chosen pictures of each class, ascending.
    ///
    /// Depends on the seed alone, and fewer pictures under the same seed are a subset of more.
    ///
    /// # Errors
    ///
    /// [`DataError::TooFew`] if a class has fewer than `count`.
    pub fn pick_per_class(&self, count: usize, seed: u64) -> Result<Vec<usize>, DataError> {
        let mut picked = Vec::new();
        for (class, mut members) in self.shuffled_members(seed).into_iter().enumerate() {
            self.need(class, members.len(), count)?;
            members.truncate(count);
            picked.append(&mut members);
        }
        picked.sort_unstable();
        Ok(picked)
    }

    /// A data set of `count` randomly chosen pictures of each class: see [`Dataset::pick_per_class`].
    ///
    /// # Errors
    ///
    /// [`DataError::TooFew`] if a class has fewer than `count`.
    pub fn take_per_class(&self, count: usize, seed: u64) -> Result<Self, DataError> {
        Ok(self.subset(&self.pick_per_class(count, seed)?))
    }

    /// Holds back the share `held` (above 0, below 1) of every class: gives the rest and what was held back.
    ///
    /// Depends on the seed alone. At least one picture of each class lands on either side.
    ///
    /// # Errors
    ///
    /// [`DataError::BadOption`] if `held` is out of range, [`DataError::TooFew`] if a class has only one picture.
    pub fn split(&self, held: f32, seed: u64) -> Result<(Self, Self), DataError> {
        if !(held > 0.0 && held < 1.0) {
            let allowed = "a share above 0 and below 1";
            return Err(DataError::BadOption {
                key: "data.split",
                value: held.to_string(),
                allowed,
            });
        }
        let (mut rest, mut back) = (Vec::new(), Vec::new());
        for (class, mut members) in self.shuffled_members(seed).into_iter().enumerate() {
            self.need(class, members.len(), 2)?;
            let count = (members.len() as f32 * held).round() as usize;
            back.extend(members.drain(..count.clamp(1, members.len() - 1)));
            rest.append(&mut members);
        }
        rest.sort_unstable();
        back.sort_unstable();
        Ok((self.subset(&rest), self.subset(&back)))
    }

    /// The pictures at these positions, in this order; positions past the end are left out.
    #[must_use]
    pub fn subset(&self, positions: &[usize]) -> Self {
        let pictures = positions
            .iter()
            .filter_map(|&at| self.pictures.get(at))
            .cloned()
            .collect();
        Self {
            shape: self.shape,
            classes: self.classes.clone(),
            pictures,
        }
    }

    /// So many of the pictures, evenly spread over all; all where there are fewer.
    #[must_use]
    pub fn sample(&self, count: usize) -> Self {
        let all = self.pictures.len();
        let count = count.min(all);
        let positions: Vec<usize> = (0..count).map(|at| at * all / count).collect();
        self.subset(&positions)
    }

    /// What augmentation should paint where a moved picture leaves the frame empty.
    ///
    /// If one colour makes up more than half of the outermost pixels, the pictures stand on a plain background: it is
    /// painted on (0 for Fashion-MNIST, where repeating the edge would smear sleeves). Photographs have no such
    /// colour, and there a plain corner would be a shape that no real picture shows, so the edge is repeated.
    #[must_use]
    pub fn border(&self) -> Border {
        let mut counts: HashMap<Colour, usize> = HashMap::new();
        // A thousand pictures, spread over all classes, tell as much as all.
        for picture in self.pictures.iter().step_by(self.pictures.len() / 1000 + 1) {
            self.outermost(picture, |pixel| {
                let mut colour = Colour::default();
                for (value, of_pixel) in colour.iter_mut().zip(pixel) {
                    *value = *of_pixel;
                }
                *counts.entry(colour).or_default() += 1;
            });
        }
        let total: usize = counts.values().sum();
        let plain = counts.into_iter().find(|&(_, count)| count * 2 > total);
        plain.map_or(Border::Edge, |(colour, _)| Border::Fill(colour))
    }

    fn outermost(&self, picture: &Picture, mut see: impl FnMut(&[u8])) {
        let PictureShape {
            height,
            width,
            channels,
        } = self.shape;
        let pixels = picture.pixels.chunks(channels.max(1));
        for (at, pixel) in pixels.enumerate() {
            let (y, x) = (at / width.max(1), at % width.max(1));
            if [0, height - 1].contains(&y) || [0, width - 1].contains(&x) {
                see(pixel);
            }
        }
    }

    fn need(&self, class: usize, has: usize, wanted: usize) -> Result<(), DataError> {
        if has >= wanted {
            return Ok(());
        }
        let class = self.classes.get(class).cloned().unwrap_or_default();
        Err(DataError::TooFew { class, has, wanted })
    }

    /// The positions of each class's pictures.
    fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.classes.len()];
        for (at, picture) in self.pictures.iter().enumerate() {
            if let Some(class) = members.get_mut(picture.label) {
                class.push(at);
            }
        }
        members
    }

    /// Each class has a random stream of its own, so that a picture more in one leaves the others as they were.
    fn shuffled_members(&self, seed: u64) -> Vec<Vec<usize>> {
        let mut members = self.members();
        for (class, positions) in (0u64..).zip(&mut members) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(class);
            positions.shuffle(&mut random);
        }
        members
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Three classes of 10, 20 and 30 pictures of 3x3x1; every pixel is the picture's position.
    fn sixty() -> Dataset {
        let label = |at| {
            if at < 10 {
                0
            } else {
                1 + usize::from(at >= 30)
            }
        };
        Dataset {
            shape: PictureShape {
                height: 3,
                width: 3,
                channels: 1,
            },
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            pictures: (0..60)
                .map(|at| Picture {
                    pixels: vec![at; 9],
                    label: label(at),
                })
                .collect(),
        }
    }

    #[test]
    fn taking_is_balanced_nested_and_repeatable() {
        let all = sixty();
        assert_eq!(all.counts(), [10, 20, 30]);
        let (few, more) = (
            all.take_per_class(4, 7).unwrap(),
            all.take_per_class(9, 7).unwrap(),
        );
        assert_eq!(few.counts(), [4, 4, 4]);
        assert_eq!(few, all.take_per_class(4, 7).unwrap());
        assert_ne!(few, all.take_per_class(4, 8).unwrap());
        assert!(
            few.pictures
                .iter()
                .all(|picture| more.pictures.contains(picture))
        );
        let error = all.take_per_class(11, 7).unwrap_err().to_string();
        assert_eq!(
            error,
            "class `a` has 10 pictures and 11 are needed; add pictures or ask for fewer"
        );
    }

    #[test]
    fn the_draw_is_pinned() {
        // A published sample was drawn with it: examples/fashion.
        assert_eq!(
            sixty().pick_per_class(3, 1).unwrap(),
            [3, 5, 8, 22, 23, 25, 31, 36, 37]
        );
    }

    #[test]
    fn splitting_keeps_every_picture_once() {
        let all = sixty();
        let (rest, back) = all.split(0.25, 3).unwrap();
        assert_eq!(back.counts(), [3, 5, 8]);
        let mut both = rest.pictures.clone();
        both.extend(back.pictures.clone());
        both.sort_by_key(|picture| picture.pixels[0]);
        assert_eq!(both, all.pictures);
        assert_eq!(all.split(0.25, 3).unwrap(), (rest, back));
        assert_eq!(all.split(0.001, 3).unwrap().1.counts(), [1, 1, 1]);
        assert_eq!(all.split(0.999, 3).unwrap().0.counts(), [1, 1, 1]);
        for silly in [0.0, 1.0, -1.0, f32::NAN] {
            assert!(matches!(
                all.split(silly, 3),
                Err(DataError::BadOption { .. })
            ));
        }
        let one = all.subset(&[0, 10, 11, 30, 31]);
        assert!(matches!(
            one.split(0.5, 3),
            Err(DataError::TooFew {
                has: 1,
                wanted: 2,
                ..
            })
        ));
    }

    #[test]
    fn the_border_is_the_background_if_there_is_one() {
        let mut data = sixty();
        assert_eq!(data.border(), Border::Edge);
        for picture in &mut data.pictures {
            picture.pixels = vec![9, 9, 9, 9, 200, 9, 9, 9, 9];
        }
        assert_eq!(data.border(), Border::Fill([9, 0, 0]));
    }

    #[test]
    fn a_background_has_a_colour() {
        let shape = PictureShape {
            height: 3,
            width: 3,
            channels: 3,
        };
        let mut pixels = [230, 20, 20].repeat(9);
        pixels[12..15].fill(255);
        let data = Dataset {
            shape,
            classes: vec!["a".to_owned()],
            pictures: vec![Picture { pixels, label: 0 }],
        };
        assert_eq!(data.border(), Border::Fill([230, 20, 20]));
    }

    #[test]
    fn a_sample_is_spread_over_all() {
        let data = sixty();
        for count in [1, 7, 31, 45, 59, 60, 100] {
            let sample = data.sample(count);
            assert_eq!(sample.pictures.len(), count.min(60));
            // No gap is longer than another by more than one, nor is the one behind the last.
            let at = |picture: &Picture| data.pictures.iter().position(|p| p == picture).unwrap();
            let places: Vec<usize> = sample.pictures.iter().map(at).chain([60]).collect();
            let gaps = places.windows(2).map(|pair| pair[1] - pair[0]);
            let (least, most) = (gaps.clone().min().unwrap(), gaps.max().unwrap());
            assert!(most - least <= 1 && places[0] == 0, "{count}: {places:?}");
        }
    }
}
