//! `espalier.toml`: one file for the whole pipeline.
//!
//! Each section is the options type of one step, and each key is also a flag of
//! that step's command: [`Section`] lists the keys, the command line is made
//! from that list, and flags are laid over the file before it is read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::augment::{AugmentError, Augmentation};
use crate::compress::CompressOptions;
use crate::data::{self, DataError, Dataset, Source, Split};
use crate::network::NetworkSpec;
use crate::quantise::ExportOptions;
use crate::train::TrainOptions;

/// The file's usual name.
pub const FILE_NAME: &str = "espalier.toml";

/// A project: what `espalier.toml` says, with flags laid over it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Folder of the file; paths in it are relative to this.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Where the pictures come from.
    pub data: DataOptions,
    /// The network.
    pub network: NetworkSpec,
    /// Augmentation of training pictures.
    #[serde(default)]
    pub augment: Augmentation,
    /// Training.
    #[serde(default)]
    pub train: TrainOptions,
    /// Compression.
    #[serde(default)]
    pub compress: CompressOptions,
    /// Quantisation and model file.
    #[serde(default)]
    pub export: ExportOptions,
    /// The chip.
    #[serde(default)]
    pub board: BoardOptions,
    /// What the result may cost.
    #[serde(default)]
    pub budget: Budget,
    /// Where results go.
    #[serde(default)]
    pub output: OutputOptions,
}

/// Share of the training pictures that is held back where a source has no test
/// part.
const HELD_BACK: f32 = 0.2;

/// The parts of a project's pictures.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// To learn from.
    pub train: Dataset,
    /// To decide on: which of several networks is the better one. `None` without
    /// `data.validation`.
    pub validation: Option<Dataset>,
    /// To measure on.
    pub test: Dataset,
    /// How they were divided.
    pub split: Split,
}

/// The parts of a project's source.
#[derive(Clone, Debug)]
pub struct Parts {
    /// All training pictures.
    pub train: Dataset,
    /// To measure on.
    pub test: Dataset,
    /// Whether the test part is held back of the training part.
    pub test_is_held_back: bool,
}

/// The `[data]` section.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataOptions {
    /// A folder of class folders, a folder of IDX files, `fashion-mnist`, or `shapes`.
    pub source: PathBuf,
    /// Height and width that pictures are brought to; their own where not given.
    #[serde(default)]
    pub size: Option<(usize, usize)>,
    /// 1 (grey) or 3 (red, green, blue); the pictures' own where not given.
    #[serde(default)]
    pub channels: Option<usize>,
    /// How pictures of another size are treated.
    #[serde(default)]
    pub resize: data::Resize,
    /// Use only this many training pictures of each class.
    #[serde(default)]
    pub per_class: Option<usize>,
    /// Share of the training pictures, above 0 and below 1, that nothing learns from and
    /// on which a search decides; none where not given.
    #[serde(default)]
    pub validation: Option<f32>,
    /// Fixes which training pictures are taken and which are held back; `train.seed` where
    /// not given.
    #[serde(default)]
    pub split_seed: Option<u64>,
}

impl DataOptions {
    /// How pictures are loaded.
    pub fn options(&self) -> data::Options {
        data::Options {
            size: self.size,
            channels: self.channels,
            resize: self.resize,
        }
    }
}

/// The `[board]` section.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoardOptions {
    /// A board of `firmware/boards`.
    pub name: String,
}

impl Default for BoardOptions {
    fn default() -> Self {
        Self {
            name: "mps2-an386".to_owned(),
        }
    }
}

/// The `[budget]` section: what the result may cost at most, and how good it
/// must be at least. What is not given is not checked.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Least accuracy of the int8 network, a fraction of 1.
    pub accuracy: Option<f64>,
    /// Most flash in bytes, model and firmware.
    pub flash: Option<usize>,
    /// Most RAM in bytes: arena, statics and stack.
    pub ram: Option<usize>,
    /// Most instructions of one inference.
    pub instructions: Option<u64>,
}

