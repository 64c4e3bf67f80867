//! Options for loading, and making pictures one shape.

use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView};
use serde::{Deserialize, Serialize};
pub use shared::model::Resize;

use super::{DataError, PictureShape};

/// The longest side that a picture may have, in pixels.
pub(super) const MAX_SIDE: usize = 4096;

/// How pictures become one shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// (height, width) in pixels, each 1 to 4096; without it, the size of the pictures, which must agree.
    pub size: Option<(usize, usize)>,
    /// 1 (grey) or 3 (red, green, blue); without it, 1 if all pictures are grey, else 3.
    pub channels: Option<usize>,
    /// What to do with a picture of another size.
    pub resize: Resize,
}

impl Options {
    /// The same resize rule, with size and channels fixed: to load the test part in the shape of the train part.
    #[must_use]
    pub fn pinned(&self, shape: PictureShape) -> Self {
        Self {
            size: Some((shape.height, shape.width)),
            channels: Some(shape.channels),
            resize: self.resize,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`DataError::BadOption`] for a size or a number of channels out of range.
    pub fn validate(&self) -> Result<(), DataError> {
        if let Some((height, width)) = self.size
            && ![height, width]
                .iter()
                .all(|side| (1..=MAX_SIDE).contains(side))
        {
            let value = format!("[{height}, {width}]");
            return Err(DataError::BadOption {
                key: "data.size",
                value,
                allowed: "[height, width], each 1 to 4096",
            });
        }
        match self.channels {
            None | Some(1 | 3) => Ok(()),
            Some(other) => Err(DataError::BadOption {
                key: "data.channels",
                value: other.to_string(),
                allowed: "1 (grey) or 3 (red, green, blue)",
            }),
        }
    }
}

/// Gives a picture this (height, width), or nothing if it has another and the rule refuses.
///
/// Shrinking averages over all pixels that a new one covers.
pub(super) fn fit(
    picture: DynamicImage,
    size: (usize, usize),
    rule: Resize,
) -> Option<DynamicImage> {
    if size_of(&picture) == size {
        return Some(picture);
    }
    let (height, width) = (u32::try_from(size.0).ok()?, u32::try_from(size.1).ok()?);
    match rule {
        Resize::Exact => None,
        Resize::Stretch => Some(picture.resize_exact(width, height, FilterType::Triangle)),
        Resize::Crop => Some(picture.resize_to_fill(width, height, FilterType::Triangle)),
    }
}

/// (height, width) of a picture.
pub(super) fn size_of(picture: &DynamicImage) -> (usize, usize) {
    let (width, height) = picture.dimensions();
    (height as usize, width as usize)
}

/// The pixels as unsigned bytes, HWC. Grey is the luma (Rec. 709); an alpha channel is dropped; 16 bits become 8.
pub(super) fn pixels(picture: DynamicImage, channels: usize) -> Vec<u8> {
    match channels {
        1 => picture.into_luma8().into_raw(),
        _ => picture.into_rgb8().into_raw(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::GrayImage;

    /// 2 rows of 4 columns: a dark left half and a bright right half.
    fn halves() -> DynamicImage {
        GrayImage::from_raw(4, 2, vec![0, 0, 200, 200, 0, 0, 200, 200])
            .unwrap()
            .into()
    }

    #[test]
    fn each_rule_does_what_it_says() {
        assert!(fit(halves(), (2, 2), Resize::Exact).is_none());
        let stretched = fit(halves(), (2, 2), Resize::Stretch).unwrap();
        let bytes = pixels(stretched, 1);
        assert!(bytes[0] < 50 && bytes[1] > 150, "{bytes:?}");
        let cropped = fit(halves(), (2, 2), Resize::Crop).unwrap();
        assert_eq!(pixels(cropped, 1), [0, 200, 0, 200]);
        let grown = fit(halves(), (4, 4), Resize::Crop).unwrap();
        assert_eq!(size_of(&grown), (4, 4));
    }

    #[test]
    fn grey_becomes_colour_and_back() {
        let colour = pixels(halves(), 3);
        assert_eq!(colour.len(), 24);
        assert_eq!(colour[6..9], [200, 200, 200]);
        let grey = pixels(image::RgbImage::from_raw(4, 2, colour).unwrap().into(), 1);
        assert_eq!(grey, pixels(halves(), 1));
    }

    #[test]
    fn options_are_written_in_kebab_case() {
        let options: Options = toml::from_str("size = [28, 32]\nresize = 'crop'").unwrap();
        assert_eq!(
            options,
            Options {
                size: Some((28, 32)),
                channels: None,
                resize: Resize::Crop
            }
        );
        assert!(toml::from_str::<Options>("resise = 'crop'").is_err());
    }
}
