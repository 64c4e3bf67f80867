//! Moving pixels: every operation that does is a map from the result to the picture, and all maps are taken in one
//! bilinear resampling.

use super::elastic::Field;
use crate::data::PictureShape;

/// The value of each channel; of a grey picture the first alone counts.
pub type Colour = [u8; 3];

/// What is seen where a moved picture leaves the frame empty: `Dataset::border` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// This colour: for pictures on a plain background.
    Fill(Colour),
    /// The nearest pixel of the picture: for photographs.
    Edge,
}

/// Where a pixel of the result comes from, in pixels from the centre:
/// `(xx * x + xy * y + self.x, yx * x + yy * y + self.y)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    pub xx: f32,
    pub xy: f32,
    pub yx: f32,
    pub yy: f32,
    pub x: f32,
    pub y: f32,
}

impl Affine {
    pub(super) const IDENTITY: Self = Self {
        xx: 1.0,
        xy: 0.0,
        yx: 0.0,
        yy: 1.0,
        x: 0.0,
        y: 0.0,
    };

    /// The map that goes through `first` and then through this one: looking back from the result, the last
    /// operation comes first.
    pub(super) fn after(self, first: Self) -> Self {
        let (x, y) = self.at(first.x, first.y);
        Self {
            xx: self.xx * first.xx + self.xy * first.yx,
            xy: self.xx * first.xy + self.xy * first.yy,
            yx: self.yx * first.xx + self.yy * first.yx,
            yy: self.yx * first.xy + self.yy * first.yy,
            x,
            y,
        }
    }

    pub(super) fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (
            self.xx * x + self.xy * y + self.x,
            self.yx * x + self.yy * y + self.y,
        )
    }
}

/// Places in the picture are counted in parts of a pixel, 1/65536 each: fast, and the same on every machine, where
/// the last bit of a sine is not.
const ONE: i64 = 1 << 16;

fn fixed(value: f32) -> i64 {
    // Bounded, so that settings which were never validated can not overflow the steps along a row.
    (value * ONE as f32).round().clamp(-1e12, 1e12) as i64
}

/// Rounded towards 0 and for up to 32,767 pixels, for which processors have one instruction.
fn nearly_fixed(value: f32) -> i64 {
    i64::from((value * ONE as f32) as i32)
}

/// Shows `picture` through `map`, bent by `fields` before. An untouched pixel comes out exactly as it was.
pub(super) fn resample(
    map: &Affine,
    fields: &[Field],
    picture: &[u8],
    shape: PictureShape,
    border: Border,
    out: &mut [u8],
) {
    // With the number of channels a constant, the inner loop is twice as fast.
    match shape.channels {
        1 => with_channels(map, fields, picture, shape, 1, border, out),
        3 => with_channels(map, fields, picture, shape, 3, border, out),
        channels => with_channels(map, fields, picture, shape, channels, border, out),
    }
}

#[inline(always)]
fn with_channels(
    map: &Affine,
    fields: &[Field],
    picture: &[u8],
    shape: PictureShape,
    channels: usize,
    border: Border,
    out: &mut [u8],
) {
    let view = View {
        picture,
        height: shape.height as i64,
        width: shape.width as i64,
        channels,
        border,
    };
    // From the first pixel's middle to the picture's middle.
    let (half_width, half_height) = (
        (shape.width as f32 - 1.0) / 2.0,
        (shape.height as f32 - 1.0) / 2.0,
    );
    let (step_x, step_y) = (fixed(map.xx), fixed(map.yx));
    let mut bends = vec![(0.0, 0.0); if fields.is_empty() { 0 } else { shape.width }];
    for (row, line) in out
        .chunks_exact_mut((shape.width * channels).max(1))
        .enumerate()
    {
        let (x, y) = map.at(-half_width, row as f32 - half_height);
        let (mut x, mut y) = (fixed(x + half_width), fixed(y + half_height));
        let pixels = line.chunks_exact_mut(channels.max(1));
        if fields.is_empty() {
            for pixel in pixels {
                view.blend(x, y, pixel);
                x += step_x;
                y += step_y;
            }
            continue;
        }
        bends.fill((0.0, 0.0));
        fields
            .iter()
            .for_each(|field| field.add_row(row, &mut bends));
        for (pixel, &(right, down)) in pixels.zip(&bends) {
            let bent_x = x + nearly_fixed(map.xx * right + map.xy * down);
            let bent_y = y + nearly_fixed(map.yx * right + map.yy * down);
            view.blend(bent_x, bent_y, pixel);
            x += step_x;
            y += step_y;
        }
    }
}

/// A picture to look up places in.
struct View<'a> {
    picture: &'a [u8],
    height: i64,
    width: i64,
    channels: usize,
    border: Border,
}

impl View<'_> {
    /// The mean of the four pixels around a place, weighted by how near they are, in steps of 1/256.
    #[inline(always)]
    fn blend(&self, x: i64, y: i64, out: &mut [u8]) {
        let (column, row) = (x >> 16, y >> 16);
        let (right, below) = (((x >> 8) & 255) as u32, ((y >> 8) & 255) as u32);
        let (left, above) = (256 - right, 256 - below);
        let weights = [left * above, right * above, left * below, right * below];
        let inner = self.inner(column, row);
        for (channel, out) in out.iter_mut().enumerate() {
            let four = match inner {
                Some((upper, lower)) => [
                    upper.get(channel),
                    upper.get(channel + self.channels),
                    lower.get(channel),
                    lower.get(channel + self.channels),
                ]
                .map(|value| value.copied().unwrap_or_default()),
                None => [(0, 0), (1, 0), (0, 1), (1, 1)]
                    .map(|(x, y)| self.at(column + x, row + y, channel)),
            };
            let sum: u32 = four
                .iter()
                .zip(weights)
                .map(|(&value, weight)| u32::from(value) * weight)
                .sum();
            *out = ((sum + (1 << 15)) >> 16) as u8;
        }
    }

    /// Two neighbouring pixels and the two below them, if all are in the picture.
    #[inline(always)]
    fn inner(&self, column: i64, row: i64) -> Option<(&[u8], &[u8])> {
        if column < 0 || row < 0 || column + 1 >= self.width || row + 1 >= self.height {
            return None;
        }
        let start = (row * self.width + column) as usize * self.channels;
        let below = start + self.width as usize * self.channels;
        let two = 2 * self.channels;
        Some((
            self.picture.get(start..start + two)?,
            self.picture.get(below..below + two)?,
        ))
    }

    /// One value, wherever it lies.
    fn at(&self, column: i64, row: i64, channel: usize) -> u8 {
        let inside = (0..self.width).contains(&column) && (0..self.height).contains(&row);
        if let (false, Border::Fill(colour)) = (inside, self.border) {
            return colour.get(channel).copied().unwrap_or_default();
        }
        let (column, row) = (
            column.min(self.width - 1).max(0),
            row.min(self.height - 1).max(0),
        );
        let at = (row * self.width + column) as usize * self.channels + channel;
        self.picture.get(at).copied().unwrap_or_default()
    }
}
