//! Contact sheets: what augmentation makes of the pictures, to look at before training for an hour.

use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, Rgb, RgbImage};

use super::{Dataset, PictureShape};
use crate::augment::{Augmentation, Border, Draw};

/// The longer side of a picture on the sheet, in pixels.
const SIDE: u32 = 96;
/// Between pictures; half of it frames an original.
const GAP: u32 = 6;
/// The most rows for a class and columns: more can not be looked at, and would not fit into memory.
const MOST: usize = 64;
const BACKGROUND: Rgb<u8> = Rgb([32, 32, 32]);
const FRAME: Rgb<u8> = Rgb([255, 160, 0]);

/// Draws a contact sheet: for each class `per_class` rows, each with a picture in a frame and, beside it, what
/// training sees of this picture in its first epochs under this seed, up to `columns` pictures in a row.
/// Both counts stop at 64.
///
/// Small pictures are enlarged by a whole factor, so that their pixels stay visible.
#[must_use]
pub fn contact_sheet(
    dataset: &Dataset,
    per_class: usize,
    columns: usize,
    augmentation: &Augmentation,
    seed: u64,
) -> RgbImage {
    let pictures = first_of_each_class(dataset, per_class.min(MOST));
    let rows: Vec<Row> = pictures.iter().map(|&at| (at, augmentation)).collect();
    sheet(dataset, &rows, columns, seed)
}

/// Draws likewise a row for each of these augmentations, with pictures of one class after the other.
#[must_use]
pub fn operation_sheet(
    dataset: &Dataset,
    columns: usize,
    augmentations: &[Augmentation],
    seed: u64,
) -> RgbImage {
    let pictures = first_of_each_class(dataset, 1);
    let rows: Vec<Row> = pictures.into_iter().cycle().zip(augmentations).collect();
    sheet(dataset, &rows, columns, seed)
}

/// The position of a picture, and what is done to it.
type Row<'a> = (usize, &'a Augmentation);

fn sheet(dataset: &Dataset, rows: &[Row], columns: usize, seed: u64) -> RgbImage {
    let columns = columns.clamp(1, MOST);
    let (width, height) = cell(dataset.shape, SIDE);
    let extent = |count: usize, side: u32| GAP + count as u32 * (side + GAP);
    let mut sheet = RgbImage::from_pixel(
        extent(columns, width),
        extent(rows.len(), height),
        BACKGROUND,
    );
    let border = dataset.border();
    for (row, &(index, augmentation)) in (0u32..).zip(rows) {
        for (column, pixels) in (0u32..).zip(variants(
            dataset,
            index,
            columns,
            augmentation,
            border,
            seed,
        )) {
            let (x, y) = (GAP + column * (width + GAP), GAP + row * (height + GAP));
            if column == 0 {
                frame(&mut sheet, x, y, width, height);
            }
            if let Some(picture) = enlarged(pixels, dataset.shape, width, height) {
                imageops::replace(&mut sheet, &picture, x.into(), y.into());
            }
        }
    }
    sheet
}

/// Positions of the first pictures of each class, by class.
fn first_of_each_class(dataset: &Dataset, per_class: usize) -> Vec<usize> {
    let of = |class| {
        let members = dataset
            .pictures
            .iter()
            .enumerate()
            .filter(move |(_, picture)| picture.label == class);
        members.map(|(at, _)| at).take(per_class)
    };
    (0..dataset.classes.len()).flat_map(of).collect()
}

/// The picture itself, then its augmented variants.
fn variants<'a>(
    dataset: &'a Dataset,
    index: usize,
    columns: usize,
    augmentation: &'a Augmentation,
    border: Border,
    seed: u64,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let original = dataset
        .pictures
        .get(index)
        .map(|picture| picture.pixels.as_slice())
        .unwrap_or_default();
    let augmented = (0..columns as u64 - 1).map(move |epoch| {
        let mut out = vec![0; dataset.shape.bytes()];
        let draw = Draw {
            seed,
            index: index as u64,
            epoch,
        };
        augmentation.view(dataset, border, draw, &mut out);
        out
    });
    std::iter::once(original.to_vec()).chain(augmented)
}

/// (width, height) at which pictures are shown whose longer side is to be about `most`.
pub(crate) fn cell(PictureShape { height, width, .. }: PictureShape, most: u32) -> (u32, u32) {
    let [width, height] =
        [width, height].map(|side| u32::try_from(side).unwrap_or(u32::MAX).max(1));
    let longer = width.max(height);
    if longer <= most {
        let factor = most / longer;
        return (width * factor, height * factor);
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(most) / u64::from(longer)).max(1) as u32;
    (scaled(width), scaled(height))
}

