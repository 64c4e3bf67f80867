//! The lines around parts.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::plane::{Point, around, direction, scaled, square, turned};

/// Straight pieces of which a curved stroke is made.
const PIECES: u8 = 7;
/// Waves around a contour, from two on: two bulges, three, ...
const WAVES: usize = 5;
/// How far waves may lift a contour, as a multiple of its radius.
const MOST_BULGE: f32 = 1.7;

/// The line around a part that stands at 0.
#[derive(Clone, Debug)]
pub(super) enum Outline {
    /// By half of its width and height.
    Ellipse(Point),
    /// By half of its width and height.
    Rectangle(Point),
    /// By its corners.
    Polygon(Vec<Point>),
    /// A smooth closed curve: its distance from 0 is `radius` times 1 plus waves around the circle, each by its share
    /// of the cosine and of the sine.
    Contour { radius: f32, waves: [Point; WAVES] },
    /// All that is nearer than `half` to a line through these points.
    Stroke { points: Vec<Point>, half: f32 },
}

impl Outline {
    /// One of any kind that reaches about as far as `size`.
    pub(super) fn solid(random: &mut ChaCha8Rng, size: f32) -> Self {
        let aspect = random.random_range(0.3..1.0);
        match random.random_range(0..8) {
            0 => Self::Ellipse([size, size * aspect]),
            1 | 2 => Self::Rectangle([size * 0.85, size * 0.85 * aspect]),
            3 => Self::polygon(random, size),
            4 => Self::star(random, size),
            5 => Self::stroke(random, size, size * 0.2),
            _ => Self::contour(random, size),
        }
    }

    fn contour(random: &mut ChaCha8Rng, size: f32) -> Self {
        let strength = random.random_range(0.3..0.8);
        let mut waves = [[0.0; 2]; WAVES];
        for (wave, order) in waves.iter_mut().zip(2u8..) {
            *wave = [0; 2].map(|_| around(random, strength / f32::from(order)));
        }
        Self::Contour {
            radius: size * 0.7,
            waves,
        }
    }

    /// 3 to 7 corners.
    fn polygon(random: &mut ChaCha8Rng, size: f32) -> Self {
        let corners: u8 = random.random_range(3..=7);
        let corner = |number| {
            let turn = (f32::from(number) + around(random, 0.3)) / f32::from(corners);
            let distance = random.random_range(0.75..1.0);
            direction(turn).map(|side| side * size * distance)
        };
        Self::Polygon((0..corners).map(corner).collect())
    }

    /// 3 to 7 points, and a corner nearer to the middle before each.
    fn star(random: &mut ChaCha8Rng, size: f32) -> Self {
        let distances = [random.random_range(0.35..0.6), 1.0];
        let corners: u8 = random.random_range(3..=7) * 2;
        let corner = |number| {
            let turn = (f32::from(number) + around(random, 0.1)) / f32::from(corners);
            direction(turn).map(|side| side * size * distances[usize::from(number % 2)])
        };
        Self::Polygon((0..corners).map(corner).collect())
    }

    /// A stroke along a cubic Bézier curve with random control points.
    pub(super) fn stroke(random: &mut ChaCha8Rng, size: f32, half: f32) -> Self {
        let mut control = [[0.0; 2]; 4];
        for (at, start) in control.iter_mut().zip([-0.9, -0.4, 0.4, 0.9]) {
            *at = [
                (start + around(random, 0.25)) * size,
                around(random, 1.1) * size,
            ];
        }
        let point = |number| bezier(&control, f32::from(number) / f32::from(PIECES));
        Self::Stroke {
            points: (0..=PIECES).map(point).collect(),
            half,
        }
    }

    /// Whether a place is inside.
    pub(super) fn contains(&self, [x, y]: Point) -> bool {
        match self {
            Self::Ellipse([width, height]) => square(x / width) + square(y / height) < 1.0,
            Self::Rectangle([width, height]) => x.abs() < *width && y.abs() < *height,
            Self::Polygon(corners) => is_in_polygon(corners, [x, y]),
            Self::Contour { radius, waves } => {
                let distance = (x * x + y * y).sqrt();
                distance < radius * bulge(waves, [x, y], distance)
            }
            Self::Stroke { points, half } => points
                .windows(2)
                .any(|ends| is_near(ends, [x, y], half * half)),
        }
    }

    /// No place of it is farther from 0.
    pub(super) fn reach(&self) -> f32 {
        let farthest = |points: &[Point]| {
            let squares = points.iter().map(|[x, y]| x * x + y * y);
            squares.fold(0.0, f32::max).sqrt()
        };
        match self {
            Self::Ellipse([width, height]) => width.max(*height),
            Self::Rectangle(corner) => farthest(&[*corner]),
            Self::Polygon(corners) => farthest(corners),
            Self::Contour { radius, .. } => radius * MOST_BULGE,
            Self::Stroke { points, half } => farthest(points) + half,
        }
    }

    /// A random place near it: a point of a stroke, or in some direction.
    pub(super) fn edge(&self, random: &mut ChaCha8Rng) -> Point {
        match self {
            Self::Stroke { points, .. } => points[random.random_range(0..points.len())],
            _ => direction(random.random()).map(|side| side * self.reach() * 0.65),
        }
    }

