//! How the learning rate goes over a training.

use std::f64::consts::PI;

/// Share of the steps in which the rate rises.
const WARM_UP: f64 = 0.05;

/// The learning rate of a step (from 0): rises in a straight line to `peak`
/// over the first twentieth of the steps, then falls as half a cosine to 0
/// (Loshchilov and Hutter 2017, "SGDR", without restarts).
pub(super) fn rate(step: usize, steps: usize, peak: f64) -> f64 {
    let warm_up = (steps as f64 * WARM_UP).ceil();
    let step = step as f64;
    if step < warm_up {
        return peak * (step + 1.0) / warm_up;
    }
    let share = (step - warm_up) / (steps as f64 - warm_up).max(1.0);
    peak * 0.5 * (1.0 + (PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|step| rate(step, 100, 2.0)).collect();
        assert_eq!((rates[0], rates[4], rates[5]), (0.4, 2.0, 2.0));
        assert!((rate(52, 100, 2.0) - 1.0).abs() < 0.05);
        assert!(rates[5..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(rates[99] > 0.0 && rates[99] < 0.01);
        assert_eq!(rate(0, 1, 2.0), 2.0);
    }
}
