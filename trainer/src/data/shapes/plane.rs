//! Places, turns, and random numbers around 0.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Right and down.
pub(super) type Point = [f32; 2];

pub(super) fn square(side: f32) -> f32 {
    side * side
}

/// Each side times its own factor.
pub(super) fn scaled(at: Point, by: Point) -> Point {
    [at[0] * by[0], at[1] * by[1]]
}

/// Up to `most` either way.
pub(super) fn around(random: &mut ChaCha8Rng, most: f32) -> f32 {
    (random.random::<f32>() * 2.0 - 1.0) * most
}

/// The sine of so many full turns, to a thousandth: a parabola for each half, and a correction.
///
/// That of the C library differs in the last bits from machine to machine; this one does not.
pub(super) fn sine(turns: f32) -> f32 {
    let share = 2.0 * (turns - (turns + 0.5).floor());
    let parabola = 4.0 * share * (1.0 - share.abs());
    parabola + 0.225 * (parabola * parabola.abs() - parabola)
}

/// Cosine and sine of so many full turns.
pub(super) fn direction(turns: f32) -> Point {
    [sine(turns + 0.25), sine(turns)]
}

/// A place turned about 0.
pub(super) fn turned([x, y]: Point, [cos, sin]: Point) -> Point {
    [x * cos - y * sin, x * sin + y * cos]
}

/// The other way round.
pub(super) fn turned_back([x, y]: Point, [cos, sin]: Point) -> Point {
    [x * cos + y * sin, y * cos - x * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sine_is_good_to_a_thousandth() {
        for step in -4000i16..4000 {
            let turns = f32::from(step) / 1000.0;
            let exact = (f64::from(turns) * std::f64::consts::TAU).sin();
            assert!((f64::from(sine(turns)) - exact).abs() < 0.0012, "{turns}");
        }
    }

    #[test]
    fn turning_back_undoes_turning() {
        for step in 0i16..100 {
            let turn = direction(f32::from(step) / 100.0);
            let [x, y] = turned_back(turned([2.0, -1.0], turn), turn);
            assert!((x - 2.0).abs() < 0.01 && (y + 1.0).abs() < 0.01, "{x}, {y}");
        }
    }
}
