//! How the learning rate goes over a training.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::TrainOptions;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// A tenth of it from half of the steps on, a hundredth from three quarters on (He et
    /// al. 2016, "Deep Residual Learning for Image Recognition", section 4.2).
    Step,
    /// It falls as half a cosine to 0 (Loshchilov and Hutter 2017, "SGDR", without
    /// restarts).
    #[default]
    Cosine,
}

/// The learning rate of a step (from 0): rises in a straight line to its peak over the
/// share `warmup` of the steps (Goyal et al. 2017, "Accurate, Large Minibatch SGD"), then
/// goes on as the schedule has it.
pub(super) fn rate(step: usize, steps: usize, options: &TrainOptions) -> f64 {
    let peak = options.rate();
    let warm_up = (steps as f64 * options.warmup).ceil();
    let (step, steps) = (step as f64, steps as f64);
    if step < warm_up {
        return peak * (step + 1.0) / warm_up;
    }
    match options.schedule {
        Schedule::Constant => peak,
        Schedule::Step if step < 0.5 * steps => peak,
        Schedule::Step if step < 0.75 * steps => peak * 0.1,
        Schedule::Step => peak * 0.01,
        Schedule::Cosine => {
            let share = (step - warm_up) / (steps - warm_up).max(1.0);
            peak * 0.5 * (1.0 + (PI * share).cos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup: f64) -> Vec<f64> {
        let options = TrainOptions {
            rate: Some(2.0),
            schedule,
            warmup,
            ..Default::default()
        };
        (0..100).map(|step| rate(step, 100, &options)).collect()
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates = rates(Schedule::Cosine, 0.05);
        assert_eq!((rates[0], rates[4], rates[5]), (0.4, 2.0, 2.0));
        assert!((rates[52] - 1.0).abs() < 0.05);
        assert!(rates[5..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(rates[99] > 0.0 && rates[99] < 0.01);
        let options = TrainOptions::default();
        assert_eq!(rate(0, 1, &options), options.rate());
    }

    #[test]
    fn the_rate_stays_or_falls_in_steps() {
        let stays = rates(Schedule::Constant, 0.1);
        assert_eq!((stays[0], stays[9], stays[99]), (0.2, 2.0, 2.0));
        assert!(
            rates(Schedule::Constant, 0.0)
                .iter()
                .all(|&rate| rate == 2.0)
        );
        let steps = rates(Schedule::Step, 0.0);
        assert_eq!((steps[0], steps[49]), (2.0, 2.0));
        assert_eq!((steps[50], steps[74]), (0.2, 0.2));
        assert_eq!((steps[75], steps[99]), (0.02, 0.02));
    }
}