/// The `[output]` section.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputOptions {
    /// Folder for checkpoints, the model file and the receipt.
    pub folder: PathBuf,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self {
            folder: "out".into(),
        }
    }
}

/// A section whose keys are also flags.
pub trait Section {
    /// Name in the file.
    const NAME: &'static str;
    /// Its keys, with what `--help` says of each.
    const KEYS: &'static [(&'static str, &'static str)];
}

impl Section for DataOptions {
    const NAME: &'static str = "data";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "source",
            "Folder of class folders, folder of IDX files, fashion-mnist, or shapes",
        ),
        (
            "size",
            "Height and width that pictures are brought to, as [28, 28]",
        ),
        ("channels", "1 (grey) or 3 (red, green, blue)"),
        (
            "resize",
            "For pictures of another size: exact (refuse), stretch, crop",
        ),
        (
            "per_class",
            "Use only this many training pictures of each class",
        ),
        (
            "validation",
            "Share of the training pictures that is held back for decisions, such as 0.1",
        ),
        (
            "split_seed",
            "Fixes which pictures are taken and held back; the seed where not given",
        ),
    ];
}

impl Section for Augmentation {
    const NAME: &'static str = "augment";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "flip",
            "Mirror half of the pictures left to right: true or false",
        ),
        (
            "flip_vertical",
            "Mirror half of the pictures top to bottom: true or false",
        ),
        ("rotate", "Turn by up to this many degrees"),
        ("shear", "Slant by up to this many pixels for each pixel"),
        ("scale", "Shrink or enlarge by up to this fraction"),
        ("crop", "Cut away up to this fraction of each side"),
        ("shift", "Move by up to this fraction of a side"),
        ("elastic", "Bend by up to this fraction of a side"),
        (
            "blur",
            "Blur by a Gaussian of up to this deviation in pixels",
        ),
        ("contrast", "Change the contrast by up to this fraction"),
        (
            "brightness",
            "Lighter or darker by up to this fraction of white",
        ),
        (
            "noise",
            "Noise of up to this standard deviation, a fraction of white",
        ),
        (
            "erase",
            "Fill up to this fraction of half of the pictures with noise",
        ),
        (
            "random",
            "One random operation for each picture (TrivialAugment): true or false",
        ),
        (
            "mixup",
            "Blend each picture and its class with another: alpha, 0 to 1",
        ),
        (
            "cutmix",
            "Paste a part of another picture, and of its class: alpha, 0 to 1",
        ),
    ];
}

impl Section for TrainOptions {
    const NAME: &'static str = "train";
    const KEYS: &'static [(&'static str, &'static str)] = TrainOptions::KEYS;
}

impl Section for CompressOptions {
    const NAME: &'static str = "compress";
    const KEYS: &'static [(&'static str, &'static str)] = CompressOptions::KEYS;
}

impl Section for ExportOptions {
    const NAME: &'static str = "export";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "calibration",
            "Training pictures whose value ranges are measured",
        ),
        (
            "method",
            "What int8 covers of them: min-max, percentile (99.99 %) or mse (least error)",
        ),
        ("golden", "Self-test vectors in the model file, 0 to 255"),
        (
            "remove_dead",
            "Leave out channels that cannot change an output byte: true or false",
        ),
        (
            "prefer",
            "What decides which layers are stored without their zeros: speed, size or ram (none is)",
        ),
        (
            "abstain",
            "Share of right answers among those that are given, such as 0.95: the model says of others that it is not sure",
        ),
    ];
}

