//! `espalier new`: a project folder to start from.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Error;
use crate::output::Report;

/// The project file.
pub const PROJECT: &str = include_str!("new/espalier.toml");
const IGNORE: &str = "/out\n";

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Folder to make
    folder: PathBuf,
}

/// What was made.
#[derive(Serialize)]
pub struct Created {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Cmd {
    /// Makes the folder; refuses one that holds something.
    pub fn run(self) -> Result<Created, Error> {
        let folder = self.folder;
        let used = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if used {
            return Err(Error::NotEmpty(folder));
        }
        for part in ["train", "test"] {
            let path = folder.join("data").join(part);
            fs::create_dir_all(&path).map_err(|source| Error::Write { file: path, source })?;
        }
        let files = [("espalier.toml", PROJECT), (".gitignore", IGNORE)];
        let files = files.map(|(name, text)| write(&folder.join(name), text));
        Ok(Created {
            files: files.into_iter().collect::<Result<_, _>>()?,
            folder,
        })
    }
}

fn write(file: &Path, text: &str) -> Result<PathBuf, Error> {
    fs::write(file, text).map_err(|source| Error::Write {
        file: file.to_owned(),
        source,
    })?;
    Ok(file.to_owned())
}

impl Report for Created {}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        writeln!(f, "made {folder}")?;
        writeln!(
            f,
            "next: put pictures into {folder}/data/train/CLASS and {folder}/data/test/CLASS,"
        )?;
        write!(f, "      then run `espalier build {folder}`")
    }
}
