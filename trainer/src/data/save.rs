//! Pictures as PNG files.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::{DataError, PictureShape};

/// Saves pixels (unsigned bytes, HWC, [`PictureShape::bytes`] of them) as a PNG file, grey or RGB, as small as the
/// encoder makes it. The file appears whole or not at all.
///
/// # Errors
///
/// [`DataError::BadPicture`] if the pixels do not have the shape, [`DataError::Io`] if the file can not be written.
pub fn save_png(file: &Path, pixels: &[u8], shape: PictureShape) -> Result<(), DataError> {
    let png = png(pixels, shape).map_err(|reason| DataError::BadPicture {
        file: file.to_path_buf(),
        reason,
    })?;
    crate::file::save(file, &png).map_err(DataError::io(file))
}

/// The bytes of a PNG file, likewise.
///
/// # Errors
///
/// In words, if the pixels do not have the shape.
pub fn png(pixels: &[u8], shape: PictureShape) -> Result<Vec<u8>, String> {
    // Which filter is smaller depends on the picture.
    let plain = encode(pixels, shape, FilterType::NoFilter)?;
    let adaptive = encode(pixels, shape, FilterType::Adaptive)?;
    Ok(if adaptive.len() < plain.len() {
        adaptive
    } else {
        plain
    })
}

fn encode(pixels: &[u8], shape: PictureShape, filter: FilterType) -> Result<Vec<u8>, String> {
    if pixels.len() != shape.bytes() {
        return Err(format!(
            "{} bytes are not a picture of {shape}",
            pixels.len()
        ));
    }
    let colour = match shape.channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        other => return Err(format!("{other} channels; PNG files have 1 or 3 here")),
    };
    let side = |side| u32::try_from(side).map_err(|_| format!("{shape} is too large for PNG"));
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, filter);
    let written = encoder.write_image(pixels, side(shape.width)?, side(shape.height)?, colour);
    written.map(|()| png).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn png_files_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for channels in [1, 3] {
            let shape = PictureShape {
                height: 5,
                width: 7,
                channels,
            };
            let pixels: Vec<u8> = (0..shape.bytes()).map(|at| (at * 37) as u8).collect();
            let file = folder.path().join("picture.png");
            save_png(&file, &pixels, shape).unwrap();
            let read = image::open(&file).unwrap();
            assert_eq!(
                (
                    read.height(),
                    read.width(),
                    usize::from(read.color().channel_count())
                ),
                (5, 7, channels)
            );
            assert_eq!(read.into_bytes(), pixels);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_fails_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture.png");
        fs::write(&file, "old").unwrap();
        let shape = PictureShape {
            height: 5,
            width: 7,
            channels: 1,
        };
        let error = save_png(&file, &[0; 34], shape).unwrap_err().to_string();
        assert!(
            error.contains("34 bytes are not a picture of 5x7x1"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
