//! The progress bar of a training.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Trainings at the same time have a line each.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Weight of a new step in the shown loss and accuracy.
const NEW: f64 = 0.05;

/// A bar on standard error; nothing where that is not a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    per_epoch: usize,
    epochs: usize,
    /// Running means of loss and accuracy.
    means: Option<(f64, f64)>,
}

impl Progress {
    pub(super) fn new(label: &str, step: usize, steps: usize, per_epoch: usize) -> Self {
        let bar = BARS.add(ProgressBar::new(steps as u64).with_position(step as u64));
        let template = "{prefix} {bar:30} {percent:>3} %  {msg}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.reset_eta();
        Self {
            bar,
            per_epoch,
            epochs: steps / per_epoch,
            means: None,
        }
    }

    pub(super) fn step(&mut self, loss: f32, right: usize, pictures: usize) {
        let (loss, accuracy) = (f64::from(loss), right as f64 / pictures as f64);
        let (old_loss, old_accuracy) = self.means.unwrap_or((loss, accuracy));
        let mean = |old: f64, new: f64| old + NEW * (new - old);
        let (loss, accuracy) = (mean(old_loss, loss), mean(old_accuracy, accuracy));
        self.means = Some((loss, accuracy));
        if !self.bar.is_hidden() {
            let epoch = self.bar.position() as usize / self.per_epoch + 1;
            let (epochs, percent) = (self.epochs, accuracy * 100.0);
            self.bar.set_message(format!(
                "epoch {epoch}/{epochs}  loss {loss:.3}  accuracy {percent:.1} %"
            ));
        }
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
