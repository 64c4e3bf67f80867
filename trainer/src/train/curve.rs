//! How a training went: loss and accuracy of each epoch, as a CSV file.

use std::fmt::Write;
use std::io;
use std::path::Path;

/// First line of the file.
const HEADER: &str = "epoch,loss,accuracy";

/// One pass over the data.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Epoch {
    /// Mean over the pictures as they were seen, augmented, each before the step that
    /// learned from it.
    pub loss: f64,
    /// Share of right answers to them, a fraction of 1.
    pub accuracy: f64,
}

/// The epochs so far. Of an epoch in which a training was stopped and resumed, only what
/// came behind that counts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Curve {
    /// One for each epoch.
    pub epochs: Vec<Epoch>,
    /// Sums over the pictures of the running one.
    loss: f64,
    right: usize,
    pictures: usize,
}

impl Curve {
    /// Reads a file; none where there is no such file.
    pub fn load(file: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let damaged = || io::Error::other("not a training curve of espalier");
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(damaged());
        }
        let epochs: Option<Vec<Epoch>> = lines.map(Epoch::parse).collect();
        Ok(Some(Self {
            epochs: epochs.ok_or_else(damaged)?,
            ..Self::default()
        }))
    }

    /// Writes the file.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        let mut text = format!("{HEADER}\n");
        for (index, Epoch { loss, accuracy }) in self.epochs.iter().enumerate() {
            let _ = writeln!(text, "{},{loss:.6},{accuracy:.6}", index + 1);
        }
        crate::file::save(file, text.as_bytes())
    }

    /// The first epochs alone.
    pub(super) fn take(mut self, epochs: usize) -> Self {
        self.epochs.truncate(epochs);
        self
    }

    /// Counts a step: its mean loss, and its right answers.
    pub(super) fn step(&mut self, loss: f32, right: usize, pictures: usize) {
        self.loss += f64::from(loss) * pictures as f64;
        self.right += right;
        self.pictures += pictures;
    }

    /// Ends the running epoch.
    pub(super) fn end_epoch(&mut self) {
        let pictures = self.pictures.max(1) as f64;
        self.epochs.push(Epoch {
            loss: self.loss / pictures,
            accuracy: self.right as f64 / pictures,
        });
        (self.loss, self.right, self.pictures) = (0.0, 0, 0);
    }
}

impl Epoch {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.split(',').skip(1).map(str::parse);
        let (Some(Ok(loss)), Some(Ok(accuracy)), None) = (cells.next(), cells.next(), cells.next())
        else {
            return None;
        };
        Some(Self { loss, accuracy })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_the_mean_of_its_pictures() {
        let mut curve = Curve::default();
        for (loss, right, pictures) in [(2.0, 1, 4), (1.0, 2, 4), (0.5, 2, 2)] {
            curve.step(loss, right, pictures);
        }
        curve.end_epoch();
        assert_eq!(
            curve.epochs,
            [Epoch {
                loss: 1.3,
                accuracy: 0.5
            }]
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("curve.csv");
        assert_eq!(Curve::load(&file).unwrap(), None);
        curve.save(&file).unwrap();
        assert_eq!(Curve::load(&file).unwrap(), Some(curve));
        std::fs::write(&file, "epoch,loss,accuracy\n1,0.5\n").unwrap();
        assert!(Curve::load(&file).is_err());
    }
}
