//! `espalier compress`: a smaller checkpoint, and a receipt of what each step did.

mod receipt;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::compress::clip::clip;
use espalier::compress::cost::{Chip, CostError, Meter};
use espalier::compress::factorise::factorise;
use espalier::compress::finetune::finetune;
use espalier::compress::importance::importance;
use espalier::compress::scale::scale;
use espalier::compress::search::{Candidate, Recipe, Search, SearchError, Trial, widths};
use espalier::compress::structured::Shrinking;
use espalier::compress::student::student;
use espalier::compress::{CompressOptions, PerLayer};
use espalier::config::{Pictures, Project};
use espalier::device::Board;
use espalier::score::Score;
use espalier::simulate::simulate;
use espalier::train::{Hooks, Teacher, TrainError, answers, difference};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::Model;
use shared::layer::Layer;

pub use receipt::Compressed;
use receipt::Step;

use super::Error;
use super::project::{stop_on_ctrl_c, warn_of_split};
use super::train::SAVE_EVERY;
use crate::flags::Flags;
use crate::output::{say, thousands};

/// Name of the result in the output folder.
const PRUNED: &str = "pruned.safetensors";
/// Where an unfinished fine-tuning is saved.
const UNFINISHED: &str = "pruned.unfinished.safetensors";
/// What is known of a compression that is not finished.
const STATE: &str = "compress.unfinished.json";
/// The receipt.
const RECEIPT: &str = "compress.json";
/// Accuracy against bytes of all trials.
const PARETO: &str = "pareto.svg";
/// How the fine-tuning went, epoch by epoch.
pub const CURVE: &str = "pruned.curve.csv";
/// The emulated board whose figures stand for a real one.
const EMULATED: &str = "mps2-an386";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Trained checkpoint (.safetensors)
    checkpoint: PathBuf,
    /// Project folder, or its espalier.toml: the pictures to fine-tune on
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// Go on with a compression that was stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    compress: Flags<CompressOptions>,
}

/// What a compression leaves behind, to go on with.
#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Of which compression.
    key: String,
    /// What a search has tried.
    trials: Vec<Trial>,
    /// How what is left is fine-tuned, once that is known.
    chosen: Option<CompressOptions>,
    steps: Vec<Step>,
}

impl Cmd {
    /// Compresses and scores on the test part.
    pub fn run(self) -> Result<Compressed, Error> {
        let project = Project::load(&self.project, &[self.compress.table()])?;
        let data = super::project::pictures(&project)?;
        let trained = Checkpoint::load(&self.checkpoint)?;
        warn_of_split(&self.checkpoint, &trained, &data);
        let stop = stop_on_ctrl_c()?;
        Ok(step(&project, &data, trained, self.resume, &stop)?.1)
    }
}

/// Whether a compression of this project was stopped.
pub fn is_unfinished(project: &Project) -> bool {
    project.output(STATE).is_file()
}

/// Removes what is left of a compression that was stopped.
pub fn clean_up(project: &Project) {
    for name in [STATE, UNFINISHED] {
        super::project::remove(&project.output(name));
    }
}

