//! A project named on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use espalier::checkpoint::Checkpoint;
use espalier::config::{ConfigError, FILE_NAME, Parts, Pictures, Project};
use espalier::data::{self, Dataset, Options, Part, Source, missing_classes, twins};

use super::Error;

/// The folder or the file.
#[derive(Args, Clone, Debug)]
pub struct ProjectPath {
    /// Project folder, or its espalier.toml
    #[arg(default_value = ".")]
    pub project: PathBuf,
}

impl ProjectPath {
    /// Reads the project with the given flags laid over it.
    pub fn load(&self, flags: &[(&str, toml::Table)]) -> Result<Project, ConfigError> {
        Project::load(&self.project, flags)
    }
}

/// The pictures of a project; warns of what makes its figures worth less.
pub fn pictures(project: &Project) -> Result<Pictures, Error> {
    let pictures = project.pictures()?;
    let Pictures {
        train,
        validation,
        test,
        ..
    } = &pictures;
    warn(project, train, "test", test);
    if let Some(validation) = validation {
        warn(project, train, "validation", validation);
    }
    Ok(pictures)
}

/// All training pictures of a project, and its test pictures; warns as [`pictures`].
pub fn parts(project: &Project) -> Result<Parts, Error> {
    let parts = project.parts()?;
    warn(project, &parts.train, "test", &parts.test);
    Ok(parts)
}

/// The pictures of a part of a source, or of a project, whose source may have no test part.
/// They come in this shape.
pub fn part(source: &Path, part: Part, shape: Options) -> Result<Dataset, Error> {
    if !source.join(FILE_NAME).is_file() {
        let source = Source::parse(source, Path::new(""))?;
        return Ok(data::load(&source, part, &shape)?);
    }
    let mut project = Project::load(source, &[])?;
    let Options {
        size,
        channels,
        resize,
    } = shape;
    (project.data.size, project.data.channels) = (size, channels);
    project.data.resize = resize;
    let Parts { train, test, .. } = project.parts()?;
    Ok(match part {
        Part::Train => train,
        Part::Test => test,
    })
}

/// Warns of a checkpoint that may know what is held back of the training pictures.
pub fn warn_of_split(file: &Path, checkpoint: &Checkpoint, pictures: &Pictures) {
    let now = pictures.split;
    if let Some(then) = checkpoint.split.filter(|then| now.is_known_to(then)) {
        tracing::warn!(
            "{} has learnt from other pictures than `[data]` leaves for learning now: {then} then, {now} now. It \
             may know those that are held back, which makes accuracies too good; set what it was trained with",
            file.display()
        );
    }
}

fn warn(project: &Project, train: &Dataset, part: &str, other: &Dataset) {
    let (twins, all) = (twins(train, other).len(), other.pictures.len());
    if twins > 0 {
        tracing::warn!(
            "{twins} of the {all} {part} pictures are training pictures too, which makes their accuracy too \
             good; `espalier data {}` names those that it finds in both parts of the source",
            project.folder.display()
        );
    }
    for class in missing_classes(other, train) {
        tracing::warn!(
            "class `{class}` has no {part} picture: nothing is known of how well it is found"
        );
    }
}

/// Removes a file that is no longer of use; one that stays does no harm.
pub fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {error}", file.display());
    }
}

/// Turns Ctrl-C into a flag that training looks at: it saves and stops. A
/// second Ctrl-C ends the program at once.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(stop)
}
