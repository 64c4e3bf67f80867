//! Trainings on several hosts, compared with the same on one, and what they make of faults.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::Called;
use crate::hosts::{Hosts, THERE};
use crate::worker::{PROJECT, TOKEN, Training, Worker, largest_difference, losses, project};

/// Losses of one step on one and on several devices differ by no more.
pub const ROUNDING: f64 = 2e-5;
/// Steps of a training that lasts long enough to do something to it.
const STEPS: usize = 800;

/// Where trainings and workers run.
pub struct Ground<'a> {
    hosts: Option<&'a Hosts>,
    folder: TempDir,
    /// Losses of the long training on one machine.
    reference: Vec<f64>,
}

type Outcome = Result<(), String>;

/// Something that goes wrong, and what should follow: `Err` says what did instead.
pub type Fault = (&'static str, fn(&Ground) -> Outcome);

/// Those that can be tried on one machine, and between hosts.
pub const FAULTS: &[Fault] = &[
    ("a worker is killed", |ground| {
        one_of_two(ground, Worker::kill)
    }),
    ("a worker is frozen", |ground| {
        one_of_two(ground, |worker| worker.freeze())
    }),
    ("every worker is killed", every_worker_is_killed),
    (
        "the training is stopped and goes on elsewhere",
        goes_on_elsewhere,
    ),
    ("the token is another", other_token),
    ("nobody is there", nobody_there),
];

/// Those that take a cable.
pub const CABLE_FAULTS: &[Fault] = &[("the cable is pulled", cable_is_pulled)];

impl<'a> Ground<'a> {
    /// This machine alone, or hosts.
    pub fn new(hosts: Option<&'a Hosts>) -> std::io::Result<Self> {
        let toml = PROJECT.replace("epochs = 20", &format!("epochs = {STEPS}"));
        let toml = toml.replace("rate = 0.05", "rate = 0.002");
        let mut ground = Self {
            hosts,
            folder: project(&toml)?,
            reference: Vec::new(),
        };
        let called = ground.train(&[])?.end();
        assert!(called.success, "{}", called.stderr);
        ground.reference = losses(ground.folder());
        Ok(ground)
    }

    /// With the project, and the token in a file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A worker on the other host.
    pub fn worker(&self) -> std::io::Result<Worker> {
        let listen = match self.hosts {
            Some(_) => format!("{THERE}:0"),
            None => "127.0.0.1:0".to_owned(),
        };
        let namespace = self.hosts.map(|hosts| hosts.there.as_str());
        Worker::start(self.folder(), &listen, namespace)
    }

    /// `espalier train` on these devices, where silence is a loss after 2 seconds.
    fn train(&self, devices: &[&str]) -> std::io::Result<Training> {
        self.train_with(devices, &[])
    }

    fn train_with(&self, devices: &[&str], more: &[&str]) -> std::io::Result<Training> {
        let named = devices.iter().flat_map(|device| ["--device", device]);
        let arguments = named
            .chain(["--device-timeout", "2"])
            .chain(more.iter().copied());
        let arguments: Vec<OsString> = arguments.map(OsString::from).collect();
        let namespace = self.hosts.map(|hosts| hosts.here.as_str());
        if !more.contains(&"--resume") {
            // What an earlier training left is not what this one has reached.
            let _ = fs::remove_dir_all(self.folder().join("out"));
        }
        Training::start(self.folder(), namespace, arguments)
    }

    /// Whether a training that ended gave what it would have given alone.
    fn same_as_alone(&self, called: &Called) -> Outcome {
        if !called.success {
            return Err(format!("it failed: {}", called.stderr));
        }
        let difference = largest_difference(&losses(self.folder()), &self.reference);
        match difference <= ROUNDING {
            true => Ok(()),
            false => Err(format!("losses differ by {difference}")),
        }
    }
}

fn says(called: &Called, success: bool, words: &[&str]) -> Outcome {
    let missing = words.iter().find(|word| !called.stderr.contains(**word));
    let panicked = called.stderr.contains("panicked");
    match missing {
        None if called.success == success && !panicked => Ok(()),
        _ => Err(format!(
            "success {}, words: {}",
            called.success, called.stderr
        )),
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn one_of_two(ground: &Ground, lose: fn(&mut Worker)) -> Outcome {
    let mut worker = ground.worker().map_err(text)?;
    let address = worker.address.to_string();
    let mut training = ground.train(&["flex", &address]).map_err(text)?;
    training.reach(2);
    lose(&mut worker);
    lost_and_done(ground, training, &address)
}

fn lost_and_done(ground: &Ground, training: Training, address: &str) -> Outcome {
    let called = training.end();
    says(&called, true, &[&format!("{address} is lost in step")])?;
    let report: Value = serde_json::from_str(&called.stdout).map_err(|error| error.to_string())?;
    if report["lost_devices"] != json!([address]) {
        return Err(format!("lost devices: {}", report["lost_devices"]));
    }
    ground.same_as_alone(&called)
}

fn cable_is_pulled(ground: &Ground) -> Outcome {
    let hosts = ground.hosts.ok_or("there is no cable")?;
    let worker = ground.worker().map_err(text)?;
    let address = worker.address.to_string();
    let mut training = ground.train(&["flex", &address]).map_err(text)?;
    training.reach(2);
    hosts.set_cable(false);
    let outcome = lost_and_done(ground, training, &address);
    hosts.set_cable(true);
    outcome
}

fn every_worker_is_killed(ground: &Ground) -> Outcome {
    let mut workers = [
        ground.worker().map_err(text)?,
        ground.worker().map_err(text)?,
    ];
    let addresses = workers.each_ref().map(|worker| worker.address.to_string());
    let devices = addresses.each_ref().map(String::as_str);
    let mut training = ground.train(&devices).map_err(text)?;
    training.reach(2);
    workers.iter_mut().for_each(Worker::kill);
    let called = training.end();
    says(
        &called,
        false,
        &[
            "no device is left after step",
            "--resume",
            &addresses[0],
            &addresses[1],
        ],
    )?;
    let finished = losses(ground.folder()).len();
    if !(2..STEPS).contains(&finished) {
        return Err(format!("{finished} steps are kept"));
    }
    let called = ground.train_with(&[], &["--resume"]).map_err(text)?.end();
    ground.same_as_alone(&called)
}

fn goes_on_elsewhere(ground: &Ground) -> Outcome {
    let workers = [
        ground.worker().map_err(text)?,
        ground.worker().map_err(text)?,
    ];
    let addresses = workers.each_ref().map(|worker| worker.address.to_string());
    let mut training = ground
        .train(&[&addresses[0], &addresses[1]])
        .map_err(text)?;
    training.reach(2);
    is_interrupted(training)?;
    let devices = [addresses[0].as_str(), "flex", addresses[1].as_str()];
    let mut training = ground.train_with(&devices, &["--resume"]).map_err(text)?;
    let finished = losses(ground.folder()).len();
    training.reach(finished + 2);
    is_interrupted(training)?;
    let called = ground
        .train_with(&[&addresses[1]], &["--resume"])
        .map_err(text)?
        .end();
    ground.same_as_alone(&called)
}

/// Ctrl-C ends it, and it says how it goes on.
fn is_interrupted(training: Training) -> Outcome {
    training.interrupt();
    says(
        &training.end(),
        false,
        &["interrupted after step", "--resume"],
    )
}

fn other_token(ground: &Ground) -> Outcome {
    let worker = ground.worker().map_err(text)?;
    let file = ground.folder().join("other-token");
    fs::write(&file, TOKEN.replace('0', "1")).map_err(text)?;
    let other = ["--token-file", "other-token"];
    let namespace = ground.hosts.map(|hosts| hosts.here.as_str());
    let mut command = crate::worker::command(namespace);
    command
        .arg("train")
        .args(["--device", &worker.address.to_string()])
        .args(other);
    let output = command
        .current_dir(ground.folder())
        .output()
        .map_err(text)?;
    says(
        &output.into(),
        false,
        &["does not have this token", &worker.address.to_string()],
    )
}

fn nobody_there(ground: &Ground) -> Outcome {
    let address = {
        let worker = ground.worker().map_err(text)?;
        worker.address.to_string()
    };
    let called = ground.train(&[&address]).map_err(text)?.end();
    says(
        &called,
        false,
        &["nothing answers at", &address, "espalier worker"],
    )
}

/// `tests/bench scale`, the part of two hosts: the largest difference of a step's loss from
/// one machine alone, and the faults between them.
pub fn two_hosts() -> Result<Value, Box<dyn std::error::Error>> {
    let hosts = Hosts::new()?;
    let ground = Ground::new(Some(&hosts))?;
    let worker = ground.worker()?;
    let called = ground.train(&["flex", &worker.address.to_string()])?.end();
    let difference = match called.success {
        true => largest_difference(&losses(ground.folder()), &ground.reference),
        false => return Err(called.stderr.into()),
    };
    drop(worker);
    let faults = FAULTS.iter().chain(CABLE_FAULTS);
    let outcomes: Vec<_> = faults.map(|(name, fault)| (name, fault(&ground))).collect();
    for (name, outcome) in &outcomes {
        if let Err(reason) = outcome {
            eprintln!("not survived: {name}: {reason}");
        }
    }
    let survived = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.is_ok())
        .count();
    Ok(json!({
        "steps": ground.reference.len(),
        "loss_difference": difference,
        "faults_tried": outcomes.len(),
        "faults_survived": survived,
    }))
}

/// The part of a network that is divided between two hosts.
pub fn split() -> Result<Value, Box<dyn std::error::Error>> {
    let hosts = Hosts::new()?;
    let ground = Ground::new(Some(&hosts))?;
    let worker = ground.worker()?;
    let address = worker.address.to_string();
    let called = ground
        .train_with(&["flex", &address], &["--split", "hidden"])?
        .end();
    if !called.success {
        return Err(called.stderr.into());
    }
    let report: Value = serde_json::from_str(&called.stdout)?;
    Ok(json!({
        "steps": ground.reference.len(),
        "loss_difference": largest_difference(&losses(ground.folder()), &ground.reference),
        "bytes_per_step": report["split"]["bytes_per_step"],
    }))
}
