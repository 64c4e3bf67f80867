//! `espalier data`: what is in a source, and how its augmented pictures look.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use espalier::augment::Augmentation;
use espalier::config::{ConfigError, FILE_NAME, Project};
use espalier::data::{
    self, Dataset, Options, Part, PictureShape, Source, Twins, contact_sheet, operation_sheet,
    repeated, save_png, twins,
};
use serde::Serialize;

use super::Error;
use crate::flags::Flags;
use crate::output::{Report, table};

/// Augmented variants of each picture on the sheet.
const VARIANTS: usize = 9;
/// Pictures in both parts that are named in words; JSON names all.
const NAMED: usize = 10;

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// A source (folder, fashion-mnist or shapes), or a project folder
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Write a contact sheet of augmented training pictures to this PNG file
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Training pictures of each class on the contact sheet
    #[arg(long, default_value_t = 2)]
    rows: usize,
    /// On the contact sheet, each operation alone instead of those that are set
    #[arg(long, requires = "preview")]
    operations: bool,
    #[command(flatten)]
    augment: Flags<Augmentation>,
}

/// Both parts of a source.
#[derive(Serialize)]
pub struct Summary {
    shape: [usize; 3],
    train: PartSummary,
    test: Option<PartSummary>,
    /// Test pictures that are training pictures too.
    in_both: Vec<InBoth>,
    preview: Option<PathBuf>,
    /// The operations on the sheet, from above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<&'static str>,
}

#[derive(Serialize)]
struct PartSummary {
    pictures: usize,
    /// Pictures of the largest class for each of the smallest that has any.
    imbalance: f64,
    /// Pictures that are there before already.
    repeated: usize,
    /// Those of them that are of another class than before.
    contradictions: usize,
    /// Classes without pictures, which the other part has.
    missing_classes: Vec<String>,
    per_class: Vec<ClassCount>,
}

#[derive(Serialize)]
struct ClassCount {
    class: String,
    pictures: usize,
}

/// One picture in both parts: its files, or its numbers from 1.
#[derive(Serialize)]
struct InBoth {
    train: String,
    test: String,
    same_class: bool,
}

/// What was asked for.
struct Loaded {
    source: Source,
    options: Options,
    augment: Augmentation,
    /// Of a project: the training pictures that it uses, and its test pictures.
    used: Option<(Dataset, Dataset)>,
}

impl Cmd {
    /// Loads the source and counts.
    pub fn run(self) -> Result<Summary, Error> {
        let loaded = self.load()?;
        let (all, test) = data::load_both(&loaded.source, &loaded.options)?;
        let in_both = match (&test, &loaded.used) {
            (Some(test), _) => in_both(&loaded.source, &twins(&all, test))?,
            // Held back from the training part: the files are not known.
            (None, Some((train, test))) => names(&twins(train, test), None, None),
            (None, None) => Vec::new(),
        };
        let (train, test) = match loaded.used {
            Some((train, test)) => (train, Some(test)),
            None => (all, test),
        };
        let operations = self.draw(&train, &loaded.augment)?;
        let PictureShape {
            height,
            width,
            channels,
        } = train.shape;
        Ok(Summary {
            shape: [height, width, channels],
            train: count(&train, test.as_ref()),
            test: test.as_ref().map(|test| count(test, Some(&train))),
            in_both,
            preview: self.preview,
            operations,
        })
    }

    fn load(&self) -> Result<Loaded, Error> {
        if self.source.join(FILE_NAME).is_file() || self.source.ends_with(FILE_NAME) {
            let project = Project::load(&self.source, &[self.augment.table()])?;
            let pictures = project.pictures()?;
            return Ok(Loaded {
                source: project.source()?,
                options: project.data.options(),
                used: Some((pictures.train, pictures.test)),
                augment: project.augment,
            });
        }
        let (_, flags) = self.augment.table();
        let augment: Augmentation = flags.try_into().map_err(|error| ConfigError::Toml {
            file: self.source.clone(),
            message: toml::de::Error::to_string(&error).trim_end().to_owned(),
        })?;
        augment.validate().map_err(|source| ConfigError::Augment {
            file: self.source.clone(),
            source,
        })?;
        Ok(Loaded {
            source: Source::parse(&self.source, Path::new(""))?,
            options: Options::default(),
            augment,
            used: None,
        })
    }

    /// Draws the sheet, and gives the operations of its rows.
    fn draw(&self, train: &Dataset, augment: &Augmentation) -> Result<Vec<&'static str>, Error> {
        let Some(file) = &self.preview else {
            return Ok(Vec::new());
        };
        let (names, sheet) = match self.operations {
            false => (
                Vec::new(),
                contact_sheet(train, self.rows, VARIANTS, augment, 1),
            ),
            true => {
                let (names, each): (Vec<_>, Vec<_>) = Augmentation::each().into_iter().unzip();
                (names, operation_sheet(train, VARIANTS, &each, 1))
            }
        };
        save_png(file, sheet.as_raw(), PictureShape::of(&sheet))?;
        Ok(names)
    }
}

