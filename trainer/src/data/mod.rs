//! Where pictures come from: folders of class folders, IDX files, and data sets known by name.
//!
//! [`Source::parse`] reads what the user wrote, [`load`] gives a [`Dataset`]: pictures of one shape, as unsigned
//! bytes, in an order that is the same on every machine.

use std::fmt;
use std::path::{Path, PathBuf};

mod dataset;
mod error;
pub mod fashion;
mod fit;
mod folder;
mod idx;
mod save;
pub mod shapes;
mod sheet;
mod split;
mod twins;

pub use dataset::{Dataset, Picture, PictureShape};
pub use error::DataError;
pub use fit::{Options, Resize};
pub use save::{png, save_png};
pub(crate) use sheet::{cell, enlarged};
pub use sheet::{contact_sheet, operation_sheet};
pub use split::Split;
pub use twins::{Twins, repeated, twins};

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of class folders with PNG, JPEG or BMP files; or a folder whose `train` and `test` folders are such.
    Folder(PathBuf),
    /// A folder with IDX files under their usual names, gzipped or not.
    Idx(PathBuf),
    /// Fashion-MNIST, from this machine or else downloaded: 60,000 training and 10,000 test pictures of 28x28x1.
    FashionMnist,
    /// Drawn figures: [`shapes::CLASSES`] classes, 40,000 training and 4,000 test pictures of 28x28x1 without options.
    Shapes,
}

impl Source {
    /// Reads a source as the user writes it: `fashion-mnist`, `shapes`, or a folder, relative to `base`.
    ///
    /// A folder that happens to be called `shapes` is meant by `./shapes`.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSource`] if it is neither a known name nor a folder that can be read.
    pub fn parse(text: impl AsRef<Path>, base: &Path) -> Result<Self, DataError> {
        let text = text.as_ref();
        if text.as_os_str() == fashion::NAME {
            return Ok(Self::FashionMnist);
        }
        if text.as_os_str() == shapes::NAME {
            return Ok(Self::Shapes);
        }
        let path = base.join(text);
        if !path.is_dir() {
            return Err(DataError::NoSource { path });
        }
        Ok(if idx::is_in(&path) {
            Self::Idx(path)
        } else {
            Self::Folder(path)
        })
    }
}

/// Which half of a source: the pictures to learn from, or those that the result is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To learn from: the `train` folder or the `train-*` files.
    Train,
    /// To measure on: the `test` folder or the `t10k-*` files.
    Test,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// Reads one part of a source.
///
/// A folder with class folders alone is all training pictures ([`Dataset::split`] holds some of them back).
/// Without options the shape is that of the pictures themselves: load the test part with [`Options::pinned`] to the
/// shape of the train part, so that both agree.
///
/// # Errors
///
/// Every [`DataError`]; [`DataError::NoPart`] if the source does not have the part.
pub fn load(source: &Source, part: Part, options: &Options) -> Result<Dataset, DataError> {
    options.validate()?;
    match source {
        Source::Folder(folder) => folder::load(folder, part, options),
        Source::Idx(folder) => idx::load(folder, part, options),
        Source::FashionMnist => fashion::load(part, options),
        Source::Shapes => Ok(shapes::load(part, options)),
    }
}

/// Reads both parts of a source, the test part in the shape of the train part; `None` for a test part that it does
/// not have.
///
/// # Errors
///
/// Every [`DataError`] of [`load`].
pub fn load_both(
    source: &Source,
    options: &Options,
) -> Result<(Dataset, Option<Dataset>), DataError> {
    let train = load(source, Part::Train, options)?;
    match load(source, Part::Test, &options.pinned(train.shape)) {
        Ok(test) => Ok((train, Some(test))),
        Err(DataError::NoPart { .. }) => Ok((train, None)),
        Err(error) => Err(error),
    }
}

