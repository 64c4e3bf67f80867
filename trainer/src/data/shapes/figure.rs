//! What a class is: a few parts in a fixed arrangement, each with an outline and a fill.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::fill::Fill;
use super::outline::Outline;
use super::plane::{Point, around, direction, square, turned, turned_back};

/// Points along a side of the grid on which the size of a figure is measured.
const GRID: i16 = 40;
/// Half of the side that the grid covers.
const REACH: f32 = 3.0;
/// The least width of a figure, as a share of its height, or the other way round.
const LEAST_ASPECT: f32 = 0.35;

/// What all pictures of a class show: about 2 wide and high, around 0.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// From the back to the front; there is at least one.
    parts: Vec<Part>,
    /// The left half is the mirrored right half.
    symmetric: bool,
    /// The middle of what is painted.
    pub(super) middle: Point,
    /// Half of the longer side of what is painted, above 0.
    pub(super) half: f32,
}

/// A piece of a figure.
#[derive(Clone, Debug)]
struct Part {
    outline: Outline,
    /// The square of the distance behind which there is nothing of it.
    limit: f32,
    at: Point,
    /// Cosine and sine of the angle by which it is turned.
    turn: Point,
    body: Body,
    fill: Fill,
}

/// What is inside an outline.
#[derive(Clone, Copy, Debug)]
enum Body {
    /// The fill.
    Full,
    /// The fill, in a rim of plain colour: the inside is the outline times this.
    Rimmed(f32),
    /// A rim alone, around a hole: the outline times this.
    Hollow(f32),
    /// The background shows through.
    Cut,
}

/// What a part does to a place.
enum Paint {
    Nothing,
    Background,
    Colour([f32; 3]),
}

impl Figure {
    /// A random figure that is not much longer in one direction than in the other: a mere line says little.
    pub(super) fn new(random: &mut ChaCha8Rng) -> Self {
        loop {
            let mut figure = Self::of_any_size(random);
            let [width, height] = figure.measure();
            if width.min(height) > LEAST_ASPECT * width.max(height) {
                for part in &mut figure.parts {
                    part.fill.stretch(figure.half);
                }
                return figure;
            }
        }
    }

    fn of_any_size(random: &mut ChaCha8Rng) -> Self {
        let symmetric = random.random_bool(0.45);
        let parts = match random.random_bool(0.3) {
            true => line_drawing(random),
            false => composition(random, symmetric),
        };
        Self {
            parts,
            symmetric,
            middle: [0.0; 2],
            half: 1.0,
        }
    }

    /// The same figure with other proportions, brightnesses and patterns in a slightly different place.
    pub(super) fn varied(&self, random: &mut ChaCha8Rng) -> Self {
        Self {
            parts: self.parts.iter().map(|part| part.varied(random)).collect(),
            ..self.clone()
        }
    }

    /// Makes it grey.
    pub(super) fn grey(&mut self) {
        for part in &mut self.parts {
            part.fill.grey();
        }
    }

    /// The colour of a place that has this colour behind the figure.
    pub(super) fn colour(&self, [x, y]: Point, background: [f32; 3]) -> [f32; 3] {
        let at = [if self.symmetric { x.abs() } else { x }, y];
        let over = |below, part: &Part| match part.paint(at) {
            Paint::Nothing => below,
            Paint::Background => background,
            Paint::Colour(colour) => colour,
        };
        self.parts.iter().fold(background, over)
    }

    /// Finds out where the painted places are; gives their width and height, 0 or less if there are none.
    fn measure(&mut self) -> Point {
        let step = REACH / f32::from(GRID);
        let (mut least, mut most) = ([REACH; 2], [-REACH; 2]);
        for row in -GRID..=GRID {
            for column in -GRID..=GRID {
                let at = [f32::from(column) * step, f32::from(row) * step];
                // No fill is negative.
                if self.colour(at, [-1.0; 3]) != [-1.0; 3] {
                    for axis in 0..2 {
                        least[axis] = least[axis].min(at[axis]);
                        most[axis] = most[axis].max(at[axis]);
                    }
                }
            }
        }
        self.middle = [0, 1].map(|axis| (least[axis] + most[axis]) / 2.0);
        let [width, height] = [0, 1].map(|axis| most[axis] - least[axis]);
        self.half = width.max(height) / 2.0;
        [width, height]
    }
}

