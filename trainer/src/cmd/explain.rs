//! `espalier explain`: where a network looks, alone or before and after compression.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use espalier::data::{self, Options, Part, PictureShape, Resize, save_png};
use espalier::explain::compare::{self, Pair, Summary};
use espalier::explain::{
    Attributions, Cells, Classifier, ExplainError, Float, Heatmap, Occlusion, Place, columns,
    grad_cam, integrated_gradients, overlay, picture, rows,
};
use espalier::score::softmax;
use espalier::train::argmax;
use image::RgbImage;
use serde::Serialize;

use super::Error;
use super::model::read;
use super::network::Network;
use crate::output::{Report, table};

/// Longer side of a shown picture, in pixels.
const SIDE: u32 = 280;
/// The same where there are many.
const SMALL_SIDE: u32 = 112;

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// Checkpoint (.safetensors) or model file (.esp), told apart by what is in it
    network: PathBuf,
    /// Picture (PNG, JPEG or BMP); with --compare, a source of pictures
    picture: PathBuf,
    /// Another checkpoint or model file: where both look in pictures of the source
    #[arg(long, value_name = "OTHER")]
    compare: Option<PathBuf>,
    /// One method; all that the network allows where not given
    #[arg(long, conflicts_with = "compare")]
    method: Option<Method>,
    /// Class to explain; the answer where not given
    #[arg(long, conflicts_with = "compare")]
    class: Option<String>,
    /// Layer for Grad-CAM; the last convolution where not given
    #[arg(long, conflicts_with = "compare")]
    layer: Option<String>,
    /// Steps of integrated gradients
    #[arg(long, default_value_t = 1000, conflicts_with = "compare")]
    steps: usize,
    /// Side in pixels of a cell that is covered; a seventh of the picture where not given
    #[arg(long)]
    cell: Option<usize>,
    /// Pixel value of an empty picture, 0 to 255: what cells are covered with, and where
    /// integrated gradients start
    #[arg(long, default_value_t = 0)]
    baseline: u8,
    /// Pictures to compare on, spread evenly over the test part of the source
    #[arg(short = 'n', long, default_value_t = 200, requires = "compare")]
    count: usize,
    /// Pictures on the sheet of the comparison
    #[arg(long, default_value_t = 12, requires = "compare")]
    rows: usize,
    /// Folder for the overlays
    #[arg(long, default_value = "explain")]
    out: PathBuf,
}

/// How to find out where a network looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Method {
    GradCam,
    IntegratedGradients,
    Occlusion,
}

/// Of one picture, or of a comparison.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Explanation {
    Picture(Explained),
    Comparison(Compared),
}

/// Where a network looks in one picture.
#[derive(Serialize)]
pub struct Explained {
    /// Class with the largest logit.
    answer: String,
    /// Softmax of the logits at the answer, a fraction of 1.
    score: f32,
    /// The class that is explained.
    class: String,
    class_score: f32,
    logit: f32,
    methods: Vec<Shown>,
}

/// What one method gave.
#[derive(Serialize)]
struct Shown {
    method: Method,
    #[serde(flatten)]
    found: Found,
    overlay: PathBuf,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    GradCam {
        layer: String,
        /// Height, width and channels of what it writes.
        output: String,
    },
    IntegratedGradients {
        /// Of all attributions.
        sum: f32,
        /// Logit of the picture less that of the baseline.
        difference: f32,
        /// How far they are apart, as a share of the difference.
        gap: f32,
    },
    Occlusion {
        /// The cell with the largest drop, in words.
        region: String,
        drop: f32,
        cells: Cells,
    },
}

/// Two networks on pictures of a source.
#[derive(Serialize)]
pub struct Compared {
    before: PathBuf,
    after: PathBuf,
    #[serde(flatten)]
    summary: Summary,
    /// Share of the pictures whose most important region is another, a fraction of 1.
    moved_share: f64,
    cell: usize,
    sheet: PathBuf,
}

impl Cmd {
    /// Explains one picture, or compares.
    pub fn run(self) -> Result<Explanation, Error> {
        let bytes = read(&self.network)?;
        let loaded = Network::parse(&bytes, &self.network)?;
        let Some(other) = &self.compare else {
            return self.explain(&loaded).map(Explanation::Picture);
        };
        let bytes = read(other)?;
        let compared = self.compare_with(&loaded, other, &Network::parse(&bytes, other)?);
        compared.map(Explanation::Comparison)
    }

