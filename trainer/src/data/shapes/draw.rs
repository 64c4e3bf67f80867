//! A picture of a figure: varied, turned, scaled and moved, on a background.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::figure::Figure;
use super::fill::Fill;
use super::plane::{Point, around, direction, sine, turned};
use crate::data::PictureShape;

/// Places along a side of a pixel whose colours are averaged.
const SAMPLES: usize = 3;

/// How a picture is taken of a figure.
struct View {
    /// How far in the figure a step of 1 to the right in the frame leads. The frame goes from -1 to 1 along its
    /// shorter side.
    right: Point,
    /// How far a step of 1 down leads.
    down: Point,
    /// Where in the frame the figure's middle is.
    middle: Point,
    /// How far places move, how often in a length of 1, and where that begins; along either axis.
    bend: [[f32; 3]; 2],
    background: Fill,
}

/// Draws a picture of a figure: its bytes, HWC.
pub(super) fn picture(figure: &Figure, shape: PictureShape, random: &mut ChaCha8Rng) -> Vec<u8> {
    let figure = figure.varied(random);
    let view = View::new(figure.half, random);
    let mut colours = view.raster(&figure, shape);
    develop(&mut colours, shape, random);
    let channels = shape.channels;
    let bytes = colours
        .iter()
        .flat_map(|colour| colour.iter().take(channels));
    bytes.map(|value| (value * 255.0).round() as u8).collect()
}

impl View {
    fn new(half: f32, random: &mut ChaCha8Rng) -> Self {
        // 0.85 of the frame, times 0.8 to 1.15.
        let size = half / 0.85 / random.random_range(0.8..1.15);
        let aspect = 1.0 + around(random, 0.12);
        let turn = direction(around(random, 15.0 / 360.0));
        let shear = around(random, 0.12);
        Self {
            right: turned([size * aspect, 0.0], turn),
            down: turned([size * shear, size / aspect], turn),
            middle: [0; 2].map(|_| around(random, 0.12)),
            bend: [0; 2].map(|_| {
                [
                    around(random, 0.06) * size,
                    random.random_range(0.2..0.7),
                    random.random(),
                ]
            }),
            background: Fill::background(random),
        }
    }

    /// The colours of all pixels, row by row.
    fn raster(&self, figure: &Figure, shape: PictureShape) -> Vec<[f32; 3]> {
        let places = |count: usize, shorter: usize| -> Vec<f32> {
            let place = |at: usize| {
                ((at as f32 + 0.5) / SAMPLES as f32 * 2.0 - count as f32) / shorter as f32
            };
            (0..count * SAMPLES).map(place).collect()
        };
        let shorter = shape.height.min(shape.width);
        let (rows, columns) = (places(shape.height, shorter), places(shape.width, shorter));
        let mut colours = Vec::with_capacity(shape.height * shape.width);
        for rows in rows.chunks(SAMPLES) {
            for columns in columns.chunks(SAMPLES) {
                let mut sum = [0.0; 3];
                for &y in rows {
                    for &x in columns {
                        let colour = self.colour(figure, [x, y]);
                        sum.iter_mut()
                            .zip(colour)
                            .for_each(|(sum, value)| *sum += value);
                    }
                }
                colours.push(sum.map(|value| value / (SAMPLES * SAMPLES) as f32));
            }
        }
        colours
    }

    fn colour(&self, figure: &Figure, [x, y]: Point) -> [f32; 3] {
        let (fx, fy) = (x - self.middle[0], y - self.middle[1]);
        let bend = |[far, often, start]: [f32; 3], along: f32| far * sine(along * often + start);
        let at = [
            fx * self.right[0] + fy * self.down[0] + figure.middle[0] + bend(self.bend[0], y),
            fx * self.right[1] + fy * self.down[1] + figure.middle[1] + bend(self.bend[1], x),
        ];
        figure.colour(at, self.background.colour([x, y]))
    }
}

/// What happens to a picture after it was drawn: blur, brightness, inversion, noise. Leaves values of 0 to 1.
fn develop(colours: &mut [[f32; 3]], shape: PictureShape, random: &mut ChaCha8Rng) {
    if random.random_bool(0.25) {
        blur(colours, shape.width);
    }
    let light = [0; 3].map(|_| random.random_range(0.75..1.1));
    let inverted = random.random_bool(0.15);
    let noise = match random.random_bool(0.2) {
        true => random.random_range(0.01..0.08),
        false => 0.0,
    };
    for colour in colours.iter_mut() {
        for (value, light) in colour.iter_mut().zip(light) {
            *value = (*value * light).min(1.0);
            if inverted {
                *value = 1.0 - *value;
            }
        }
    }
    if noise > 0.0 {
        for colour in colours.iter_mut() {
            // A sum of two uniform ones: a triangle is near enough to a normal distribution.
            let change = around(random, noise) + around(random, noise);
            *colour = colour.map(|value| (value + change).clamp(0.0, 1.0));
        }
    }
}

/// A quarter, a half and a quarter of each pixel and its neighbours, along rows and then along columns; the edge is
/// repeated.
fn blur(colours: &mut [[f32; 3]], width: usize) {
    let height = colours.len() / width;
    let mut along = |step: usize, position: fn(usize, usize) -> usize, count: usize| {
        let before = colours.to_vec();
        for (at, colour) in colours.iter_mut().enumerate() {
            let place = position(at, width);
            let first = if place == 0 { at } else { at - step };
            let last = if place + 1 == count { at } else { at + step };
            for (channel, value) in colour.iter_mut().enumerate() {
                *value = *value / 2.0 + (before[first][channel] + before[last][channel]) / 4.0;
            }
        }
    };
    along(1, |at, width| at % width, width);
    along(width, |at, width| at / width, height);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_spreads_a_pixel_and_keeps_a_plain_picture() {
        let mut dot = [[0.0; 3]; 12];
        dot[5] = [1.0; 3];
        blur(&mut dot, 4);
        let grey = dot.map(|colour| colour[0] * 16.0);
        let expected = [
            1.0, 2.0, 1.0, 0.0, //
            2.0, 4.0, 2.0, 0.0, //
            1.0, 2.0, 1.0, 0.0,
        ];
        assert_eq!(grey, expected);
        let mut plain = [[0.5; 3]; 12];
        blur(&mut plain, 3);
        assert_eq!(plain, [[0.5; 3]; 12]);
    }
}