/// One to four solid parts, each at the edge of one before it.
fn composition(random: &mut ChaCha8Rng, symmetric: bool) -> Vec<Part> {
    let count = [1, 2, 2, 3, 3, 3, 4, 4][random.random_range(0..8)];
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    for number in 0..count {
        let size = match number {
            0 => 1.0,
            _ => random.random_range(0.35..0.85),
        };
        let outline = Outline::solid(random, size);
        let at = match number {
            0 if symmetric => [random.random_range(0.0..0.5), 0.0],
            0 => [0.0; 2],
            _ => parts[random.random_range(0..number)].edge(random),
        };
        let body = match random.random_range(0..100) {
            0..=11 => Body::Hollow(random.random_range(0.45..0.75)),
            12..=27 => Body::Rimmed(random.random_range(0.55..0.8)),
            28..=39 if number > 0 => Body::Cut,
            _ => Body::Full,
        };
        let below = parts.last().map(|part| &part.fill);
        let fill = Fill::new(random, below);
        parts.push(Part::new(outline, at, body, fill, random));
    }
    parts
}

/// Two to four strokes and rings of one thickness, each at the edge of one before it.
fn line_drawing(random: &mut ChaCha8Rng) -> Vec<Part> {
    let count = random.random_range(2..=4);
    let half: f32 = random.random_range(0.09..0.2);
    let fill = Fill::flat(random.random_range(0.7..1.0), random);
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    for number in 0..count {
        let size = match number {
            0 => 1.0,
            _ => random.random_range(0.5..0.9),
        };
        let (outline, body) = match random.random_bool(0.2) {
            true => {
                let radius = size * random.random_range(0.4..0.7);
                let ellipse = [radius, radius * random.random_range(0.6..1.0)];
                let share = (1.0 - 2.0 * half / radius).max(0.3);
                (Outline::Ellipse(ellipse), Body::Hollow(share))
            }
            false => (Outline::stroke(random, size, half), Body::Full),
        };
        let at = match number {
            0 => [0.0; 2],
            _ => parts[random.random_range(0..number)].edge(random),
        };
        parts.push(Part::new(outline, at, body, fill.clone(), random));
    }
    parts
}

impl Part {
    /// A part that is turned by any angle.
    fn new(outline: Outline, at: Point, body: Body, fill: Fill, random: &mut ChaCha8Rng) -> Self {
        Self {
            limit: square(outline.reach()),
            outline,
            at,
            turn: direction(random.random()),
            body,
            fill,
        }
    }

    /// What it does to a place of the figure.
    fn paint(&self, at: Point) -> Paint {
        let at = [at[0] - self.at[0], at[1] - self.at[1]];
        if square(at[0]) + square(at[1]) > self.limit {
            return Paint::Nothing;
        }
        let at = turned_back(at, self.turn);
        if !self.outline.contains(at) {
            return Paint::Nothing;
        }
        let in_core = |share: f32| self.outline.contains(at.map(|side| side / share));
        match self.body {
            Body::Cut => Paint::Background,
            Body::Hollow(share) if in_core(share) => Paint::Nothing,
            Body::Rimmed(share) if !in_core(share) => Paint::Colour(self.fill.second()),
            _ => Paint::Colour(self.fill.colour(at)),
        }
    }

    /// A random place near its edge, in the figure.
    fn edge(&self, random: &mut ChaCha8Rng) -> Point {
        let ([x, y], [cos, sin]) = (self.outline.edge(random), self.turn);
        [
            self.at[0] + x * cos - y * sin,
            self.at[1] + x * sin + y * cos,
        ]
    }

    fn varied(&self, random: &mut ChaCha8Rng) -> Self {
        let mut part = self.clone();
        part.outline.vary(random);
        part.limit = square(part.outline.reach());
        part.at = part.at.map(|side| side + around(random, 0.07));
        part.turn = turned(part.turn, direction(around(random, 0.03)));
        if let Body::Hollow(share) | Body::Rimmed(share) = &mut part.body {
            *share = (*share + around(random, 0.08)).clamp(0.2, 0.92);
        }
        part.fill.vary(random);
        part
    }
}
