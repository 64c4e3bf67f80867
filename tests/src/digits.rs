//! Handwritten digits as a picture folder: `tests/data/README.md` says whose they are.

use std::io::Read;
use std::path::Path;

use espalier::data::{PictureShape, save_png};
use flate2::read::GzDecoder;

const FILE: &str = "tests/data/digits.csv.gz";
/// Height and width.
const SIDE: usize = 8;
/// The brightest pixel.
const WHITE: u8 = 16;
/// Of the pictures of each digit, every so many-th is for testing.
const TEST_EVERY: usize = 3;

/// Writes all 1,797 pictures as 8x8 PNG files into `train/DIGIT` and, every third one,
/// `test/DIGIT` of a folder.
pub fn write(folder: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(crate::command::workspace().join(FILE))?;
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text)?;
    let mut seen = [0; 10];
    for line in text.lines() {
        let numbers: Vec<u8> = line.split(',').filter_map(|n| n.parse().ok()).collect();
        let (&digit, pixels) = numbers
            .split_last()
            .ok_or_else(|| std::io::Error::other("an empty line"))?;
        let pixels: Vec<u8> = pixels
            .iter()
            .map(|&pixel| (u16::from(pixel) * 255 / u16::from(WHITE)) as u8)
            .collect();
        let number = &mut seen[usize::from(digit)];
        let part = match *number % TEST_EVERY {
            0 => "test",
            _ => "train",
        };
        let file = folder.join(format!("{part}/{digit}/{number:03}.png"));
        *number += 1;
        let shape = PictureShape {
            height: SIDE,
            width: SIDE,
            channels: 1,
        };
        save_png(&file, &pixels, shape).map_err(std::io::Error::other)?;
    }
    Ok(())
}
