//! `espalier data`: what is in a source, and how its augmented pictures look.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use espalier::augment::Augmentation;
use espalier::config::{FILE_NAME, Project};
use espalier::data::{self, Dataset, Options, Part, PictureShape, Source, contact_sheet, save_png};
use serde::Serialize;

use super::Error;
use crate::flags::Flags;
use crate::output::{Report, table};

/// Augmented variants of each picture on the sheet.
const VARIANTS: usize = 9;

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// A source (folder, or fashion-mnist), or a project folder
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Write a contact sheet of augmented training pictures to this PNG file
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Training pictures of each class on the contact sheet
    #[arg(long, default_value_t = 2)]
    rows: usize,
    #[command(flatten)]
    augment: Flags<Augmentation>,
}

/// Both parts of a source.
#[derive(Serialize)]
pub struct Summary {
    shape: [usize; 3],
    train: PartSummary,
    test: Option<PartSummary>,
    preview: Option<PathBuf>,
}

#[derive(Serialize)]
struct PartSummary {
    pictures: usize,
    /// Pictures of the largest class for each of the smallest.
    imbalance: f64,
    per_class: Vec<ClassCount>,
}

#[derive(Serialize)]
struct ClassCount {
    class: String,
    pictures: usize,
}

impl Cmd {
    /// Loads the source and counts.
    pub fn run(self) -> Result<Summary, Error> {
        let (train, test, augment) = self.load()?;
        if let Some(file) = &self.preview {
            let sheet = contact_sheet(&train, self.rows, VARIANTS, &augment, 1);
            let shape = PictureShape {
                height: sheet.height() as usize,
                width: sheet.width() as usize,
                channels: 3,
            };
            save_png(file, sheet.as_raw(), shape)?;
        }
        let PictureShape {
            height,
            width,
            channels,
        } = train.shape;
        Ok(Summary {
            shape: [height, width, channels],
            train: count(&train),
            test: test.as_ref().map(count),
            preview: self.preview,
        })
    }

    fn load(&self) -> Result<(Dataset, Option<Dataset>, Augmentation), Error> {
        if self.source.join(FILE_NAME).is_file() || self.source.ends_with(FILE_NAME) {
            let project = Project::load(&self.source, &[self.augment.table()])?;
            let pictures = project.pictures()?;
            return Ok((pictures.train, Some(pictures.test), project.augment));
        }
        let source = Source::parse(&self.source, Path::new(""))?;
        let train = data::load(&source, Part::Train, &Options::default())?;
        let pinned = Options::default().pinned(train.shape);
        let test = optional(data::load(&source, Part::Test, &pinned))?;
        Ok((train, test, Augmentation::default()))
    }
}

/// A source without a test part is fine here.
fn optional(loaded: Result<Dataset, data::DataError>) -> Result<Option<Dataset>, Error> {
    match loaded {
        Ok(dataset) => Ok(Some(dataset)),
        Err(data::DataError::NoPart { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn count(dataset: &Dataset) -> PartSummary {
    let counts = dataset.counts();
    let most = counts.iter().copied().max().unwrap_or(0);
    let least = counts.iter().copied().min().unwrap_or(0).max(1);
    let classes = dataset.classes.iter().zip(&counts);
    PartSummary {
        pictures: dataset.pictures.len(),
        imbalance: most as f64 / least as f64,
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
        if let Some(file) = &self.preview {
            write!(f, "\nsheet of augmented pictures: {}", file.display())?;
        }
        Ok(())
    }
}