impl Section for Budget {
    const NAME: &'static str = "budget";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        ("accuracy", "Least int8 accuracy, a fraction of 1"),
        ("flash", "Most flash in bytes, model and firmware"),
        ("ram", "Most RAM in bytes: arena, statics and stack"),
        ("instructions", "Most instructions of one inference"),
    ];
}

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such file.
    #[error("{}: {source}; `espalier new DIR` makes a project", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{}: {message}{}", file.display(), suggest(message))]
    Toml {
        /// The file.
        file: PathBuf,
        /// What the parser said, with line and column.
        message: String,
    },
    /// A value out of range.
    #[error("{}: {source}", file.display())]
    Augment {
        /// The file.
        file: PathBuf,
        /// Which.
        source: AugmentError,
    },
    /// Something to decide, and nothing to decide it on.
    #[error("{}: export.abstain is decided on validation pictures; set data.validation, such as 0.1", file.display())]
    NoValidation {
        /// The file.
        file: PathBuf,
    },
    /// A value out of range.
    #[error("{}: {key} = {value} is out of range; give {range}", file.display())]
    Range {
        /// The file.
        file: PathBuf,
        /// Section and key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        range: &'static str,
    },
}

impl Project {
    /// Reads a project from its folder or its file, with the tables of
    /// `flags`, one for each section, laid over it.
    pub fn load(path: &Path, flags: &[(&str, toml::Table)]) -> Result<Self, ConfigError> {
        let file = match path.is_dir() {
            true => path.join(FILE_NAME),
            false => path.to_owned(),
        };
        let text = std::fs::read_to_string(&file).map_err(|source| ConfigError::Read {
            file: file.clone(),
            source,
        })?;
        let wrong = |error: toml::de::Error| ConfigError::Toml {
            file: file.clone(),
            message: error.to_string().trim_end().to_owned(),
        };
        // The file first as it stands, for errors with line and column.
        let mut project: Self = toml::from_str(&text).map_err(wrong)?;
        if flags.iter().any(|(_, table)| !table.is_empty()) {
            let table = toml::from_str(&text).map_err(wrong)?;
            project = lay_over(table, flags).try_into().map_err(wrong)?;
        }
        project.folder = file.parent().map(Path::to_owned).unwrap_or_default();
        project.check(&file)?;
        Ok(project)
    }

    /// A project file's text with another source of pictures, relative to the current
    /// folder, and with flags as in [`Project::load`].
    pub fn around(
        text: &str,
        source: &Path,
        flags: &[(&str, toml::Table)],
    ) -> Result<Self, ConfigError> {
        let file = PathBuf::from(FILE_NAME);
        let wrong = |error: toml::de::Error| ConfigError::Toml {
            file: file.clone(),
            message: error.to_string().trim_end().to_owned(),
        };
        let table = toml::from_str(text).map_err(wrong)?;
        let mut project: Self = lay_over(table, flags).try_into().map_err(wrong)?;
        project.data.source = source.to_owned();
        project.check(&file)?;
        Ok(project)
    }

    fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let file = || file.to_owned();
        self.augment
            .validate()
            .map_err(|source| ConfigError::Augment {
                file: file(),
                source,
            })?;
        let range = |key, value, range| {
            Err(ConfigError::Range {
                file: file(),
                key,
                value,
                range,
            })
        };
        if let Err((key, value, allowed)) = self.train.validate() {
            return range(key, value, allowed);
        }
        if let Err((key, value, allowed)) = self.compress.validate() {
            return range(key, value, allowed);
        }
        if self.data.per_class == Some(0) {
            return range("data.per_class", "0".into(), "1 or more");
        }
        let open = |share: &f32| *share > 0.0 && *share < 1.0;
        if let Some(share) = self.data.validation.filter(|share| !open(share)) {
            let between = "a share above 0 and below 1, such as 0.1";
            return range("data.validation", share.to_string(), between);
        }
        let share = |share: &f64| *share > 0.0 && *share <= 1.0;
        if let Some(wanted) = self.export.abstain.filter(|wanted| !share(wanted)) {
            let fraction = "a fraction of 1 above 0, such as 0.95";
            return range("export.abstain", wanted.to_string(), fraction);
        }
        if self.export.abstain.is_some() && self.data.validation.is_none() {
            return Err(ConfigError::NoValidation { file: file() });
        }
        if let Some(accuracy) = self.budget.accuracy.filter(|a| !(0.0..=1.0).contains(a)) {
            let fraction = "a fraction of 1, such as 0.85";
            return range("budget.accuracy", accuracy.to_string(), fraction);
        }
        Ok(())
    }

    /// The training, validation and test pictures, in one shape and with the
    /// same classes. Where the source has no test part, a fifth of the training
    /// pictures is held back for it.
    pub fn pictures(&self) -> Result<Pictures, DataError> {
        self.sample(self.parts()?)
    }

    /// All training pictures and the test pictures, as in [`Project::pictures`].
    pub fn parts(&self) -> Result<Parts, DataError> {
        let (train, test) = data::load_both(&self.source()?, &self.data.options())?;
        let test_is_held_back = test.is_none();
        let (train, test) = match test {
            None => train.split(HELD_BACK, self.split_seed())?,
            Some(test) => (train, test),
        };
        data::check_classes(&train, &test)?;
        Ok(Parts {
            train,
            test,
            test_is_held_back,
        })
    }

    /// What the project uses of its [`Project::parts`].
    pub fn sample(&self, parts: Parts) -> Result<Pictures, DataError> {
        let Parts {
            train,
            test,
            test_is_held_back,
        } = parts;
        let train = match self.data.per_class {
            Some(count) => train.take_per_class(count, self.split_seed())?,
            None => train,
        };
        let (train, validation) = match self.data.validation {
            Some(share) => {
                let (train, validation) = train.split(share, self.split_seed())?;
                (train, Some(validation))
            }
            None => (train, None),
        };
        Ok(Pictures {
            train,
            validation,
            test,
            split: Split {
                seed: self.split_seed(),
                per_class: self.data.per_class,
                validation: self.data.validation,
                test: test_is_held_back,
            },
        })
    }

    /// What fixes which pictures are taken and held back.
    fn split_seed(&self) -> u64 {
        self.data.split_seed.unwrap_or(self.train.seed)
    }

    /// Where the pictures come from.
    pub fn source(&self) -> Result<Source, DataError> {
        Source::parse(&self.data.source, &self.folder)
    }

    /// The training options, with the base's path relative to the project's
    /// folder.
    pub fn train_options(&self) -> TrainOptions {
        let mut options = self.train.clone();
        options.base = options.base.map(|base| self.folder.join(base));
        options
    }

    /// The checkpoints of `[compress] teachers`, with paths relative to the project's folder.
    pub fn teachers(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.compress.teachers.iter();
        files.map(|file| self.folder.join(file))
    }

    /// A file in the output folder.
    pub fn output(&self, name: &str) -> PathBuf {
        self.folder.join(&self.output.folder).join(name)
    }
}

fn lay_over(mut file: toml::Table, flags: &[(&str, toml::Table)]) -> toml::Table {
    for (section, keys) in flags {
        let section = file
            .entry(*section)
            .or_insert_with(|| toml::Table::new().into());
        if let Some(section) = section.as_table_mut() {
            section.extend(keys.clone());
        }
    }
    file
}