/// Names the pictures by their files, where they have any.
fn in_both(source: &Source, twins: &[Twins]) -> Result<Vec<InBoth>, Error> {
    if twins.is_empty() {
        return Ok(Vec::new());
    }
    let (train, test) = (
        data::files(source, Part::Train)?,
        data::files(source, Part::Test)?,
    );
    Ok(names(twins, train, test))
}

fn names(twins: &[Twins], train: Option<Vec<PathBuf>>, test: Option<Vec<PathBuf>>) -> Vec<InBoth> {
    let name = |files: &Option<Vec<PathBuf>>, at: usize| {
        let file = files.as_ref().and_then(|files| files.get(at));
        file.map_or_else(
            || format!("number {}", at + 1),
            |file| file.display().to_string(),
        )
    };
    let name_both = |twins: &Twins| InBoth {
        train: name(&train, twins.first),
        test: name(&test, twins.second),
        same_class: twins.same_class,
    };
    twins.iter().map(name_both).collect()
}

fn count(dataset: &Dataset, other: Option<&Dataset>) -> PartSummary {
    let counts = dataset.counts();
    let present = counts.iter().copied().filter(|&count| count > 0);
    let most = present.clone().max().unwrap_or(0);
    let least = present.min().unwrap_or(1);
    let classes = dataset.classes.iter().zip(&counts);
    let repeated = repeated(dataset);
    PartSummary {
        pictures: dataset.pictures.len(),
        imbalance: most as f64 / least as f64,
        repeated: repeated.len(),
        contradictions: repeated.iter().filter(|twins| !twins.same_class).count(),
        missing_classes: other.map_or_else(Vec::new, |other| data::missing_classes(dataset, other)),
        per_class: classes
            .map(|(class, &pictures)| ClassCount {
                class: class.clone(),
                pictures,
            })
            .collect(),
    }
}

impl Report for Summary {}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [height, width, channels] = self.shape;
        let mut rows = table(["class", "train", "test"]);
        for (index, class) in self.train.per_class.iter().enumerate() {
            let test = self.test.as_ref().map_or("-".to_owned(), |test| {
                test.per_class
                    .get(index)
                    .map_or(0, |c| c.pictures)
                    .to_string()
            });
            rows.add_row([class.class.clone(), class.pictures.to_string(), test]);
        }
        let total = |part: &PartSummary| part.pictures.to_string();
        let test = self.test.as_ref().map_or("-".to_owned(), total);
        rows.add_row(["all".to_owned(), total(&self.train), test]);
        writeln!(f, "{rows}")?;
        write!(f, "pictures of {height} x {width} x {channels}")?;
        if self.train.imbalance > 1.0 {
            let imbalance = self.train.imbalance;
            write!(
                f,
                "; the largest class has {imbalance:.1} times the smallest"
            )?;
        }
        let parts = [("train", Some(&self.train)), ("test", self.test.as_ref())];
        for (part, summary) in parts.into_iter().filter_map(|(part, s)| Some((part, s?))) {
            summary.write_problems(f, part)?;
        }
        if !self.in_both.is_empty() {
            let count = self.in_both.len();
            write!(
                f,
                "\n{count} of the test pictures are training pictures too, which makes the accuracy too good:"
            )?;
            for InBoth { train, test, .. } in self.in_both.iter().take(NAMED) {
                write!(f, "\n  {test} is {train}")?;
            }
            if count > NAMED {
                write!(f, "\n  ... and {} more (--json names all)", count - NAMED)?;
            }
        }
        if let Some(file) = &self.preview {
            write!(f, "\nsheet of augmented pictures: {}", file.display())?;
        }
        if !self.operations.is_empty() {
            write!(f, "\nrows, from above: {}", self.operations.join(", "))?;
        }
        Ok(())
    }
}

impl PartSummary {
    fn write_problems(&self, f: &mut fmt::Formatter<'_>, part: &str) -> fmt::Result {
        let (repeated, other) = (self.repeated, self.contradictions);
        if repeated > 0 {
            write!(f, "\n{part}: {repeated} pictures are there more than once")?;
        }
        if other > 0 {
            write!(f, ", {other} of them in another class")?;
        }
        if !self.missing_classes.is_empty() {
            let missing = self.missing_classes.join(", ");
            write!(f, "\n{part}: no picture of {missing}")?;
        }
        Ok(())
    }
}
