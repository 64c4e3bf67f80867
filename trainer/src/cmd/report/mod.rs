//! `report.html`: what a build made, on one page without any outside reference.

mod page;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use espalier::config::{Pictures, Project};
use espalier::data::{Dataset, PictureShape, contact_sheet, png};
use espalier::device::Board;
use espalier::explain::{Occlusion, columns, overlay, picture};
use espalier::plot;
use espalier::score::softmax;
use espalier::simulate::{Decision, decisions};
use espalier::train::Curve;
use image::RgbImage;
use shared::Model;

use super::build::Built;
use super::{Error, compress, train};

/// Name in the output folder.
pub const FILE: &str = "report.html";
/// Augmented variants of each picture on the sample sheet, and the picture itself.
const SHEET_COLUMNS: usize = 6;
/// Mistakes that are shown.
const MISTAKES: usize = 8;
/// Longer side of a mistake's picture, in pixels.
const SIDE: u32 = 140;

/// All that the page shows, beside what the build itself says.
struct Page<'a> {
    project: &'a Project,
    pictures: &'a Pictures,
    board: &'a Board,
    built: &'a Built,
    /// The sample sheet, as a `data:` address.
    sheet: String,
    /// Titles and SVGs.
    curves: Vec<String>,
    mistakes: Vec<Mistake>,
}

/// A test picture that is answered wrongly.
struct Mistake {
    truth: String,
    answer: String,
    /// Softmax at the answer, a fraction of 1.
    score: f32,
    /// The picture and where the network looks, as a `data:` address.
    shown: String,
}

/// Writes the page of a build into the output folder.
pub fn write(
    project: &Project,
    pictures: &Pictures,
    board: &Board,
    model: &Model,
    built: &Built,
) -> Result<PathBuf, Error> {
    let file = project.output(FILE);
    let wrong = |source| Error::Write {
        file: file.clone(),
        source,
    };
    let seed = project.train.seed;
    let sheet = contact_sheet(&pictures.train, 1, SHEET_COLUMNS, &project.augment, seed);
    let page = Page {
        project,
        pictures,
        board,
        built,
        sheet: address(&sheet).map_err(wrong)?,
        curves: curves(project).map_err(wrong)?,
        mistakes: mistakes(model, &pictures.test).map_err(wrong)?,
    };
    let html = page.html().into_string();
    espalier::file::save(&file, html.as_bytes()).map_err(wrong)?;
    Ok(file)
}

/// A picture as a `data:` address.
fn address(picture: &RgbImage) -> std::io::Result<String> {
    let png = png(picture.as_raw(), PictureShape::of(picture)).map_err(std::io::Error::other)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png)))
}

/// Of the training and of the fine-tuning, as far as there are files of them.
fn curves(project: &Project) -> std::io::Result<Vec<String>> {
    let mut svgs = Vec::new();
    for (name, file) in [("training", train::CURVE), ("fine-tuning", compress::CURVE)] {
        let curve = Curve::load(&project.output(file))?.unwrap_or_default();
        let epochs = curve.epochs.iter();
        let loss: Vec<f64> = epochs.clone().map(|epoch| epoch.loss).collect();
        let accuracy: Vec<f64> = epochs.map(|epoch| 100.0 * epoch.accuracy).collect();
        let titles = [
            (format!("Loss of the {name}"), loss),
            (format!("Right in the {name}, %"), accuracy),
        ];
        for (title, values) in titles.iter().filter(|(_, values)| !values.is_empty()) {
            svgs.push(plot::curve(title, values).map_err(std::io::Error::other)?);
        }
    }
    Ok(svgs)
}

/// The wrong answers that the int8 model is surest of.
fn mistakes(model: &Model, test: &Dataset) -> std::io::Result<Vec<Mistake>> {
    let decisions = decisions(model, test);
    let answers = test.pictures.iter().zip(&decisions);
    let answers = answers.map(|(picture, Decision { answer, logits, .. })| {
        (picture, *answer, softmax(logits)[*answer])
    });
    let mut wrong: Vec<_> = answers
        .filter(|(picture, answer, _)| picture.label != *answer)
        .collect();
    wrong.sort_by(|a, b| b.2.total_cmp(&a.2));
    let occlusion = Occlusion::new(test.shape, 0);
    let mistakes = wrong
        .into_iter()
        .take(MISTAKES)
        .map(|(shown, answer, score)| {
            let cells = occlusion.of(model, &shown.pixels, answer);
            let plain = picture(&shown.pixels, test.shape, SIDE);
            let overlay = overlay(&plain, &occlusion.map(&cells));
            Ok(Mistake {
                truth: test.classes[shown.label].clone(),
                answer: test.classes[answer].clone(),
                score,
                shown: address(&columns(&[plain, overlay]))?,
            })
        });
    mistakes.collect()
}