/// The file of each picture of a part, in the order of [`load`]; `None` for a source that has no files of single
/// pictures.
///
/// # Errors
///
/// Every [`DataError`] of a folder.
pub fn files(source: &Source, part: Part) -> Result<Option<Vec<PathBuf>>, DataError> {
    match source {
        Source::Folder(folder) => folder::files(folder, part).map(Some),
        Source::Idx(_) | Source::FashionMnist | Source::Shapes => Ok(None),
    }
}

/// Checks that there is something to learn of every class that the test part has.
///
/// # Errors
///
/// [`DataError::OnlyInTest`] if not.
pub fn check_classes(train: &Dataset, test: &Dataset) -> Result<(), DataError> {
    let classes = missing_classes(train, test);
    match classes.is_empty() {
        true => Ok(()),
        false => Err(DataError::OnlyInTest { classes }),
    }
}

/// Classes of which the first part has no picture and the second one has.
#[must_use]
pub fn missing_classes(first: &Dataset, second: &Dataset) -> Vec<String> {
    let counts = first.counts().into_iter().zip(second.counts());
    let classes = first.classes.iter().zip(counts);
    classes
        .filter(|(_, (first, second))| *first == 0 && *second > 0)
        .map(|(class, _)| class.clone())
        .collect()
}

/// Reads one picture file into this shape: its pixels as unsigned bytes, HWC.
///
/// # Errors
///
/// [`DataError::Io`] and [`DataError::BadPicture`]; [`DataError::WrongSize`] if it has another size and the rule
/// refuses that.
pub fn load_picture(
    file: &Path,
    shape: PictureShape,
    resize: Resize,
) -> Result<Vec<u8>, DataError> {
    let options = Options {
        resize,
        ..Options::default()
    };
    let picture = folder::decode(file, &options.pinned(shape))?;
    Ok(fit::pixels(picture, shape.channels))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_name_or_a_folder() {
        let base = tempfile::tempdir().unwrap();
        let parse = |text: &str| Source::parse(text, base.path());
        std::fs::create_dir_all(base.path().join("pictures")).unwrap();
        std::fs::create_dir_all(base.path().join("digits")).unwrap();
        std::fs::write(base.path().join("digits/t10k-labels.idx1-ubyte.gz"), b"").unwrap();
        std::fs::write(base.path().join("file"), b"").unwrap();

        assert_eq!(parse("fashion-mnist").unwrap(), Source::FashionMnist);
        assert_eq!(parse("shapes").unwrap(), Source::Shapes);
        assert_eq!(
            parse("pictures").unwrap(),
            Source::Folder(base.path().join("pictures"))
        );
        assert_eq!(
            parse("digits").unwrap(),
            Source::Idx(base.path().join("digits"))
        );
        for wrong in ["fashion_mnist", "file", "./fashion-mnist", "./shapes"] {
            let error = parse(wrong).unwrap_err();
            assert!(matches!(&error, DataError::NoSource { .. }), "{error}");
            assert!(
                error
                    .to_string()
                    .ends_with("or one of the names `fashion-mnist` and `shapes`"),
                "{error}"
            );
        }
        std::fs::create_dir_all(base.path().join("shapes")).unwrap();
        assert_eq!(parse("shapes").unwrap(), Source::Shapes);
        assert!(matches!(parse("./shapes").unwrap(), Source::Folder(_)));
    }

    #[test]
    fn silly_options_are_refused() {
        let load =
            |options| load(&Source::Folder("nowhere".into()), Part::Train, &options).unwrap_err();
        let error = load(Options {
            channels: Some(2),
            ..Options::default()
        });
        assert_eq!(
            error.to_string(),
            "data.channels = 2 is out of range; give 1 (grey) or 3 (red, green, blue)"
        );
        for size in [(0, 28), (28, 5000)] {
            let error = load(Options {
                size: Some(size),
                ..Options::default()
            });
            assert!(
                matches!(
                    error,
                    DataError::BadOption {
                        key: "data.size",
                        ..
                    }
                ),
                "{error}"
            );
        }
    }
}
