//! Shapes: 200 classes of drawn figures, 28x28 grey without options; 40,000 training and 4,000 test pictures.
//!
//! No data set of anything: what a network learns of them are edges, outlines, patterns, parts and how they lie to each
//! other, for a base that other trainings start from. They need no download and no licence.
//!
//! A class is a figure, which depends on the number of the class alone. A picture shows it with other proportions,
//! brightnesses and pattern phases, turned by up to 15 degrees, 0.8 to 1.15 times as large, moved, slanted and bent;
//! mostly on black, sometimes on grey, on a gradient, inverted, blurred or noisy.
//!
//! The bytes are the same on every machine and on any number of threads: all random numbers are ChaCha's, by part, class
//! and number, and the arithmetic is that which IEEE 754 fixes to the bit (the four operations, roots, rounding).
//! Checkpoints were trained on them, so they stay as they are: a test pins them.

use rayon::prelude::*;

use super::{Dataset, Options, Part, Picture, PictureShape};
use crate::random::stream;
use figure::Figure;

mod draw;
mod figure;
mod fill;
mod outline;
mod plane;

/// The name by which users ask for it.
pub const NAME: &str = "shapes";

/// How many figures there are.
pub const CLASSES: usize = 200;

/// How many pictures of each figure a part has.
#[must_use]
pub const fn per_class(part: Part) -> usize {
    match part {
        Part::Train => 200,
        Part::Test => 20,
    }
}

/// Draws one part, by class and number.
pub(super) fn load(part: Part, options: &Options) -> Dataset {
    let (height, width) = options.size.unwrap_or((28, 28));
    let shape = PictureShape {
        height,
        width,
        channels: options.channels.unwrap_or(1),
    };
    let pictures = (0..CLASSES)
        .into_par_iter()
        .flat_map(|class| of_class(class, part, shape))
        .collect();
    Dataset {
        shape,
        classes: (0..CLASSES)
            .map(|class| format!("figure_{class:03}"))
            .collect(),
        pictures,
    }
}

/// The pictures of one class.
fn of_class(class: usize, part: Part, shape: PictureShape) -> Vec<Picture> {
    let mut figure = figure(class);
    if shape.channels == 1 {
        figure.grey();
    }
    let picture = |number| Picture {
        pixels: draw::picture(
            &figure,
            shape,
            &mut stream([class as u64, number as u64], &part.to_string()),
        ),
        label: class,
    };
    (0..per_class(part)).map(picture).collect()
}

