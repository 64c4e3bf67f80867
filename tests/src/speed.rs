//! How fast a network is trained.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use espalier::augment::Augmentation;
use espalier::checkpoint::Checkpoint;
use espalier::data::{self, Dataset, Part, Resize, Source};
use espalier::network::NetworkSpec;
use espalier::train::{Hooks, TrainOptions, start, train};
use rayon::ThreadPoolBuilder;
use shared::layer::Shape;

/// The first `count` training pictures of Fashion-MNIST.
pub fn pictures(count: usize) -> Result<Dataset, Box<dyn Error>> {
    let source = Source::parse("fashion-mnist", Path::new(""))?;
    let mut data = data::load(&source, Part::Train, &data::Options::default())?;
    data.pictures.truncate(count);
    Ok(data)
}

/// A training whose speed is asked for.
pub struct Trial<'a> {
    /// What is trained on; every picture may be mirrored.
    pub data: &'a Dataset,
    /// Name of a preset for 28x28x1.
    pub preset: &'a str,
    /// Single-threaded workers.
    pub workers: usize,
    /// What is trained how.
    pub options: TrainOptions,
}

impl Trial<'_> {
    /// The network before.
    pub fn untrained(&self) -> Result<Checkpoint, Box<dyn Error>> {
        let spec: NetworkSpec = toml::from_str(&format!("preset = '{}'", self.preset))?;
        let network = spec.build(Shape::new(28, 28, 1)?, self.data.classes.len())?;
        Ok(start(network, self.data, Resize::default(), &self.options)?)
    }

    /// The network behind, and the seconds that it took.
    pub fn train(&self, hooks: &Hooks) -> Result<(Checkpoint, f64), Box<dyn Error>> {
        let augmentation: Augmentation = toml::from_str("flip = true")?;
        let from = self.untrained()?;
        let pool = ThreadPoolBuilder::new().num_threads(self.workers).build()?;
        let begin = Instant::now();
        let go = || {
            train(
                from,
                None,
                self.data,
                None,
                &self.options,
                &augmentation,
                hooks,
            )
        };
        let outcome = pool.install(go)?;
        Ok((outcome.checkpoint, begin.elapsed().as_secs_f64()))
    }

    /// Pictures a second, with all that a step has: augmentation, loss, gradients, optimiser.
    pub fn speed(&self, hooks: &Hooks) -> Result<f64, Box<dyn Error>> {
        let pictures = self.options.epochs * self.data.pictures.len();
        Ok(pictures as f64 / self.train(hooks)?.1)
    }
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