/// A picture at this size.
pub(crate) fn enlarged(
    pixels: Vec<u8>,
    shape: PictureShape,
    width: u32,
    height: u32,
) -> Option<RgbImage> {
    let (from_width, from_height) = (
        u32::try_from(shape.width).ok()?,
        u32::try_from(shape.height).ok()?,
    );
    let picture: DynamicImage = match shape.channels {
        1 => GrayImage::from_raw(from_width, from_height, pixels)?.into(),
        _ => RgbImage::from_raw(from_width, from_height, pixels)?.into(),
    };
    let filter = if width < from_width {
        FilterType::Triangle
    } else {
        FilterType::Nearest
    };
    Some(picture.resize_exact(width, height, filter).into_rgb8())
}

fn frame(sheet: &mut RgbImage, x: u32, y: u32, width: u32, height: u32) {
    let thick = GAP / 2;
    let frame = RgbImage::from_pixel(width + GAP, height + GAP, FRAME);
    imageops::replace(sheet, &frame, (x - thick).into(), (y - thick).into());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::augment::Shift;
    use crate::data::Picture;

    /// Two classes of two pictures, 10x20, each of one colour.
    fn four() -> Dataset {
        Dataset {
            shape: PictureShape {
                height: 10,
                width: 20,
                channels: 3,
            },
            classes: vec!["a".to_owned(), "b".to_owned()],
            pictures: (0..4)
                .map(|at| Picture {
                    pixels: vec![50 * at + 60; 600],
                    label: usize::from(at % 2),
                })
                .collect(),
        }
    }

    #[test]
    fn a_row_for_each_class_and_a_frame_around_the_original() {
        let sheet = contact_sheet(&four(), 1, 3, &Augmentation::default(), 1);
        // 20x10 enlarged four times.
        assert_eq!(sheet.dimensions(), (6 + 3 * 86, 6 + 2 * 46));
        let at = |x, y| *sheet.get_pixel(x, y);
        assert_eq!(
            [at(4, 20), at(0, 0), at(20, 20), at(20, 70)],
            [FRAME, BACKGROUND, Rgb([60; 3]), Rgb([110; 3])]
        );
        assert_eq!(at(6 + 80 + 4, 20), BACKGROUND);
        assert_eq!(at(6 + 86 + 10, 20), Rgb([60; 3]));
    }

    #[test]
    fn variants_are_what_training_sees() {
        let mut data = four();
        data.pictures[0].pixels = (0..600).map(|at| (at * 7) as u8).collect();
        let augmentation = Augmentation {
            shift: Shift(0.3),
            ..Augmentation::default()
        };
        let sheet = contact_sheet(&data, 2, 3, &augmentation, 9);
        let mut wanted = vec![0; 600];
        let draw = Draw {
            seed: 9,
            index: 0,
            epoch: 1,
        };
        augmentation.apply(
            &data.pictures[0].pixels,
            data.shape,
            data.border(),
            draw,
            &mut wanted,
        );
        for (y, x) in (0..10).flat_map(|y| (0..20).map(move |x| (y, x))) {
            let at = (y * 20 + x) * 3;
            let shown = sheet.get_pixel(6 + 2 * 86 + 4 * x as u32, 6 + 4 * y as u32);
            assert_eq!(shown.0, wanted[at..at + 3]);
        }
        assert_eq!(contact_sheet(&data, 2, 3, &augmentation, 9), sheet);
    }

    #[test]
    fn each_operation_has_a_row() {
        let all: Vec<Augmentation> = Augmentation::each().into_iter().map(|(_, a)| a).collect();
        let sheet = operation_sheet(&four(), 3, &all, 1);
        assert_eq!(sheet.dimensions(), (6 + 3 * 86, 6 + 16 * 46));
        // Rows change between the classes.
        let originals = [20, 66, 112].map(|y| sheet.get_pixel(20, y).0[0]);
        assert_eq!(originals, [60, 110, 60]);
    }

    #[test]
    fn odd_shapes_and_counts_are_drawn() {
        assert_eq!(
            cell(
                PictureShape {
                    height: 28,
                    width: 28,
                    channels: 1
                },
                SIDE
            ),
            (84, 84)
        );
        assert_eq!(
            cell(
                PictureShape {
                    height: 4000,
                    width: 3000,
                    channels: 1
                },
                SIDE
            ),
            (72, 96)
        );
        assert_eq!(
            cell(
                PictureShape {
                    height: 1,
                    width: 4096,
                    channels: 1
                },
                SIDE
            ),
            (96, 1)
        );
        assert_eq!(
            contact_sheet(&four(), 9, 0, &Augmentation::default(), 1).dimensions(),
            (92, 6 + 4 * 46)
        );
        assert_eq!(
            contact_sheet(&four(), 0, 2, &Augmentation::default(), 1).height(),
            6
        );
    }
}
