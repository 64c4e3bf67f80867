//! Pictures that are there twice. One that is in the training and in the test part makes the accuracy too good: the
//! network has seen the answer.

use std::collections::HashMap;

use super::Dataset;

/// Two equal pictures: the same bytes, of the same class or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twins {
    /// Position in the first data set.
    pub first: usize,
    /// Position in the second one.
    pub second: usize,
    /// Whether both have one class.
    pub same_class: bool,
}

/// The pictures of `second` that are in `first` too, each with the first that equals it.
#[must_use]
pub fn twins(first: &Dataset, second: &Dataset) -> Vec<Twins> {
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    for (at, picture) in first.pictures.iter().enumerate() {
        known.entry(&picture.pixels).or_insert(at);
    }
    let twin = |(at, picture): (usize, &super::Picture)| {
        let of = *known.get(picture.pixels.as_slice())?;
        let label = first.pictures.get(of)?.label;
        Some(Twins {
            first: of,
            second: at,
            same_class: first.classes.get(label) == second.classes.get(picture.label),
        })
    };
    second
        .pictures
        .iter()
        .enumerate()
        .filter_map(twin)
        .collect()
}

/// The pictures of a data set that come again, each with the first that equals it.
#[must_use]
pub fn repeated(dataset: &Dataset) -> Vec<Twins> {
    let mut all = twins(dataset, dataset);
    all.retain(|twins| twins.first != twins.second);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Picture, PictureShape};

    /// Pictures of one pixel.
    fn of(pictures: &[(u8, usize)]) -> Dataset {
        Dataset {
            shape: PictureShape {
                height: 1,
                width: 1,
                channels: 1,
            },
            classes: vec!["a".into(), "b".into()],
            pictures: pictures
                .iter()
                .map(|&(pixel, label)| Picture {
                    pixels: vec![pixel],
                    label,
                })
                .collect(),
        }
    }

    #[test]
    fn equal_pictures_are_found_by_content() {
        let train = of(&[(1, 0), (2, 1), (1, 1), (3, 0), (3, 0)]);
        let test = of(&[(9, 0), (3, 0), (2, 0)]);
        let twin = |first, second, same_class| Twins {
            first,
            second,
            same_class,
        };
        assert_eq!(twins(&train, &test), [twin(3, 1, true), twin(1, 2, false)]);
        assert_eq!(repeated(&train), [twin(0, 2, false), twin(3, 4, true)]);
        assert_eq!(repeated(&test), []);
    }
}