    /// Changes its proportions a little.
    pub(super) fn vary(&mut self, random: &mut ChaCha8Rng) {
        let stretch = [0; 2].map(|_| 1.0 + around(random, 0.15));
        match self {
            Self::Ellipse(sides) | Self::Rectangle(sides) => *sides = scaled(*sides, stretch),
            Self::Polygon(corners) => {
                for corner in corners {
                    *corner = scaled(*corner, stretch.map(|side| side + around(random, 0.08)));
                }
            }
            Self::Contour { radius, waves } => {
                *radius *= stretch[0];
                for wave in waves {
                    *wave = wave.map(|share| share + around(random, 0.04));
                }
            }
            Self::Stroke { points, half } => {
                *half *= 1.0 + around(random, 0.35);
                for point in points {
                    *point = scaled(*point, stretch);
                }
            }
        }
    }
}

/// The place on a cubic Bézier curve at this share, 0 to 1, of its parameter.
fn bezier(control: &[Point; 4], to: f32) -> Point {
    let from = 1.0 - to;
    let shares = [
        from * from * from,
        3.0 * from * from * to,
        3.0 * from * to * to,
        to * to * to,
    ];
    [0, 1].map(|axis| {
        let each = control.iter().zip(shares);
        each.map(|(at, share)| at[axis] * share).sum()
    })
}

/// Whether a ray to the right crosses the border an odd number of times.
fn is_in_polygon(corners: &[Point], [x, y]: Point) -> bool {
    let next = corners.iter().cycle().skip(1);
    let crosses = |(from, to): &(&Point, &Point)| {
        (from[1] > y) != (to[1] > y)
            && x < from[0] + (y - from[1]) / (to[1] - from[1]) * (to[0] - from[0])
    };
    corners.iter().zip(next).filter(crosses).count() % 2 == 1
}

/// Whether a place is nearer than the root of `limit` to the line between two points.
fn is_near(ends: &[Point], [x, y]: Point, limit: f32) -> bool {
    let [[ax, ay], [bx, by]] = [ends[0], ends[1]];
    let (dx, dy) = (bx - ax, by - ay);
    let length = (dx * dx + dy * dy).max(1e-9);
    let share = (((x - ax) * dx + (y - ay) * dy) / length).clamp(0.0, 1.0);
    square(x - ax - share * dx) + square(y - ay - share * dy) < limit
}

/// 1 plus the waves at a place that is so far from 0.
///
/// Cosine and sine of n times the angle are the parts of the n-th power of the place as a complex number.
fn bulge(waves: &[Point; WAVES], [x, y]: Point, distance: f32) -> f32 {
    let unit = [x, y].map(|side| side / distance.max(1e-9));
    let mut power = unit;
    let mut sum = 1.0;
    for [cos, sin] in waves {
        power = turned(power, unit);
        sum += cos * power[0] + sin * power[1];
    }
    sum.clamp(0.15, MOST_BULGE)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    /// Places all around 0, and how far they are.
    fn places() -> impl Iterator<Item = (Point, f32)> {
        let sides = || (-50i8..=50).map(|side| f32::from(side) / 25.0);
        let all = sides().flat_map(move |y| sides().map(move |x| [x, y]));
        all.map(|[x, y]| ([x, y], (x * x + y * y).sqrt()))
    }

    #[test]
    fn no_outline_is_empty_or_goes_beyond_its_reach() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let mut outline = Outline::solid(&mut random, 0.8);
            outline.vary(&mut random);
            let reach = outline.reach();
            let inside = |(place, _): &(Point, f32)| outline.contains(*place);
            let farthest = places().filter(inside).map(|(_, distance)| distance);
            let farthest = farthest.fold(0.0, f32::max);
            assert!(farthest > 0.2 && farthest <= reach, "{outline:?}");
        }
    }

    #[test]
    fn a_contour_without_waves_is_a_circle() {
        let circle = Outline::Contour {
            radius: 1.0,
            waves: [[0.0; 2]; WAVES],
        };
        for (place, distance) in places().filter(|(_, distance)| (distance - 1.0).abs() > 1e-3) {
            assert_eq!(circle.contains(place), distance < 1.0, "{place:?}");
        }
    }

    #[test]
    fn the_second_wave_of_a_contour_has_three_bulges() {
        let mut waves = [[0.0; 2]; WAVES];
        waves[1] = [0.5, 0.0];
        let contour = Outline::Contour { radius: 1.0, waves };
        for bulge in [0.0, 1.0 / 3.0, 2.0 / 3.0] {
            assert!(contour.contains(direction(bulge).map(|side| side * 1.4)));
            assert!(!contour.contains(direction(bulge + 1.0 / 6.0).map(|side| side * 0.6)));
        }
    }

    #[test]
    fn polygons_and_strokes_contain_what_they_surround() {
        let arrow = Outline::Polygon(vec![[-1.0, -1.0], [1.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]);
        assert!(arrow.contains([0.5, 0.1]) && arrow.contains([-0.7, 0.8]));
        assert!(!arrow.contains([-0.5, 0.1]) && !arrow.contains([1.1, 0.0]));
        let points = vec![[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]];
        let corner = Outline::Stroke { points, half: 0.1 };
        assert!(corner.contains([-0.5, 0.09]) && corner.contains([0.09, 0.5]));
        assert!(!corner.contains([-0.5, 0.11]) && !corner.contains([0.0, 1.11]));
    }
}
