//! `espalier train`: the float network of a project.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use espalier::augment::Augmentation;
use espalier::checkpoint::Checkpoint;
use espalier::config::{DataOptions, Pictures, Project};
use espalier::data::Dataset;
use espalier::distributed::Devices;
use espalier::network::Network;
use espalier::score::Score;
use espalier::train::{Backend, Hooks, Outcome, Teacher, TrainOptions, start, train};
use serde::Serialize;
use shared::layer::Shape;

use super::Error;
use super::backend::BackendFlag;
use super::devices::{DeviceFlags, Used};
use super::project::{ProjectPath, stop_on_ctrl_c};
use super::simulate::recalls;
use crate::flags::Flags;
use crate::output::{Report, thousands};

/// Name of the result in the output folder.
pub const FLOAT: &str = "float.safetensors";

/// How the training went, epoch by epoch.
pub const CURVE: &str = "float.curve.csv";

/// Where an unfinished training is saved.
const UNFINISHED: &str = "float.unfinished.safetensors";

/// How often an unfinished training is saved.
pub const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    project: ProjectPath,
    /// Go on with a training that was stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    backend: BackendFlag,
    #[command(flatten)]
    devices: DeviceFlags,
    #[command(flatten)]
    keys: Keys,
}

/// The keys of a training.
#[derive(Args)]
pub struct Keys {
    #[command(flatten)]
    data: Flags<DataOptions>,
    #[command(flatten)]
    augment: Flags<Augmentation>,
    #[command(flatten)]
    train: Flags<TrainOptions>,
}

impl Keys {
    /// Those that were given, for [`Project::load`].
    pub fn tables(&self) -> [(&'static str, toml::Table); 3] {
        [self.data.table(), self.augment.table(), self.train.table()]
    }
}

/// A trained network.
#[derive(Serialize)]
pub struct Trained {
    /// Accuracy on the test part, a fraction of 1.
    pub float_accuracy: f64,
    pub params: usize,
    pub nonzeros: usize,
    pub pictures: usize,
    /// Epochs that were trained; of a training that was finished before, those asked for.
    pub epochs: usize,
    /// With `train.patience`, the epoch whose weights these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<usize>,
    pub seconds: f64,
    pub checkpoint: PathBuf,
    #[serde(flatten)]
    pub score: Score,
    /// With `--device`, where it was trained.
    #[serde(flatten)]
    pub used: Option<Used>,
}

impl Cmd {
    /// Trains and scores on the test part.
    pub fn run(self) -> Result<Trained, Error> {
        self.train(&self.project()?)
    }

    /// The same, of its project.
    pub fn train(&self, project: &Project) -> Result<Trained, Error> {
        let backend = self.backend.chosen()?;
        let data = super::project::pictures(project)?;
        let devices = self.devices.open()?;
        if devices.is_some() && backend != Backend::Flex {
            return Err(Error::CandleDevices);
        }
        let stop = stop_on_ctrl_c()?;
        let course = Course {
            backend,
            devices: devices.as_ref(),
            ..Course::new(project, &data, self.resume, &stop)
        };
        Ok(course.train_and_score()?.1)
    }

    /// The project, with the flags in place of its keys.
    pub fn project(&self) -> Result<Project, Error> {
        Ok(self.project.load(&self.keys.tables())?)
    }
}

/// The training step of a build.
pub fn step(
    project: &Project,
    data: &Pictures,
    resume: bool,
    stop: &AtomicBool,
) -> Result<(Checkpoint, Trained), Error> {
    Course::new(project, data, resume, stop).train_and_score()
}

/// The trainings of one network, or of an ensemble and the one that learns from it.
pub struct Course<'a> {
    pub project: &'a Project,
    pub data: &'a Pictures,
    /// Whether to go on where they were stopped.
    pub resume: bool,
    pub stop: &'a AtomicBool,
    /// What computes the networks.
    pub backend: Backend,
    /// Where; on this machine's cores where there are none.
    pub devices: Option<&'a Devices>,
}

