//! Heatmaps over pictures, to look at.

use image::{Rgb, RgbImage, imageops};

use super::Heatmap;
use crate::data::{PictureShape, cell, enlarged};

/// Between pictures.
const GAP: u32 = 8;
const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);
/// Share of the colour in what is shown; the rest is the picture in grey.
const COLOUR: f32 = 0.65;

/// A picture (unsigned bytes, HWC) about `side` pixels high or wide; small ones are enlarged
/// by a whole factor, so that their pixels stay visible.
pub fn picture(pixels: &[u8], shape: PictureShape, side: u32) -> RgbImage {
    let (width, height) = cell(shape, side);
    enlarged(pixels.to_vec(), shape, width, height)
        .unwrap_or_else(|| RgbImage::from_pixel(width, height, BACKGROUND))
}

/// A map over a picture of [`picture`]: from dark (0 and below) to bright (the map's peak) in
/// viridis, a scale that colour-blind eyes tell apart as well and that stays one in grey.
pub fn overlay(picture: &RgbImage, map: &Heatmap) -> RgbImage {
    let (width, height) = picture.dimensions();
    let peak = map.peak().max(f32::MIN_POSITIVE);
    let grey = imageops::grayscale(picture);
    RgbImage::from_fn(width, height, |x, y| {
        let place = |at: u32, side: u32| (at as usize, side as usize);
        let value = map.at(place(y, height), place(x, width)).max(0.0) / peak;
        let colour = colorous::VIRIDIS.eval_continuous(value.into());
        let grey = f32::from(grey.get_pixel(x, y).0[0]);
        let mix = |channel: u8| COLOUR * f32::from(channel) + (1.0 - COLOUR) * grey;
        Rgb([colour.r, colour.g, colour.b].map(|channel| mix(channel).round() as u8))
    })
}

/// Pictures from left to right.
pub fn columns(pictures: &[RgbImage]) -> RgbImage {
    joined(pictures, (1, 0))
}

/// Pictures from top to bottom.
pub fn rows(pictures: &[RgbImage]) -> RgbImage {
    joined(pictures, (0, 1))
}

/// Pictures one behind the other: (1, 0) to the right, (0, 1) down.
fn joined(pictures: &[RgbImage], (right, down): (u32, u32)) -> RgbImage {
    let (mut x, mut y, mut width, mut height) = (0, 0, 1, 1);
    let mut placed = Vec::new();
    for picture in pictures {
        placed.push((picture, x, y));
        (width, height) = (
            width.max(x + picture.width()),
            height.max(y + picture.height()),
        );
        x += right * (picture.width() + GAP);
        y += down * (picture.height() + GAP);
    }
    let mut sheet = RgbImage::from_pixel(width, height, BACKGROUND);
    for (picture, x, y) in placed {
        imageops::replace(&mut sheet, picture, x.into(), y.into());
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PictureShape = PictureShape {
        height: 2,
        width: 2,
        channels: 1,
    };

    #[test]
    fn the_peak_is_bright_and_what_speaks_against_is_dark() {
        let black = picture(&[0; 4], SHAPE, 40);
        assert_eq!(black.dimensions(), (40, 40));
        let map = Heatmap {
            height: 2,
            width: 2,
            values: vec![-5.0, 0.0, 1.0, 2.0],
        };
        let shown = overlay(&black, &map);
        let at = |x, y| shown.get_pixel(x, y).0;
        // The ends of viridis, #440154 and #fde725, 65 % of them.
        assert_eq!(
            at(0, 0),
            [0x44, 0x01, 0x54].map(|c: u8| (0.65 * f32::from(c)).round() as u8)
        );
        assert_eq!(at(39, 0), at(0, 0));
        assert_eq!(
            at(39, 39),
            [0xfd, 0xe7, 0x25].map(|c: u8| (0.65 * f32::from(c)).round() as u8)
        );
        // A map of nothing is dark everywhere.
        let nothing = Heatmap {
            values: vec![0.0; 4],
            ..map
        };
        assert!(
            overlay(&black, &nothing)
                .pixels()
                .all(|pixel| pixel.0 == at(0, 0))
        );
    }

    #[test]
    fn pictures_lie_beside_and_below_one_another() {
        let white = picture(&[255; 4], SHAPE, 10);
        let black = picture(&[0; 4], SHAPE, 20);
        let both = columns(&[black.clone(), white.clone()]);
        assert_eq!(both.dimensions(), (20 + 8 + 10, 20));
        assert_eq!(
            [both.get_pixel(19, 19).0, both.get_pixel(20, 0).0],
            [[0; 3], [255; 3]]
        );
        assert_eq!(rows(&[black, white]).dimensions(), (20, 20 + 8 + 10));
        assert_eq!(columns(&[]).dimensions(), (1, 1));
    }
}