/// The nearest name that exists, from a parser's "unknown field `x`, expected
/// one of `y`, `z`".
fn suggest(message: &str) -> String {
    let mut names = message
        .find("unknown field")
        .and_then(|at| message.get(at..))
        .unwrap_or_default()
        .split('`')
        .skip(1)
        .step_by(2);
    let Some(unknown) = names.next() else {
        return String::new();
    };
    let likeness = |name: &&str| strsim::jaro_winkler(unknown, name);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|name| likeness(name) > 0.6) {
        Some(name) => format!("\nhelp: did you mean `{name}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Picture, PictureShape};

    const MINIMAL: &str = "[data]\nsource = 'pictures'\n[network]\npreset = 'article'\n";

    fn load(text: &str, flags: &[(&str, toml::Table)]) -> Result<Project, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        Project::load(folder.path(), flags)
    }

    #[test]
    fn a_file_needs_data_and_network_only() {
        let project = load(MINIMAL, &[]).unwrap();
        assert_eq!(project.board.name, "mps2-an386");
        assert_eq!(project.train, TrainOptions::default());
    }

    #[test]
    fn flags_lie_over_the_file() {
        let text = format!("{MINIMAL}[train]\nepochs = 3\nseed = 9\n");
        let flags: toml::Table = toml::from_str("epochs = 5").unwrap();
        let project = load(&text, &[("train", flags)]).unwrap();
        assert_eq!((project.train.epochs, project.train.seed), (5, 9));
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest() {
        let text = format!("{MINIMAL}[train]\nepoch = 3\n");
        let message = load(&text, &[]).unwrap_err().to_string();
        assert!(message.contains("line 6"), "{message}");
        assert!(message.contains("did you mean `epochs`?"), "{message}");
    }

    /// Which pictures of two classes a project learns from.
    fn learnt_from(data: &str, seed: u64) -> Vec<u8> {
        let text = MINIMAL.replace("[network]", &format!("{data}\n[network]"));
        let project = load(&format!("{text}[train]\nseed = {seed}\n"), &[]).unwrap();
        let picture = |at: u8| Picture {
            pixels: vec![at],
            label: usize::from(at % 2),
        };
        let all = Dataset {
            shape: PictureShape {
                height: 1,
                width: 1,
                channels: 1,
            },
            classes: ["a", "b"].map(str::to_owned).to_vec(),
            pictures: (0..200).map(picture).collect(),
        };
        let parts = Parts {
            train: all.clone(),
            test: all,
            test_is_held_back: false,
        };
        let Pictures { train, .. } = project.sample(parts).unwrap();
        train
            .pictures
            .iter()
            .map(|picture| picture.pixels[0])
            .collect()
    }

    #[test]
    fn a_split_seed_keeps_the_pictures_whatever_the_seed_is() {
        let share = "validation = 0.1\nper_class = 50";
        let fixed = format!("{share}\nsplit_seed = 1");
        assert_ne!(learnt_from(share, 1), learnt_from(share, 2));
        assert_eq!(learnt_from(share, 1), learnt_from(&fixed, 2));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (line, key) in [
            ("[augment]\nrotate = 400.0", "rotate"),
            ("[train]\nbatch = 0", "train.batch"),
            ("[compress]\nsparsity = 1.5", "compress.sparsity"),
            ("[budget]\naccuracy = 85.0", "budget.accuracy"),
            ("[export]\nabstain = 95", "export.abstain"),
            ("[export]\nabstain = 0.9", "data.validation"),
        ] {
            let message = load(&format!("{MINIMAL}{line}\n"), &[])
                .unwrap_err()
                .to_string();
            assert!(message.contains(key), "{message}");
        }
    }

    fn keys_match<S: Section + Serialize + Default>() {
        // Unlike TOML, JSON has the keys without a value.
        let object = serde_json::to_value(S::default()).unwrap();
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert!(!keys.is_empty());
        for key in keys {
            assert!(S::KEYS.iter().any(|(k, _)| k == key), "{}.{key}", S::NAME);
        }
    }

    #[test]
    fn every_key_is_a_flag() {
        keys_match::<DataOptions>();
        keys_match::<Augmentation>();
        keys_match::<TrainOptions>();
        keys_match::<CompressOptions>();
        keys_match::<ExportOptions>();
        keys_match::<Budget>();
    }

    #[test]
    fn every_flag_is_a_key() {
        fn known<S: Section + serde::de::DeserializeOwned>() {
            for (key, _) in S::KEYS {
                let text = format!("{key} = {{ no = 'such value' }}");
                let error = toml::from_str::<S>(&text).err().map(|e| e.to_string());
                let message = error.unwrap_or_default();
                let unknown = format!("unknown field `{key}`");
                assert!(!message.contains(&unknown), "{}: {message}", S::NAME);
            }
        }
        known::<DataOptions>();
        known::<Augmentation>();
        known::<TrainOptions>();
        known::<CompressOptions>();
        known::<ExportOptions>();
        known::<Budget>();
    }
}
