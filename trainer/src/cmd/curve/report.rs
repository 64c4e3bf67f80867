//! The table, the plot and the rows of a curve.

use std::fmt;
use std::path::{Path, PathBuf};

use espalier::plot::{self, Line};
use espalier::score::{Mean, mean};
use serde::{Deserialize, Serialize};

use super::cell::Method;
use crate::cmd::Error;
use crate::output::{Report, table};

/// What one network did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Training pictures of each class.
    pub shots: usize,
    /// Of the subset, the first weights and everything else.
    pub seed: u64,
    pub method: Method,
    /// On the whole test part, a fraction of 1.
    pub accuracy: f64,
    /// The mean of the classes' recalls, a fraction of 1.
    pub balanced_accuracy: f64,
    pub params: usize,
    /// Of an int8 model.
    pub model_bytes: Option<usize>,
    /// What it took to train, beside what the ways before it took.
    pub seconds: f64,
}

/// All networks of one way and size.
#[derive(Serialize)]
struct Point {
    method: Method,
    shots: usize,
    /// Of the accuracy in percent.
    #[serde(flatten)]
    accuracy: Mean,
}

/// A finished curve.
#[derive(Serialize)]
pub struct Learning {
    rows: Vec<Row>,
    points: Vec<Point>,
    csv: PathBuf,
    svg: PathBuf,
}

impl Learning {
    /// Writes the files.
    pub fn new(mut rows: Vec<Row>, csv: PathBuf, svg: PathBuf) -> Result<Self, Error> {
        rows.sort_by_key(|row| (row.method, row.shots, row.seed));
        let learning = Self {
            points: points(&rows),
            rows,
            csv,
            svg,
        };
        save(&learning.csv, &learning.as_csv())?;
        let svg = plot::learning(&learning.lines()).map_err(|error| Error::Write {
            file: learning.svg.clone(),
            source: std::io::Error::other(error),
        })?;
        save(&learning.svg, &svg)?;
        Ok(learning)
    }

    fn as_csv(&self) -> String {
        let mut text =
            "method,shots,seed,accuracy,balanced_accuracy,params,model_bytes,seconds\n".to_owned();
        for row in &self.rows {
            let bytes = row
                .model_bytes
                .map_or(String::new(), |bytes| bytes.to_string());
            let method = row.method.key();
            let Row {
                shots,
                seed,
                accuracy,
                balanced_accuracy: balanced,
                params,
                seconds,
                ..
            } = row;
            text += &format!(
                "{method},{shots},{seed},{accuracy},{balanced},{params},{bytes},{seconds:.1}\n"
            );
        }
        text
    }

    /// One for each way, from few pictures to many.
    fn lines(&self) -> Vec<Line> {
        let line = |points: &[Point]| Line {
            label: points[0].method.name().to_owned(),
            points: points
                .iter()
                .map(|point| (point.shots, point.accuracy))
                .collect(),
        };
        let ways = self.points.chunk_by(|a, b| a.method == b.method);
        ways.map(line).collect()
    }
}

/// The means, by way and then by size.
fn points(rows: &[Row]) -> Vec<Point> {
    let same = |a: &Row, b: &Row| (a.method, a.shots) == (b.method, b.shots);
    let point = |rows: &[Row]| {
        let percents: Vec<f64> = rows.iter().map(|row| 100.0 * row.accuracy).collect();
        Point {
            method: rows[0].method,
            shots: rows[0].shots,
            accuracy: mean(&percents),
        }
    };
    rows.chunk_by(same).map(point).collect()
}

fn save(file: &Path, text: &str) -> Result<(), Error> {
    espalier::file::save(file, text.as_bytes()).map_err(|source| Error::Write {
        file: file.to_owned(),
        source,
    })
}

impl Report for Learning {}

impl fmt::Display for Learning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shots: Vec<usize> = self.points.iter().map(|point| point.shots).collect();
        shots.sort_unstable();
        shots.dedup();
        let mut rows = table(["pictures of each class"]);
        let head = shots.iter().map(usize::to_string);
        rows.set_header(
            ["pictures of each class".to_owned()]
                .into_iter()
                .chain(head),
        );
        for way in self.points.chunk_by(|a, b| a.method == b.method) {
            let cells = shots.iter().map(|&shots| {
                let point = way.iter().find(|point| point.shots == shots);
                point.map_or(String::new(), |point| point.accuracy.to_string())
            });
            let name = way.first().map_or("", |point| point.method.name());
            rows.add_row([name.to_owned()].into_iter().chain(cells));
        }
        writeln!(f, "{rows}")?;
        writeln!(
            f,
            "% right on the test part: the mean over seeds, and its 95 % interval (Student's t)"
        )?;
        writeln!(f, "rows  {}", self.csv.display())?;
        write!(f, "plot  {}", self.svg.display())
    }
}