fn figure(class: usize) -> Figure {
    Figure::new(&mut stream([class as u64, 0], "figure"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use sha2::{Digest, Sha256};

    use super::*;

    static TEST: LazyLock<Dataset> = LazyLock::new(|| load(Part::Test, &Options::default()));

    #[test]
    fn every_class_has_its_pictures() {
        let small = Options {
            size: Some((6, 9)),
            channels: Some(3),
            ..Options::default()
        };
        let train = load(Part::Train, &small);
        assert_eq!(train.shape.to_string(), "6x9x3");
        assert_eq!(train.counts(), [200; CLASSES]);
        assert_eq!(TEST.shape.to_string(), "28x28x1");
        assert_eq!(TEST.counts(), [20; CLASSES]);
        assert_eq!(TEST.classes, train.classes);
        assert_eq!(TEST.classes.last().unwrap(), "figure_199");
        for data in [&train, &*TEST] {
            let sizes = data.pictures.iter().map(|picture| picture.pixels.len());
            assert!(sizes.into_iter().all(|size| size == data.shape.bytes()));
        }
    }

    #[test]
    fn the_pictures_are_pinned() {
        let hash = |pictures: &[Picture]| {
            let mut hash = Sha256::new();
            for picture in pictures {
                hash.update(&picture.pixels);
            }
            let hash = hash.finalize();
            hash.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hash(&TEST.pictures),
            "89f829975027358a070a8fb02d0f63ca8669f4985abfb2a9eeb647cdfd589cdc"
        );
        let shape = PictureShape {
            channels: 3,
            ..TEST.shape
        };
        assert_eq!(
            hash(&of_class(123, Part::Train, shape)),
            "00451b2489cad6ebb7b0e34b9af770c10a3c7257b3836a0b7eb763d5bbc5e298"
        );
    }

    #[test]
    fn threads_change_nothing() {
        let small = Options {
            size: Some((8, 8)),
            ..Options::default()
        };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| load(Part::Test, &small))
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn every_picture_shows_something_of_its_own() {
        for picture in &TEST.pictures {
            let (least, most) = (picture.pixels.iter().min(), picture.pixels.iter().max());
            let range = most.unwrap() - least.unwrap();
            assert!(range >= 30, "{range} of class {}", picture.label);
        }
        let different: HashSet<_> = TEST
            .pictures
            .iter()
            .map(|picture| &picture.pixels)
            .collect();
        assert_eq!(different.len(), TEST.pictures.len());
    }

    #[test]
    fn most_pictures_stand_on_black() {
        assert_eq!(TEST.border(), crate::augment::Border::Fill([0; 3]));
    }

    #[test]
    fn colour_is_colour_and_grey_is_grey() {
        let of = |channels| {
            let shape = PictureShape {
                channels,
                ..TEST.shape
            };
            of_class(7, Part::Test, shape)
        };
        let coloured = |picture: &Picture| {
            let mut pixels = picture.pixels.chunks(3);
            pixels.any(|pixel| pixel.iter().max().unwrap() - pixel.iter().min().unwrap() > 30)
        };
        // Some are too dark or too blurred.
        assert!(of(3).into_iter().filter(coloured).count() >= 15);
        assert_eq!(of(1), TEST.pictures[140..160]);
    }

    /// The nearest of ten pictures of each class is of the same class far more often than by chance (0.005), and far
    /// from always: the classes can be told apart, and their pictures differ.
    #[test]
    fn classes_can_be_told_apart_but_not_by_their_pixels() {
        // Inverted pictures are turned back: what is in most of the corners is the background.
        let pixels = |picture: &Picture| -> Vec<i32> {
            let corners = [0, 27, 756, 783].map(|at| u32::from(picture.pixels[at]));
            let inverted = corners.iter().sum::<u32>() > 510;
            let value = |&value: &u8| i32::from(if inverted { 255 - value } else { value });
            picture.pixels.iter().map(value).collect()
        };
        let (mut known, mut asked) = (Vec::new(), Vec::new());
        for (at, picture) in TEST.pictures.iter().enumerate() {
            match at % 20 {
                0..10 => known.push((pixels(picture), picture.label)),
                10 | 11 => asked.push((pixels(picture), picture.label)),
                _ => {}
            }
        }
        let distance = |a: &[i32], b: &[i32]| -> i32 {
            let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
            squares.sum()
        };
        let right = asked.par_iter().filter(|(pixels, label)| {
            let nearest = known.iter().min_by_key(|known| distance(&known.0, pixels));
            nearest.unwrap().1 == *label
        });
        let share = right.count() as f64 / asked.len() as f64;
        assert!((0.25..0.75).contains(&share), "{share}");
    }

    /// Each figure as a class knows it, in a frame that it fills: no two are alike in brightness.
    #[test]
    fn no_two_figures_are_alike() {
        let drawn: Vec<Vec<f32>> = (0..CLASSES)
            .map(|class| {
                let mut figure = figure(class);
                figure.grey();
                let side = |at: i8| f32::from(at) / 10.0 * figure.half;
                let places = (-10..=10).flat_map(|y| (-10..=10).map(move |x| (x, y)));
                let colour = |(x, y)| {
                    let at = [figure.middle[0] + side(x), figure.middle[1] + side(y)];
                    figure.colour(at, [0.0; 3])[0]
                };
                places.map(colour).collect()
            })
            .collect();
        for (class, one) in drawn.iter().enumerate() {
            for (other, two) in drawn.iter().enumerate().take(class) {
                let differ = one.iter().zip(two).filter(|(a, b)| (*a - *b).abs() > 0.1);
                assert!(differ.count() > 30, "{class} and {other}");
            }
        }
    }
}