impl<'a> Course<'a> {
    /// On this machine's cores.
    pub fn new(
        project: &'a Project,
        data: &'a Pictures,
        resume: bool,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            project,
            data,
            resume,
            stop,
            backend: Backend::default(),
            devices: None,
        }
    }

    /// The network, saved as the project's, and its score on the test part.
    fn train_and_score(&self) -> Result<(Checkpoint, Trained), Error> {
        let begin = Instant::now();
        let Outcome {
            checkpoint: trained,
            epochs,
            best_epoch,
        } = self.run()?;
        trained.save(&self.project.output(FLOAT))?;
        self.clean_up();
        let mut summary = summarise(self.project, self.data, &trained, self.backend)?;
        (summary.epochs, summary.best_epoch) = (epochs, best_epoch);
        summary.seconds = begin.elapsed().as_secs_f64();
        let pictures = self.data.train.pictures.len();
        let steps = self.project.train_options().steps_per_epoch(pictures);
        let used = |devices| Used::of(devices, &trained.network, pictures.div_ceil(steps));
        summary.used = self.devices.map(used);
        Ok((trained, summary))
    }

    /// The network.
    pub fn run(&self) -> Result<Outcome, Error> {
        let options = self.project.train_options();
        if !self.resume {
            // What a training that diverged has left may be the base of this one.
            self.remove_unfinished(options.base.as_deref());
        }
        if options.ensemble == 1 {
            return self.train(UNFINISHED, "train", &options, None);
        }
        let member = |number: usize| {
            let options = TrainOptions {
                seed: options.seed + number as u64,
                ..options.clone()
            };
            let label = format!("network {} of {}", number + 1, options.ensemble);
            self.train(&unfinished_member(number), &label, &options, None)
        };
        let mut teacher = Teacher::new(&member(0)?.checkpoint, &self.data.train)?;
        for number in 1..options.ensemble {
            teacher.join(&member(number)?.checkpoint, &self.data.train)?;
        }
        self.train(UNFINISHED, "distil", &options, Some(&teacher))
    }

    fn train(
        &self,
        unfinished: &str,
        label: &str,
        options: &TrainOptions,
        teacher: Option<&Teacher>,
    ) -> Result<Outcome, Error> {
        let (pictures, validation) = (&self.data.train, self.data.validation.as_ref());
        let unfinished = self.project.output(unfinished);
        // Of an ensemble, the networks behind the one that was stopped have not begun.
        let begun = options.ensemble == 1 || unfinished.is_file();
        let network = network(self.project, pictures)?;
        let from = match self.resume && begun {
            true => load(&unfinished, &network)?,
            false => Checkpoint {
                split: Some(self.data.split),
                ..start(network, pictures, self.project.data.resize, options)?
            },
        };
        let curve = self.project.output(CURVE);
        let is_member = options.ensemble > 1 && teacher.is_none();
        let hooks = Hooks {
            stop: self.stop,
            save: Some(&unfinished),
            save_every: SAVE_EVERY,
            curve: (!is_member).then_some(&curve),
            label,
            backend: self.backend,
            devices: self.devices,
        };
        let augment = &self.project.augment;
        let outcome = train(
            from, teacher, pictures, validation, options, augment, &hooks,
        )?;
        Ok(outcome)
    }

    /// Removes what is left of trainings that were stopped.
    pub fn clean_up(&self) {
        self.remove_unfinished(None);
    }

    fn remove_unfinished(&self, but: Option<&Path>) {
        let but = but.and_then(|file| file.canonicalize().ok());
        for file in unfinished(self.project) {
            if but.is_none() || file.canonicalize().ok() != but {
                super::project::remove(&file);
            }
        }
    }
}

/// Where unfinished trainings of the project are saved.
fn unfinished(project: &Project) -> impl Iterator<Item = PathBuf> {
    let members = (0..project.train.ensemble).map(unfinished_member);
    let names = members.chain([UNFINISHED.to_owned()]);
    names.map(|name| project.output(&name))
}

/// Where an unfinished network of an ensemble is saved, and a finished one until all are.
fn unfinished_member(number: usize) -> String {
    format!("float.member{}.unfinished.safetensors", number + 1)
}

/// Whether the project's network is trained, and no other training was stopped since.
pub fn is_finished(project: &Project) -> bool {
    project.output(FLOAT).is_file() && !unfinished(project).any(|file| file.is_file())
}

/// The training step of a build that was stopped after it.
pub fn finished(project: &Project, data: &Pictures) -> Result<(Checkpoint, Trained), Error> {
    let file = project.output(FLOAT);
    let trained = load(&file, &network(project, &data.train)?)?;
    super::project::warn_of_split(&file, &trained, data);
    let summary = summarise(project, data, &trained, Backend::default())?;
    Ok((trained, summary))
}

/// A checkpoint of this network.
fn load(file: &Path, network: &Network) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::load(file)?;
    match checkpoint.network == *network {
        true => Ok(checkpoint),
        false => Err(Error::OtherNetwork(file.to_owned())),
    }
}

fn summarise(
    project: &Project,
    data: &Pictures,
    trained: &Checkpoint,
    backend: Backend,
) -> Result<Trained, Error> {
    let score = Score::new(&data.test, &backend.answers(trained, &data.test)?);
    Ok(Trained {
        float_accuracy: score.accuracy,
        params: trained.parameters(),
        nonzeros: trained.nonzeros(),
        pictures: data.train.pictures.len(),
        epochs: project.train.epochs(data.train.pictures.len()),
        best_epoch: None,
        seconds: 0.0,
        checkpoint: project.output(FLOAT),
        score,
        used: None,
    })
}

fn network(project: &Project, data: &Dataset) -> Result<Network, Error> {
    let shape = data.shape;
    let input = Shape::new(shape.height, shape.width, shape.channels)
        .map_err(|reason| Error::Input { shape, reason })?;
    Ok(project.network.build(input, data.classes.len())?)
}

/// Right answers of the float network.
pub fn score(checkpoint: &Checkpoint, data: &Dataset) -> Result<Score, Error> {
    Ok(Score::new(data, &Backend::Flex.answers(checkpoint, data)?))
}

impl Report for Trained {}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", recalls(&[("recall", &self.score)]))?;
        writeln!(f, "float accuracy     {}", self.score.percent())?;
        writeln!(f, "balanced accuracy  {}", self.score.balanced_percent())?;
        writeln!(f, "parameters         {}", thousands(self.params as u64))?;
        let (pictures, epochs, seconds) = (self.pictures, self.epochs, self.seconds);
        writeln!(
            f,
            "trained on         {pictures} pictures, {epochs} epochs, {seconds:.1} s"
        )?;
        if let Some(best) = self.best_epoch {
            writeln!(
                f,
                "weights of         epoch {best}, the best on the validation pictures"
            )?;
        }
        if let Some(used) = &self.used {
            writeln!(f, "{used}")?;
        }
        write!(f, "checkpoint         {}", self.checkpoint.display())
    }
}
