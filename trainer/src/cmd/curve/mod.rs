//! `espalier curve`: how good networks get with few, and with more, labelled pictures.

mod cell;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use clap::Args;
use espalier::checkpoint::{Checkpoint, CheckpointError};
use espalier::config::{FILE_NAME, Parts, Project};
use espalier::data::Dataset;
use espalier::train::{TrainError, digest, in_parallel, key};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::cell::{Cell, Method};
use self::report::{Learning, Row};
use super::project::stop_on_ctrl_c;
use super::{Error, train};

/// Folder in the output folder with what every cell trained.
const FOLDER: &str = "curve";
/// The results so far.
const STATE: &str = "curve.json";
/// The rows for other programs.
const CSV: &str = "curve.csv";
/// The picture.
const SVG: &str = "curve.svg";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Project folder, or a source of pictures (then with the recipe of `espalier new`)
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Training pictures of each class
    #[arg(long, value_delimiter = ',', default_values_t = [10, 20, 50, 100, 200])]
    shots: Vec<usize>,
    /// Subsets of each size, drawn and trained with seeds 1, 2, ...
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Go on with a curve that was stopped, or with more shots and seeds
    #[arg(long)]
    resume: bool,
    /// How networks are compressed is in the project's `[compress]`: its keys are named as
    /// those of a training are.
    #[command(flatten)]
    keys: train::Keys,
}

/// What is known of a curve, to go on with.
#[derive(Serialize, Deserialize)]
struct State {
    /// Of which project and pictures.
    key: String,
    /// What decides the compressed networks alone.
    compress: String,
    rows: Vec<Row>,
}

impl Cmd {
    /// Trains on every subset and measures on the whole test part.
    pub fn run(self) -> Result<Learning, Error> {
        let project = self.project()?;
        let parts = super::project::parts(&project)?;
        let cells = self.cells(&project, &parts.train)?;
        let stop = stop_on_ctrl_c()?;
        let file = project.output(STATE);
        let key = whole_key(&project, &parts)?;
        let compress = compress_key(&project)?;
        let state = State::load(&file, key, compress, self.resume)?;
        let known = state.rows.clone();
        let state = Mutex::new(state);
        let keep = |row: Row| {
            let mut state = state
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            state.rows.push(row);
            state.save(&file)
        };
        let work = |cell: Cell| match stop.load(Ordering::Relaxed) {
            true => Ok(()),
            // Nobody should have to wait for the others to see an error.
            false => cell
                .run(&parts, &known, &stop, &keep)
                .inspect_err(|_| stop.store(true, Ordering::Relaxed)),
        };
        let results = in_parallel(cells, work);
        results.into_iter().collect::<Result<Vec<()>, Error>>()?;
        if stop.load(Ordering::Relaxed) {
            return Err(Error::CurveStopped(file));
        }
        let state = state
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let asked = |row: &Row| self.shots.contains(&row.shots) && row.seed <= self.seeds;
        let rows = state.rows.into_iter().filter(asked).collect();
        Learning::new(rows, project.output(CSV), project.output(SVG))
    }

    /// The project, or one around a source.
    fn project(&self) -> Result<Project, Error> {
        let flags = self.keys.tables();
        let is_project = self.source.join(FILE_NAME).is_file() || self.source.is_file();
        Ok(match is_project {
            true => Project::load(&self.source, &flags)?,
            false => Project::around(super::new::PROJECT, &self.source, &flags)?,
        })
    }

    /// One for each subset, all of which can be drawn.
    fn cells(&self, project: &Project, train: &Dataset) -> Result<Vec<Cell>, Error> {
        let mut shots = self.shots.clone();
        // The longest first, so that no core waits for one at the end.
        shots.sort_unstable_by(|a, b| b.cmp(a));
        shots.dedup();
        let most = match shots.first() {
            Some(&most) if self.seeds > 0 && !shots.contains(&0) => most,
            _ => return Err(Error::NoShots),
        };
        train.pick_per_class(most, 1)?;
        let cells = shots
            .iter()
            .flat_map(|&shots| (1..=self.seeds).map(move |seed| Cell::new(project, shots, seed)));
        Ok(cells.collect())
    }
}

/// Everything that decides the rows of a curve, but for how networks are compressed.
fn whole_key(project: &Project, parts: &Parts) -> Result<String, Error> {
    let options = project.train_options();
    let base = options.base.as_deref().map(Checkpoint::load).transpose()?;
    let key = |data| key(data, None, &options, &project.augment, None, None);
    Ok(json!({
        "train": key(&parts.train),
        "test": key(&parts.test),
        "base": base.as_ref().map(digest),
        "network": project.network,
        "validation": project.data.validation,
        "export": project.export,
    })
    .to_string())
}

/// Everything else that decides how networks are compressed.
fn compress_key(project: &Project) -> Result<String, Error> {
    let digest = |file: PathBuf| Ok(digest(&Checkpoint::load(&file)?));
    let teachers = project.teachers().map(digest);
    let teachers = teachers.collect::<Result<Vec<String>, CheckpointError>>()?;
    Ok(json!({
        "options": project.compress,
        "teachers": teachers,
        "board": project.board,
    })
    .to_string())
}

impl State {
    /// What is known of this curve: without the compressed networks, if they would be made in
    /// another way now.
    fn load(file: &Path, key: String, compress: String, resume: bool) -> Result<Self, Error> {
        let empty = Self {
            key,
            compress,
            rows: Vec::new(),
        };
        if !resume {
            return Ok(empty);
        }
        let read = |source| Error::Read {
            file: file.to_owned(),
            source,
        };
        let text = std::fs::read(file).map_err(read)?;
        let mut state: Self = serde_json::from_slice(&text).map_err(|error| read(error.into()))?;
        if state.key != empty.key {
            return Err(Error::OtherCurve(file.to_owned()));
        }
        if state.compress != empty.compress {
            state.rows.retain(|row| row.method != Method::Compressed);
            state.compress = empty.compress;
        }
        Ok(state)
    }

    fn save(&self, file: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec(self).map_err(std::io::Error::from);
        let saved = json.and_then(|json| espalier::file::save(file, &json));
        saved.map_err(|source| Error::Write {
            file: file.to_owned(),
            source,
        })
    }
}

/// Whether an error is a training that was asked to stop.
fn is_stop(error: &Error) -> bool {
    matches!(error, Error::Train(TrainError::Interrupted { .. }))
}
