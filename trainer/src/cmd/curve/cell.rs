//! One subset of the pictures, and every way to a network from it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use espalier::augment::Augmentation;
use espalier::checkpoint::Checkpoint;
use espalier::config::{Parts, Pictures, Project};
use espalier::score::Score;
use espalier::simulate::simulate;
use espalier::train::TrainOptions;
use serde::{Deserialize, Serialize};

use super::report::Row;
use super::{FOLDER, is_stop};
use crate::cmd::train::{Course, FLOAT, score};
use crate::cmd::{Error, compress, export, model::parse};

/// The compressed network has this share of the parameters where no target is given.
const SMALLER: usize = 20;

/// A way to a network; each adds something to the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The network on the pictures as they are.
    Plain,
    /// With the project's augmentation.
    Augmented,
    /// From its base.
    Base,
    /// Taught by its ensemble.
    Ensemble,
    /// The last one in int8.
    Int8,
    /// The last one compressed, in int8.
    Compressed,
}

impl Method {
    /// In one word, as in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Augmented => "augmented",
            Self::Base => "base",
            Self::Ensemble => "ensemble",
            Self::Int8 => "int8",
            Self::Compressed => "compressed",
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Augmented => "+ augmentation",
            Self::Base => "+ base",
            Self::Ensemble => "+ ensemble, distilled",
            Self::Int8 => "the same in int8",
            Self::Compressed => "compressed, in int8",
        }
    }
}

/// A subset of the pictures, by its size and seed.
pub struct Cell {
    project: Project,
    shots: usize,
    seed: u64,
}

impl Cell {
    pub fn new(project: &Project, shots: usize, seed: u64) -> Self {
        let mut project = project.clone();
        project.data.per_class = Some(shots);
        project.data.split_seed = Some(seed);
        project.train.seed = seed;
        Self {
            project,
            shots,
            seed,
        }
    }

    /// Trains every way that is not known yet and keeps its result; a stop is no error.
    pub fn run(
        &self,
        parts: &Parts,
        known: &[Row],
        stop: &AtomicBool,
        keep: &(dyn Fn(Row) -> Result<(), Error> + Sync),
    ) -> Result<(), Error> {
        let pictures = self.project.sample(parts.clone())?;
        let work = Work {
            cell: self,
            pictures: &pictures,
            known,
            stop,
            keep,
        };
        match work.run() {
            Err(error) if is_stop(&error) => Ok(()),
            done => done,
        }
    }

    /// The ways that the project has something for.
    fn floats(&self) -> Vec<Method> {
        let Project { augment, train, .. } = &self.project;
        let ways = [
            (Method::Plain, true),
            (Method::Augmented, *augment != Augmentation::default()),
            (Method::Base, train.base.is_some()),
            (Method::Ensemble, train.ensemble > 1),
        ];
        let asked = ways.into_iter().filter(|&(_, asked)| asked);
        asked.map(|(method, _)| method).collect()
    }

    /// The project of one way, with an output folder of its own.
    fn project(&self, method: Method) -> Project {
        let mut project = self.project.clone();
        let folder = format!("{}-{}", self.shots, self.seed);
        let folder = Path::new(FOLDER).join(folder).join(method.key());
        project.output.folder = project.output.folder.join(folder);
        if method < Method::Augmented {
            project.augment = Augmentation::default();
        }
        if method < Method::Base {
            project.train.base = None;
            project.train.freeze = Vec::new();
            project.train.body_rate = TrainOptions::default().body_rate;
        }
        if method < Method::Ensemble {
            project.train.ensemble = 1;
        }
        project
    }
}

struct Work<'a> {
    cell: &'a Cell,
    pictures: &'a Pictures,
    known: &'a [Row],
    stop: &'a AtomicBool,
    keep: &'a (dyn Fn(Row) -> Result<(), Error> + Sync),
}

impl Work<'_> {
    fn run(&self) -> Result<(), Error> {
        let floats = self.cell.floats();
        for &method in &floats {
            if !self.is_known(method) {
                self.float(method)?;
            }
        }
        let Some(&last) = floats.last() else {
            return Ok(());
        };
        let whole = || Checkpoint::load(&self.cell.project(last).output(FLOAT));
        if !self.is_known(Method::Int8) {
            let begin = Instant::now();
            self.int8(Method::Int8, &whole()?, begin)?;
        }
        if !self.is_known(Method::Compressed) {
            let begin = Instant::now();
            let small = self.compress(whole()?)?;
            self.int8(Method::Compressed, &small, begin)?;
        }
        Ok(())
    }

    fn is_known(&self, method: Method) -> bool {
        let cell = self.cell;
        let same = |row: &Row| (row.shots, row.seed) == (cell.shots, cell.seed);
        self.known
            .iter()
            .any(|row| same(row) && row.method == method)
    }

    fn float(&self, method: Method) -> Result<(), Error> {
        let begin = Instant::now();
        let project = self.cell.project(method);
        let course = Course::new(&project, self.pictures, false, self.stop);
        let trained = course.run()?.checkpoint;
        trained.save(&project.output(FLOAT))?;
        course.clean_up();
        let score = score(&trained, &self.pictures.test)?;
        self.keep(method, &trained, &score, None, begin)
    }

    fn compress(&self, whole: Checkpoint) -> Result<Checkpoint, Error> {
        let mut project = self.cell.project(Method::Compressed);
        // Of the whole network, which has learnt what it can of a base and an ensemble.
        (project.train.base, project.train.ensemble) = (None, 1);
        if project.compress.targets().is_empty() {
            project.compress.target_params = Some(whole.parameters() / SMALLER);
        }
        let (small, _) = compress::step(&project, self.pictures, whole, false, self.stop)?;
        Ok(small)
    }

    fn int8(&self, method: Method, checkpoint: &Checkpoint, begin: Instant) -> Result<(), Error> {
        let project = self.cell.project(method);
        let (bytes, exported) = export::step(&project, self.pictures, checkpoint)?;
        let model = parse(&bytes, &exported.model)?;
        let score = simulate(&model, &self.pictures.test)?;
        self.keep(method, checkpoint, &score, Some(bytes.len()), begin)
    }

    fn keep(
        &self,
        method: Method,
        checkpoint: &Checkpoint,
        score: &Score,
        model_bytes: Option<usize>,
        begin: Instant,
    ) -> Result<(), Error> {
        (self.keep)(Row {
            shots: self.cell.shots,
            seed: self.cell.seed,
            method,
            accuracy: score.accuracy,
            balanced_accuracy: score.balanced_accuracy,
            params: checkpoint.parameters(),
            model_bytes,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }
}
