//! What can go wrong with data: each error names the file, the place in it, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Part;

/// Why a data source could not be read or used.
///
/// Sizes are (height, width) in pixels; offsets are in bytes from the start of the (decompressed) file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The source is neither a folder nor a known name.
    #[error(
        "{path}: no such folder; a data source is a folder of class folders, a folder of IDX files, \
         or one of the names `fashion-mnist` and `shapes`"
    )]
    NoSource {
        /// What was looked for.
        path: PathBuf,
    },
    /// The operating system refused a file or folder.
    #[error("{path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// The wanted part is not in the source.
    #[error(
        "{folder}: no {part} part; put class folders into {folder}/train and {folder}/test, or IDX files of \
         both parts into one folder"
    )]
    NoPart {
        /// The source.
        folder: PathBuf,
        /// The part that is missing.
        part: Part,
    },
    /// No class folders.
    #[error(
        "{folder}: no class folders; make one folder for each class and put its pictures inside"
    )]
    NoClasses {
        /// The folder that should hold class folders.
        folder: PathBuf,
    },
    /// There is nothing to tell apart.
    #[error("{folder}: only one class, `{class}`; give at least two")]
    OneClass {
        /// The folder.
        folder: PathBuf,
        /// The only class.
        class: String,
    },
    /// A class folder, or an IDX file, without pictures.
    #[error("{path}: no pictures; add PNG, JPEG or BMP files for this class, or remove its folder")]
    NoPictures {
        /// The class folder or IDX file.
        path: PathBuf,
    },
    /// A class folder whose name is not text.
    #[error("{path}: the name of a class must be UTF-8 text; rename the folder")]
    BadName {
        /// The class folder.
        path: PathBuf,
    },
    /// The train and test parts do not have the same classes.
    #[error(
        "{folder}: train and test have different classes (only in train: {}; only in test: {}); \
         give both the same class folders",
        list(only_train),
        list(only_test)
    )]
    ClassesDiffer {
        /// The source.
        folder: PathBuf,
        /// Classes that the test part lacks.
        only_train: Vec<String>,
        /// Classes that the train part lacks.
        only_test: Vec<String>,
    },
    /// Pictures of a class to measure on and none to learn from.
    #[error(
        "the test part has pictures of {} and the training part has none; add some to it, or remove them from the \
         test part",
        list(classes)
    )]
    OnlyInTest {
        /// The classes.
        classes: Vec<String>,
    },
    /// A file that has a picture's extension and is not a whole picture.
    #[error("{file}: cut off, or not a picture: {reason}; replace the file or remove it")]
    BadPicture {
        /// The file.
        file: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// Pictures of several sizes, and no rule that makes them one size.
    #[error(
        "pictures differ in size: {first} is {}x{} and {other} is {}x{} (height x width); set `data.size` to the \
         size you want and `data.resize` to `stretch` or `crop`",
        first_size.0, first_size.1, other_size.0, other_size.1
    )]
    MixedSizes {
        /// The first picture.
        first: PathBuf,
        /// Its size.
        first_size: (usize, usize),
        /// The first picture of another size.
        other: PathBuf,
        /// Its size.
        other_size: (usize, usize),
    },
    /// A picture that is not of the size asked for, and no rule that makes it so.
    #[error(
        "{file}: the picture is {}x{} and `data.size` asks for {}x{} (height x width); set `data.resize` to \
         `stretch` or `crop`",
        size.0, size.1, wanted.0, wanted.1
    )]
    WrongSize {
        /// The picture or IDX file.
        file: PathBuf,
        /// Its size.
        size: (usize, usize),
        /// The size asked for.
        wanted: (usize, usize),
    },
    /// A picture that is larger than any network's input, where no size is asked for.
    #[error(
        "{file}: the picture is {}x{} (height x width), and 4096 is the most; set `data.size` to the size you want \
         and `data.resize` to `stretch` or `crop`",
        size.0, size.1
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Height and width.
        size: (usize, usize),
    },
    /// An option out of its range.
    #[error("{key} = {value} is out of range; give {allowed}")]
    BadOption {
        /// The key, as in `espalier.toml`.
        key: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// A class has fewer pictures than were asked for.
    #[error(
        "class `{class}` has {has} pictures and {wanted} are needed; add pictures or ask for fewer"
    )]
    TooFew {
        /// The class.
        class: String,
        /// Its number of pictures.
        has: usize,
        /// The number needed.
        wanted: usize,
    },
    /// One file of the pair of IDX files is missing.
    #[error("{folder}: no {name}[.gz]; put it beside the other IDX files")]
    NoIdxFile {
        /// The folder.
        folder: PathBuf,
        /// The name looked for, without `.gz`.
        name: String,
    },
    /// Not an IDX file of the expected kind.
    #[error(
        "{file}: offset 0: magic number {found:#010x} where {wanted} belongs; is it an IDX file of unsigned bytes?"
    )]
    IdxMagic {
        /// The file.
        file: PathBuf,
        /// The first four bytes, big-endian.
        found: u32,
        /// What belongs there.
        wanted: &'static str,
    },
    /// A dimension in the header that can not be meant.
    #[error("{file}: offset {offset}: {what} can not be {value}; the header is damaged")]
    IdxHeader {
        /// The file.
        file: PathBuf,
        /// Where the dimension stands.
        offset: usize,
        /// Which dimension.
        what: &'static str,
        /// What it says.
        value: usize,
    },
    /// An IDX file that ends too early.
    #[error(
        "{file}: offset {offset}: the file ends, its header promises {wanted} bytes; it was cut off, copy it again"
    )]
    IdxShort {
        /// The file.
        file: PathBuf,
        /// Where it ends.
        offset: usize,
        /// How long it should be.
        wanted: usize,
    },
    /// An IDX file that goes on after its last element.
    #[error(
        "{file}: offset {offset}: bytes follow the last element that the header promises; the file is damaged"
    )]
    IdxLong {
        /// The file.
        file: PathBuf,
        /// Where the surplus begins.
        offset: usize,
    },
    /// Pictures and labels that do not pair up.
    #[error(
        "{labels_file}: offset 4: {labels} labels for the {pictures} pictures in {pictures_file}; \
         the two files do not belong together"
    )]
    IdxCount {
        /// The file of pictures.
        pictures_file: PathBuf,
        /// Its count.
        pictures: usize,
        /// The file of labels.
        labels_file: PathBuf,
        /// Its count.
        labels: usize,
    },
    /// A label without a class.
    #[error(
        "{file}: offset {offset}: label {label}, and there are {classes} classes, numbered from 0"
    )]
    IdxLabel {
        /// The file of labels.
        file: PathBuf,
        /// Where the label stands.
        offset: usize,
        /// The label.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A file of a known data set with other content than the published one.
    #[error(
        "{file}: SHA-256 of the decompressed content is {found}, not {wanted}; delete the file and run again"
    )]
    WrongHash {
        /// The file, or the address it came from.
        file: String,
        /// Its SHA-256, hexadecimal.
        found: String,
        /// The published SHA-256, hexadecimal.
        wanted: &'static str,
    },
    /// A known data set is not on this machine and could not be fetched.
    #[error(
        "{address}: could not be downloaded: {reason}; without a network, `apt install dataset-fashion-mnist` or put \
         the four .gz files of Fashion-MNIST into {folder}"
    )]
    Download {
        /// What was asked for.
        address: String,
        /// What went wrong.
        reason: String,
        /// Where the file would have been stored.
        folder: PathBuf,
    },
    /// There is no place to keep a download.
    #[error("no cache folder for a download; set XDG_CACHE_HOME or HOME to an absolute path")]
    NoCache,
}

impl DataError {
    /// Wraps an error of the operating system for `path`: use with `map_err`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |reason| Self::Io { path, reason }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