    fn explain(&self, loaded: &Network) -> Result<Explained, Error> {
        let network = loaded.classifier();
        let (shape, classes) = (network.shape(), network.classes());
        let pixels = data::load_picture(&self.picture, shape, loaded.resize())?;
        let logits = network.logits(std::slice::from_ref(&pixels)).concat();
        let answer = argmax(&logits);
        let class = match &self.class {
            Some(name) => class_named(&classes, name)?,
            None => answer,
        };
        let subject = Subject {
            cmd: self,
            network,
            float: loaded.float(),
            pixels,
            shape,
            class,
        };
        let scores = softmax(&logits);
        Ok(Explained {
            answer: classes[answer].clone(),
            score: scores[answer],
            class: classes[class].clone(),
            class_score: scores[class],
            logit: logits[class],
            methods: subject.show_all()?,
        })
    }

    fn compare_with(
        &self,
        loaded: &Network,
        other: &Path,
        other_loaded: &Network,
    ) -> Result<Compared, Error> {
        let (before, after) = (loaded.classifier(), other_loaded.classifier());
        compare::check(before, after)?;
        let shape = before.shape();
        let occlusion = self.cells(shape)?;
        let pictures = self.test_pictures(shape, loaded.resize())?;
        let pairs = compare::compare(before, after, &pictures, &occlusion);
        let sheet = self.out.join("compare.png");
        let shown = self.rows.clamp(1, pairs.len());
        let shown = (0..shown).map(|row| row * pairs.len() / shown);
        let shown: Vec<RgbImage> = shown
            .map(|at| side_by_side(&pairs[at], &pictures[at], shape, &occlusion))
            .collect();
        save(&sheet, &rows(&shown))?;
        let summary = Summary::new(&pairs);
        Ok(Compared {
            before: self.network.clone(),
            after: other.to_owned(),
            moved_share: summary.moved as f64 / summary.pictures as f64,
            summary,
            cell: pairs[0].cells[0].side,
            sheet,
        })
    }

    fn cells(&self, shape: PictureShape) -> Result<Occlusion, ExplainError> {
        let sevenths = Occlusion::new(shape, self.baseline);
        self.cell
            .map_or(Ok(sevenths), |cell| sevenths.with_cell(cell))
    }

    /// At least one.
    fn test_pictures(&self, shape: PictureShape, resize: Resize) -> Result<Vec<Vec<u8>>, Error> {
        let options = Options {
            resize,
            ..Options::default()
        };
        let test = super::project::part(&self.picture, Part::Test, options.pinned(shape))?;
        let pictures = test.sample(self.count.max(1)).pictures;
        Ok(pictures.into_iter().map(|picture| picture.pixels).collect())
    }
}

/// A picture, and where both networks look.
fn side_by_side(
    pair: &Pair,
    pixels: &[u8],
    shape: PictureShape,
    occlusion: &Occlusion,
) -> RgbImage {
    let plain = picture(pixels, shape, SMALL_SIDE);
    let [before, after] = &pair.cells;
    let shown = [before, after].map(|cells| overlay(&plain, &occlusion.map(cells)));
    let [before, after] = shown;
    columns(&[plain, before, after])
}

fn class_named(classes: &[String], name: &str) -> Result<usize, ExplainError> {
    let position = classes.iter().position(|class| class == name);
    position.ok_or_else(|| ExplainError::NoClass {
        name: name.to_owned(),
        classes: classes.join(", "),
    })
}

/// What is explained.
struct Subject<'a> {
    cmd: &'a Cmd,
    network: &'a dyn Classifier,
    /// With gradients, if it has any.
    float: Option<&'a Float>,
    pixels: Vec<u8>,
    shape: PictureShape,
    class: usize,
}

