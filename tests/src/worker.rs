//! `espalier worker` as a process, and trainings that use it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::{Called, copy_folder, espalier, workspace};

/// The secret of all workers here.
pub const TOKEN: &str = "token-of-the-tests-0123456789abcdef";
/// How long a process may take to get somewhere.
const LIMIT: Duration = Duration::from_secs(60);

/// 60 pictures of 3 classes, a network of 4 layers with dropout, and one step in each epoch,
/// so that the curve has the loss of every step.
pub const PROJECT: &str = "[data]
source = '.'
[network]
layers = [
    { name = 'first', conv2d = { filters = 4, kernel = 3, stride = 2, activation = 'relu' } },
    { name = 'pool', max_pool2d = { kernel = 2 } },
    { name = 'hidden', dense = { units = 8, activation = 'relu' } },
    { name = 'head', dense = {} },
]
[train]
epochs = 20
batch = 60
dropout = 0.2
optimizer = 'sgd'
rate = 0.05
";

/// A folder with a project, its pictures and the token in a file `token`.
pub fn project(toml: &str) -> std::io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for part in ["train", "test"] {
        for class in ["bag", "coat", "sandal"] {
            let from = workspace().join("examples/fashion").join(part).join(class);
            copy_folder(&from, &folder.path().join(part).join(class));
        }
    }
    fs::write(folder.path().join("espalier.toml"), toml)?;
    fs::write(folder.path().join("token"), TOKEN)?;
    Ok(folder)
}

/// `espalier`, in a network namespace if one is named.
pub fn command(namespace: Option<&str>) -> Command {
    match namespace {
        None => Command::new(espalier()),
        Some(name) => {
            // It becomes the program, so that a signal for one is for the other.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(espalier());
            command
        }
    }
}

/// A running worker, killed when it is dropped.
pub struct Worker {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    // Closed, it would end the worker's words, and the worker.
    _words: BufReader<ChildStderr>,
}

impl Worker {
    /// Starts one and waits until it listens.
    pub fn start(folder: &Path, listen: &str, namespace: Option<&str>) -> std::io::Result<Self> {
        let mut child = command(namespace)
            .args(["worker", "--listen", listen, "--token-file", "token"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        let mut words =
            BufReader::new(stderr.ok_or_else(|| std::io::Error::other("no standard error"))?);
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if words.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other(format!("the worker ended: {said}")));
            }
            let address = line.split_once(" for others at ");
            let address = address.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            if let Some(address) = address {
                break address;
            }
            said += &line;
        };
        Ok(Self {
            child,
            address,
            _words: words,
        })
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops the process without ending it: it neither works nor answers.
    pub fn freeze(&self) {
        signal("STOP", self.child.id());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal.
pub fn signal(name: &str, process: u32) {
    let kill = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status();
    assert!(
        kill.is_ok_and(|status| status.success()),
        "no signal was sent"
    );
}

/// A training that runs.
pub struct Training {
    child: Child,
    folder: PathBuf,
}

impl Training {
    /// Starts `espalier train` with more arguments.
    pub fn start<I: AsRef<OsStr>>(
        folder: &Path,
        namespace: Option<&str>,
        arguments: impl IntoIterator<Item = I>,
    ) -> std::io::Result<Self> {
        let child = command(namespace)
            .args(["train", "--json", "--token-file", "token"])
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            child,
            folder: folder.to_owned(),
        })
    }

    /// Waits until so many steps are saved, each of which is an epoch.
    pub fn reach(&mut self, steps: usize) {
        let begin = Instant::now();
        while losses(&self.folder).len() < steps {
            let ended = self.child.try_wait();
            assert!(
                matches!(ended, Ok(None)),
                "the training ended before step {steps}"
            );
            assert!(begin.elapsed() < LIMIT, "step {steps} was not reached");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        signal("INT", self.child.id());
    }

    /// Waits for its end.
    pub fn end(self) -> Called {
        let output = self.child.wait_with_output();
        output.expect("a process that was started").into()
    }
}

/// The losses of the saved steps, each of which is an epoch.
pub fn losses(folder: &Path) -> Vec<f64> {
    let text = fs::read_to_string(folder.join("out/float.curve.csv")).unwrap_or_default();
    let loss = |line: &str| line.split(',').nth(1)?.parse().ok();
    text.lines().skip(1).filter_map(loss).collect()
}

/// The largest difference of two rows of losses; infinite where one is longer.
pub fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}
