//! Colours and patterns.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::plane::{Point, around, direction, sine, turned};

/// The least brightness of a figure: what is behind it is darker.
const DARKEST: f32 = 0.3;

/// The colour of a part or of a background, as red, green and blue of 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pattern: Pattern,
    /// Its two brightnesses, 0 to 1.
    shades: [f32; 2],
    /// What becomes of a brightness in red, green, and blue.
    hue: [f32; 3],
    /// How many times the pattern repeats in a length of 1 right and down, across its lines.
    waves: Point,
    /// Where the pattern begins, across its lines and along them.
    phase: Point,
}

/// How a fill changes from its one brightness to the other.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Flat,
    Gradient,
    Stripes,
    Checks,
    Dots,
    /// Blurred random spots.
    Clouds,
}

impl Fill {
    /// A random fill that stands out from the one below it.
    pub(super) fn new(random: &mut ChaCha8Rng, below: Option<&Self>) -> Self {
        let shade = apart(random, below.map_or(0.0, |below| below.shades[0]), 0.2);
        let mut fill = Self::flat(shade, random);
        fill.shades[1] = apart(random, shade, 0.3);
        fill.pattern = match random.random_range(0..100) {
            0..=39 => Pattern::Flat,
            40..=51 => Pattern::Gradient,
            52..=69 => Pattern::Stripes,
            70..=78 => Pattern::Checks,
            79..=87 => Pattern::Dots,
            _ => Pattern::Clouds,
        };
        let frequency = match fill.pattern {
            Pattern::Gradient => random.random_range(0.4..0.8),
            _ => random.random_range(1.5..3.6),
        };
        fill.waves = direction(random.random()).map(|side| side * frequency);
        fill
    }

    /// The same brightness everywhere, in a random hue.
    pub(super) fn flat(shade: f32, random: &mut ChaCha8Rng) -> Self {
        let mut hue = [0; 3].map(|_| random.random_range(0.3..1.0));
        hue[random.random_range(0..3)] = 1.0;
        Self {
            pattern: Pattern::Flat,
            shades: [shade; 2],
            hue,
            waves: [0.0; 2],
            phase: [0.0; 2],
        }
    }

    /// Mostly black, else darker than every figure is.
    pub(super) fn background(random: &mut ChaCha8Rng) -> Self {
        let (pattern, lightest) = match random.random_range(0..100) {
            0..=79 => (Pattern::Flat, 0.0),
            80..=84 => (Pattern::Flat, DARKEST * 0.6),
            85..=92 => (Pattern::Gradient, DARKEST * 0.8),
            _ => (Pattern::Clouds, DARKEST * 0.6),
        };
        let frequency = match pattern {
            Pattern::Gradient => 0.5,
            _ => random.random_range(0.8..4.0),
        };
        Self {
            pattern,
            shades: [0; 2].map(|_| random.random::<f32>() * lightest),
            hue: [1.0; 3],
            waves: direction(random.random()).map(|side| side * frequency),
            phase: match pattern {
                Pattern::Gradient => [0.0; 2],
                _ => [0; 2].map(|_| random.random_range(0.0..64.0)),
            },
        }
    }

    /// Changes its brightnesses and pattern a little, and where the pattern begins.
    pub(super) fn vary(&mut self, random: &mut ChaCha8Rng) {
        self.shades = self
            .shades
            .map(|shade| (shade + around(random, 0.12)).clamp(DARKEST, 1.0));
        let frequency = 1.0 + around(random, 0.15);
        let turn = direction(around(random, 0.03));
        self.waves = turned(self.waves, turn).map(|wave| wave * frequency);
        self.phase = match self.pattern {
            Pattern::Gradient => [around(random, 0.15), 0.0],
            _ => [0; 2].map(|_| random.random_range(0.0..64.0)),
        };
    }

    /// As many repeats in a length that is so many times as long.
    pub(super) fn stretch(&mut self, times: f32) {
        self.waves = self.waves.map(|wave| wave / times);
    }

    /// Makes it grey.
    pub(super) fn grey(&mut self) {
        self.hue = [1.0; 3];
    }

    /// Its colour at a place of the part.
    pub(super) fn colour(&self, [x, y]: Point) -> [f32; 3] {
        let across = x * self.waves[0] + y * self.waves[1] + self.phase[0];
        let along = y * self.waves[0] - x * self.waves[1] + self.phase[1];
        let share = match self.pattern {
            Pattern::Flat => 0.0,
            Pattern::Gradient => 0.5 + across,
            Pattern::Stripes => 0.5 + 3.0 * sine(across),
            Pattern::Checks => 0.5 + 4.0 * sine(across) * sine(along),
            Pattern::Dots => 3.0 * (sine(across) + sine(along)) - 1.5,
            Pattern::Clouds => clouds(across, along),
        };
        let [first, second] = self.shades;
        self.shade(first + (second - first) * share.clamp(0.0, 1.0))
    }

    /// Its second colour, without the pattern.
    pub(super) fn second(&self) -> [f32; 3] {
        self.shade(self.shades[1])
    }

    /// The colour of a brightness in its hue.
    fn shade(&self, shade: f32) -> [f32; 3] {
        self.hue.map(|hue| hue * shade)
    }
}

/// A brightness that differs from another by `least` or more.
fn apart(random: &mut ChaCha8Rng, other: f32, least: f32) -> f32 {
    loop {
        let shade = random.random_range(DARKEST..1.0);
        if (shade - other).abs() >= least {
            return shade;
        }
    }
}

/// Random brightness, 0 to 1, at whole numbers, and smooth between them ("value noise").
fn clouds(x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |share: f32| share * share * (3.0 - 2.0 * share);
    let (right, down) = (ease(x - left), ease(y - top));
    let corner = |x: f32, y: f32| {
        let mut hash = (x as i32 as u32).wrapping_mul(0x9e37_79b1)
            ^ (y as i32 as u32).wrapping_mul(0x85eb_ca77);
        hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
        hash = (hash ^ (hash >> 12)).wrapping_mul(0x297a_2d39);
        (hash >> 16) as f32 / 65535.0
    };
    let row = |y: f32| corner(left, y) + (corner(left + 1.0, y) - corner(left, y)) * right;
    row(top) + (row(top + 1.0) - row(top)) * down
}