impl Subject<'_> {
    fn show_all(&self) -> Result<Vec<Shown>, Error> {
        let methods = match (self.cmd.method, self.float) {
            (Some(method), _) => vec![method],
            (None, Some(_)) => Method::value_variants().to_vec(),
            (None, None) => vec![Method::Occlusion],
        };
        let found = methods.into_iter().map(|method| {
            let (found, map) = self.find(method)?;
            Ok((method, found, map))
        });
        // Nothing is written until all of them have worked.
        let found = found.collect::<Result<Vec<_>, ExplainError>>()?;
        let shown = |(method, found, map)| self.show(method, found, &map);
        found.into_iter().map(shown).collect()
    }

    fn find(&self, method: Method) -> Result<(Found, Heatmap), ExplainError> {
        match (method, self.float) {
            (Method::Occlusion, _) => self.occlusion(),
            (Method::GradCam, Some(float)) => self.grad_cam(float),
            (Method::IntegratedGradients, Some(float)) => self.integrated_gradients(float),
            (_, None) => Err(ExplainError::NoGradients {
                method: method.to_string(),
            }),
        }
    }

    fn show(&self, method: Method, found: Found, map: &Heatmap) -> Result<Shown, Error> {
        let plain = picture(&self.pixels, self.shape, SIDE);
        let shown = columns(&[plain.clone(), overlay(&plain, map)]);
        let stem = self.cmd.picture.file_stem().unwrap_or_default();
        let overlay = self
            .cmd
            .out
            .join(format!("{}-{method}.png", stem.display()));
        save(&overlay, &shown)?;
        Ok(Shown {
            method,
            found,
            overlay,
        })
    }

    fn grad_cam(&self, float: &Float) -> Result<(Found, Heatmap), ExplainError> {
        let place = Place::new(float.network(), self.cmd.layer.as_deref())?;
        let map = grad_cam(float, &self.pixels, self.class, place);
        let node = place.node(float.network());
        let found = Found::GradCam {
            layer: node.name.clone(),
            output: node.output.to_string(),
        };
        Ok((found, map))
    }

    fn integrated_gradients(&self, float: &Float) -> Result<(Found, Heatmap), ExplainError> {
        let Cmd {
            baseline, steps, ..
        } = *self.cmd;
        let attributions = integrated_gradients(float, &self.pixels, self.class, baseline, steps)?;
        let gap = attributions.gap();
        let Attributions {
            map,
            sum,
            difference,
        } = attributions;
        let found = Found::IntegratedGradients {
            sum,
            difference,
            gap,
        };
        Ok((found, map))
    }

    fn occlusion(&self) -> Result<(Found, Heatmap), ExplainError> {
        let occlusion = self.cmd.cells(self.shape)?;
        let cells = occlusion.of(self.network, &self.pixels, self.class);
        let map = occlusion.map(&cells);
        let region = cells.region();
        let found = Found::Occlusion {
            region: occlusion.words(&cells, region),
            drop: cells.drops[region],
            cells,
        };
        Ok((found, map))
    }
}

fn save(file: &Path, shown: &RgbImage) -> Result<(), Error> {
    let shape = PictureShape::of(shown);
    Ok(save_png(file, shown.as_raw(), shape)?)
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GradCam => "grad-cam",
            Self::IntegratedGradients => "integrated-gradients",
            Self::Occlusion => "occlusion",
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GradCam { layer, output } => write!(f, "at {layer}, {output}"),
            Self::IntegratedGradients {
                sum,
                difference,
                gap,
            } => write!(
                f,
                "attributions add up to {sum:.3}, the logits differ by {difference:.3}: {:.2} % off",
                100.0 * gap
            ),
            Self::Occlusion { region, drop, .. } => {
                write!(f, "{region}: without them the logit falls by {drop:.3}")
            }
        }
    }
}

impl Report for Explanation {}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picture(explained) => explained.fmt(f),
            Self::Comparison(compared) => compared.fmt(f),
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "answer     {}, {:.1} %", self.answer, 100.0 * self.score)?;
        writeln!(
            f,
            "explained  {}, {:.1} %, logit {:.3}",
            self.class,
            100.0 * self.class_score,
            self.logit
        )?;
        let mut rows = table(["method", "found", "overlay"]);
        for shown in &self.methods {
            rows.add_row([
                shown.method.to_string(),
                shown.found.to_string(),
                shown.overlay.display().to_string(),
            ]);
        }
        write!(f, "{rows}")
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            pictures,
            moved,
            answers_changed,
            rank_correlation,
        } = self.summary;
        let cell = self.cell;
        writeln!(
            f,
            "region moved      {:.1} %: {moved} of {pictures} pictures have another cell of {cell}x{cell} pixels that matters most",
            100.0 * self.moved_share,
        )?;
        writeln!(f, "answers changed   {answers_changed} of {pictures}")?;
        writeln!(
            f,
            "rank correlation  {rank_correlation:.3} of the drops of all cells (Spearman, mean of the pictures)"
        )?;
        write!(
            f,
            "sheet             {}: picture, {}, {}",
            self.sheet.display(),
            self.before.display(),
            self.after.display()
        )
    }
}