/// The compression step of a build.
pub fn step(
    project: &Project,
    data: &Pictures,
    trained: Checkpoint,
    resume: bool,
    stop: &AtomicBool,
) -> Result<(Checkpoint, Compressed), Error> {
    let begin = Instant::now();
    let (chip, measured_on) = chip(project)?;
    let meter = Meter {
        train: &data.train,
        export: &project.export,
        chip,
    };
    let mut work = Work {
        project,
        data,
        trained: &trained,
        teacher: teacher(project, data, &trained)?,
        stop,
        meter,
        state: State::default(),
    };
    let pruned = work.compress(resume)?;
    let State {
        trials,
        steps,
        chosen,
        ..
    } = std::mem::take(&mut work.state);
    let chosen = chosen.filter(|_| project.compress.is_search());
    // What it costs on the chip was measured behind the last step.
    let (bytes, _) = work.meter.measure_file(&pruned)?;
    let targets = project.compress.targets();
    let checkpoint = project.output(PRUNED);
    pruned.save(&checkpoint)?;
    clean_up(project);
    let (before, after) = (
        answers(&trained, &data.test)?,
        answers(&pruned, &data.test)?,
    );
    let score = Score::new(&data.test, &after);
    let mut summary = Compressed {
        accuracy_before: Score::new(&data.test, &before).accuracy,
        accuracy_int8: simulate(&Model::parse(&bytes).map_err(CostError::from)?, &data.test)?
            .accuracy,
        answers_changed: before.iter().zip(&after).filter(|(a, b)| a != b).count(),
        params_before: trained.parameters(),
        params: pruned.parameters(),
        nonzeros: pruned.nonzeros(),
        seconds: 0.0,
        checkpoint,
        pareto: None,
        over: steps.last().and_then(|step| targets.over(&step.cost)),
        drop: work.drop(&steps)?,
        max_drop: project.compress.max_drop,
        measured_on,
        receipt: project.output(RECEIPT),
        steps,
        recipe: chosen.as_ref().map(Recipe::of),
        trials,
        score,
    };
    if !summary.trials.is_empty() {
        let file = project.output(PARETO);
        let svg = summary.plot();
        save(
            &file,
            svg.map_err(std::io::Error::other),
            String::into_bytes,
        )?;
        summary.pareto = Some(file);
    }
    summary.seconds = begin.elapsed().as_secs_f64();
    let json = serde_json::to_vec_pretty(&summary).map_err(std::io::Error::from);
    save(&summary.receipt, json, |json| json)?;
    Ok((pruned, summary))
}

fn save<T>(
    file: &std::path::Path,
    made: std::io::Result<T>,
    bytes: impl Fn(T) -> Vec<u8>,
) -> Result<(), Error> {
    let saved = made.and_then(|made| espalier::file::save(file, &bytes(made)));
    saved.map_err(|source| Error::Write {
        file: file.to_owned(),
        source,
    })
}

/// The emulated board that costs are measured on, and its name; or why there is none.
fn chip(project: &Project) -> Result<(Option<Chip>, String), Error> {
    let board = Board::named(&project.board.name)?;
    let board = match board.emulator {
        Some(_) => board,
        None => Board::named(EMULATED)?,
    };
    let name = board.name.to_owned();
    match Chip::new(board) {
        Ok(chip) => Ok((Some(chip), name)),
        Err(error) => {
            let missing = super::build::missing_tool(match error {
                CostError::Firmware(error) => error.into(),
                CostError::Emulator(error) => error.into(),
                error => error.into(),
            })?;
            match project.compress.targets().need_chip() {
                true => Err(Error::NoChip(missing)),
                false => Ok((None, missing)),
            }
        }
    }
}

/// The uncompressed network and whatever else the project has to learn from.
fn teacher(project: &Project, data: &Pictures, trained: &Checkpoint) -> Result<Teacher, Error> {
    let mut teacher = Teacher::new(trained, &data.train)?;
    for file in project.teachers() {
        let other = Checkpoint::load(&file)?;
        warn_of_split(&file, &other, data);
        let joined = teacher.join(&other, &data.train);
        joined.map_err(|source| Error::Teacher {
            file,
            source: Box::new(source),
        })?;
    }
    Ok(teacher)
}

/// A compression under way.
struct Work<'a> {
    project: &'a Project,
    data: &'a Pictures,
    trained: &'a Checkpoint,
    teacher: Teacher,
    stop: &'a AtomicBool,
    meter: Meter<'a>,
    state: State,
}

