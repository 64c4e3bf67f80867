//! Files that are there whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Writes beside `file`, brings it to the disk, and only then gives it its
/// name; makes its folder where it does not exist.
pub fn save(file: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder(file))?;
    let mut beside = beside(file)?;
    beside.write_all(bytes)?;
    settle(beside, file)
}

/// A new file in the folder of `file`, which goes away unless [`settle`] is
/// reached.
pub fn beside(file: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    #[cfg(unix)]
    {
        // Like any new file, less the user's mask; a temporary file is
        // otherwise its owner's alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".espalier-").tempfile_in(folder(file))
}

/// Brings a file to the disk and renames it to `file`.
pub fn settle(beside: NamedTempFile, file: &Path) -> io::Result<()> {
    beside.as_file().sync_all()?;
    beside.persist(file)?;
    // The new name is on the disk once the folder is.
    #[cfg(unix)]
    fs::File::open(folder(file))?.sync_all()?;
    Ok(())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/file");
        save(&file, b"old").unwrap();
        save(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_settled_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "old").unwrap();
        drop(beside(&file).unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
