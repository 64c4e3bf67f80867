//! A project named on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use espalier::config::{ConfigError, Project};

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