impl Work<'_> {
    fn compress(&mut self, resume: bool) -> Result<Checkpoint, Error> {
        let project = self.project;
        let (unfinished, curve) = (project.output(UNFINISHED), project.output(CURVE));
        if resume && !is_unfinished(project) {
            return Err(Error::NothingToResume(project.output("")));
        }
        if resume {
            self.state = self.load_state()?;
        } else {
            clean_up(project);
            super::project::remove(&curve);
        }
        let (from, options) = match (unfinished.is_file(), self.state.chosen.clone()) {
            (true, Some(chosen)) => (Checkpoint::load(&unfinished)?, chosen),
            _ => self.reduced()?,
        };
        let hooks = Hooks {
            stop: self.stop,
            save: Some(&unfinished),
            save_every: SAVE_EVERY,
            curve: Some(&curve),
            label: "compress",
            ..Hooks::default()
        };
        let (data, train) = (&self.data.train, project.train_options());
        let mut tuned = match options.is_fine_tuned() {
            false => return Ok(from),
            true => finetune(
                from,
                &self.teacher,
                data,
                &options,
                &train,
                &project.augment,
                &hooks,
            )?,
        };
        if let Some(limit) = options.clip {
            clip(&mut tuned, limit);
        }
        self.measure("fine-tuned", &tuned)?;
        Ok(tuned)
    }

    /// What is left to fine-tune, and how; both are kept for `--resume`.
    fn reduced(&mut self) -> Result<(Checkpoint, CompressOptions), Error> {
        let (network, options) = self.smaller()?;
        self.state.chosen = Some(options.clone());
        self.save_state()?;
        Ok((network, options))
    }

    fn smaller(&mut self) -> Result<(Checkpoint, CompressOptions), Error> {
        let options = &self.project.compress;
        // Grids of a compression before this one.
        let mut network = self.trained.clone().without_grids();
        if let Some(spec) = &options.student {
            network = student(&network, spec, self.project.train.seed)?;
        }
        if let Some((key, name)) = options.unknown_layer(&network.network) {
            let nodes = network.network.nodes.iter();
            return Err(Error::NoLayer {
                key,
                name: name.to_owned(),
                layers: nodes
                    .map(|node| node.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
        if options.is_search() && self.data.validation.is_none() {
            return Err(SearchError::NoValidation.into());
        }
        self.state.steps.clear();
        self.measure("trained", self.trained)?;
        if options.student.is_some() {
            self.measure("student, new", &network)?;
        }
        if options.scale != 1.0 {
            warn_of_softmax(&network, options.scale);
            network = scale(&network, options.scale, options.scale_mode)?;
            self.measure("scaled", &network)?;
        }
        if let Some(limit) = options.clip {
            network = network.without_batch_norm()?;
            clip(&mut network, limit);
            self.measure("clipped", &network)?;
        }
        if options.is_search() {
            let Candidate { start, options } = self.search(&network)?;
            self.measure("searched", &start)?;
            return Ok((start, options));
        }
        if let Some(ranks) = &options.factorise {
            network = factorise(&network, ranks)?;
            self.measure("factorised", &network)?;
        }
        if let Some(target) = options.target_params {
            let importance = importance(&network, options.importance, &self.data.train)?;
            let shrinking = Shrinking::new(&network, &importance, &options.preference);
            network = shrinking.after(shrinking.steps_to(target)?)?;
            self.measure("channels removed", &network)?;
        }
        Ok((network, options.clone()))
    }

    fn search(&mut self, network: &Checkpoint) -> Result<Candidate, Error> {
        let project = self.project;
        // Something to go on with, should the first trial be stopped.
        self.state.chosen = None;
        self.save_state()?;
        let known = std::mem::take(&mut self.state.trials);
        let file = project.output(STATE);
        let key = self.key();
        let steps = self.state.steps.clone();
        let report = |trials: &[Trial]| {
            if let Some(trial) = trials.last() {
                say(words(trial));
            }
            let state = State {
                key: key.clone(),
                trials: trials.to_vec(),
                chosen: None,
                steps: steps.clone(),
            };
            if let Err(error) = state.save(&file) {
                tracing::warn!("{error}");
            }
        };
        let search = Search {
            before: self.trained,
            trained: network,
            teacher: &self.teacher,
            pictures: self.data,
            options: &project.compress,
            train: &project.train_options(),
            augmentation: &project.augment,
            meter: &self.meter,
            stop: self.stop,
            known: &known,
            report: &report,
        };
        match search.run() {
            Ok((candidate, trials)) => {
                self.state.trials = trials;
                Ok(candidate)
            }
            Err(SearchError::Train(TrainError::Interrupted { step, steps, .. })) => {
                let file = Some(file);
                Err(TrainError::Interrupted { file, step, steps }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the result depends on, as a JSON object.
    fn key(&self) -> String {
        let project = self.project;
        let learning = espalier::train::key(
            &self.data.train,
            self.data.validation.as_ref(),
            &project.train_options(),
            &project.augment,
            Some(&project.compress),
            Some(&self.teacher),
        );
        let mut key: serde_json::Value = serde_json::from_str(&learning).unwrap_or_default();
        key["export"] = json!(project.export);
        key["board"] = json!(project.board);
        key.to_string()
    }

    fn load_state(&self) -> Result<State, Error> {
        let file = self.project.output(STATE);
        let read = |source| Error::Read {
            file: file.clone(),
            source,
        };
        let text = std::fs::read(&file).map_err(read)?;
        let state: State = serde_json::from_slice(&text).map_err(|e| read(e.into()))?;
        let key = self.key();
        match state.key == key {
            true => Ok(state),
            false => Err(TrainError::OtherRun(difference(&state.key, &key)).into()),
        }
    }

    fn save_state(&mut self) -> Result<(), Error> {
        self.state.key = self.key();
        self.state.save(&self.project.output(STATE))
    }

    fn measure(&mut self, name: &str, network: &Checkpoint) -> Result<(), Error> {
        let (bytes, cost) = self.meter.measure(network)?;
        let model = Model::parse(&bytes).map_err(CostError::from)?;
        let validation = match &self.data.validation {
            Some(pictures) => {
                let Score {
                    accuracy, interval, ..
                } = simulate(&model, pictures)?;
                Some((accuracy, interval))
            }
            None => None,
        };
        self.state.steps.push(Step {
            name: name.to_owned(),
            widths: widths(network),
            cost,
            validation,
        });
        Ok(())
    }

    /// Points of validation accuracy that are lost.
    fn drop(&self, steps: &[Step]) -> Result<Option<f64>, Error> {
        let Some(validation) = &self.data.validation else {
            return Ok(None);
        };
        let before = super::train::score(self.trained, validation)?.accuracy;
        let after = steps.last().and_then(|step| step.validation);
        Ok(after.map(|(after, _)| 100.0 * (before - after)))
    }
}

impl State {
    fn save(&self, file: &std::path::Path) -> Result<(), Error> {
        save(file, serde_json::to_vec(self).map_err(Into::into), |json| {
            json
        })
    }
}

fn warn_of_softmax(trained: &Checkpoint, factor: f32) {
    let last = trained.network.nodes.last();
    if factor < 1.0 && last.is_some_and(|node| node.layer == Layer::Softmax) {
        tracing::warn!(
            "smaller logits flatten the softmax: in int8 its scores may all be equal; \
             answers are found before it and stay"
        );
    }
}

/// A trial in one line.
fn words(trial: &Trial) -> String {
    let widths: Vec<String> = trial
        .widths
        .iter()
        .map(|(_, width)| width.to_string())
        .collect();
    let list = |values: &PerLayer<u8>| {
        let mut values: Vec<String> = values.values().map(|value| value.to_string()).collect();
        values.dedup();
        values.join("/")
    };
    let Recipe {
        bits,
        share,
        sparsity,
        ..
    } = &trial.recipe;
    let mut weights = match (bits, share) {
        (_, Some(share)) => format!("{} values", list(share)),
        (Some(bits), None) => format!("{} bits", list(bits)),
        (None, None) => "int8".to_owned(),
    };
    if let Some(sparsity) = sparsity {
        weights += &format!(", {:.0} % zeros", 100.0 * sparsity);
    }
    format!(
        "trial {} ({weights}): {:.1} % with {} parameters, {} bytes",
        widths.join("-"),
        100.0 * trial.accuracy,
        thousands(trial.cost.params as u64),
        thousands(trial.cost.model_bytes as u64)
    )
}
