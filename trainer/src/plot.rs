//! Pictures for people: accuracy against bytes, as SVG and in the terminal, and curves.

use std::fmt::Write;
use std::ops::Range;

use plotters::prelude::*;

use crate::score::Mean;

/// Size of the picture in pixels.
const SIZE: (u32, u32) = (720, 480);
/// Size of the plot in the terminal, in characters.
const TERMINAL: (usize, usize) = (64, 16);

/// One network.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What it is called; nothing for one of many.
    pub label: Option<String>,
    /// Bytes of its model file, above 0.
    pub bytes: f64,
    /// Accuracy in percent.
    pub accuracy: f64,
}

/// The points that no other one beats in both bytes and accuracy, by bytes.
pub fn frontier(points: &[Point]) -> Vec<&Point> {
    let beaten = |point: &&Point| {
        points.iter().any(|other| {
            let no_worse = other.bytes <= point.bytes && other.accuracy >= point.accuracy;
            no_worse && (other.bytes, other.accuracy) != (point.bytes, point.accuracy)
        })
    };
    let mut best: Vec<&Point> = points.iter().filter(|point| !beaten(point)).collect();
    best.sort_by(|a, b| a.bytes.total_cmp(&b.bytes));
    best
}

/// Smallest and largest of the numbers, with a margin.
fn range(numbers: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let ends = numbers.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    ends.0 - margin..ends.1 + margin
}

/// An SVG of the points, their frontier as a line. Bytes are on a logarithmic scale.
pub fn svg(title: &str, points: &[Point]) -> Result<String, String> {
    let mut text = String::new();
    draw(title, points, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw(title: &str, points: &[Point], to: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(to, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let bytes = range(points.iter().map(|p| p.bytes.log2()), 0.6);
    let accuracy = range(points.iter().map(|p| p.accuracy), 0.3);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(bytes, accuracy)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("bytes of the model file")
        .y_desc("accuracy on validation pictures, %")
        .x_label_formatter(&|log| format!("{:.0}", log.exp2()))
        .y_label_formatter(&|percent| format!("{percent:.1}"))
        .draw()?;
    let place = |point: &Point| (point.bytes.log2(), point.accuracy);
    let line = frontier(points).into_iter().map(place);
    chart.draw_series(LineSeries::new(line, &BLUE))?;
    for point in points {
        let at = place(point);
        let colour = if point.label.is_some() { RED } else { BLUE };
        chart.draw_series([Circle::new(at, 4, colour.filled())])?;
        if let Some(label) = &point.label {
            // Beside the point, not on it.
            let text = Text::new(label.clone(), (at.0 + 0.08, at.1), ("sans-serif", 14));
            chart.draw_series([text])?;
        }
    }
    root.present()?;
    Ok(())
}

/// The same in characters: `o` for a point, `*` for one with a label.
pub fn terminal(points: &[Point]) -> String {
    let (width, height) = TERMINAL;
    let bytes = range(points.iter().map(|p| p.bytes.log2()), 0.01);
    let accuracy = range(points.iter().map(|p| p.accuracy), 0.01);
    let place = |value: f64, range: &Range<f64>, count: usize| {
        let share = (value - range.start) / (range.end - range.start);
        ((share * count as f64) as usize).min(count - 1)
    };
    let mut rows = vec![vec![' '; width]; height];
    let with_label_last = |point: &&Point| point.label.is_some();
    let mut ordered: Vec<&Point> = points.iter().collect();
    ordered.sort_by_key(with_label_last);
    for point in ordered {
        let column = place(point.bytes.log2(), &bytes, width);
        let row = height - 1 - place(point.accuracy, &accuracy, height);
        rows[row][column] = if point.label.is_some() { '*' } else { 'o' };
    }
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let percent = match index {
            0 => format!("{:5.1} %", accuracy.end),
            i if i + 1 == height => format!("{:5.1} %", accuracy.start),
            _ => " ".repeat(7),
        };
        let line: String = row.iter().collect();
        let _ = writeln!(text, "{percent} |{}", line.trim_end());
    }
    let (least, most) = (bytes.start.exp2(), bytes.end.exp2());
    let _ = writeln!(text, "        +{}", "-".repeat(width));
    let _ = write!(
        text,
        "         {least:<10.0}{:>1$.0} bytes",
        most,
        width - 16
    );
    text
}

/// Size of a curve in pixels: large letters, for a narrow screen.
const CURVE_SIZE: (u32, u32) = (480, 300);

/// An SVG of numbers, one for each epoch from 1 on.
pub fn curve(title: &str, values: &[f64]) -> Result<String, String> {
    let mut text = String::new();
    draw_curve(title, values, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw_curve(
    title: &str,
    values: &[f64],
    to: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(to, CURVE_SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let spread = range(
        values
            .iter()
            .copied()
            .chain(values.is_empty().then_some(0.0)),
        0.0,
    );
    let margin = 0.05 * (spread.end - spread.start).max(1e-3);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(8)
        .margin_right(20)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(
            1..values.len().max(2),
            spread.start - margin..spread.end + margin,
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 16))
        .x_labels(6)
        .y_labels(6)
        .x_desc("epoch")
        .draw()?;
    let points = (1..).zip(values.iter().copied());
    let line = LineSeries::new(points, BLUE.stroke_width(2)).point_size(2);
    chart.draw_series(line)?;
    root.present()?;
    Ok(())
}

/// Means over sizes of a sample.
pub struct Line {
    /// What it is called.
    pub label: String,
    /// Training pictures of each class, and the accuracy in percent.
    pub points: Vec<(usize, Mean)>,
}

/// An SVG of lines with the intervals of their means. Sizes are on a logarithmic scale.
pub fn learning(lines: &[Line]) -> Result<String, String> {
    let mut text = String::new();
    draw_learning(lines, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw_learning(lines: &[Line], to: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(to, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let ends = |mean: &Mean| {
        let half = mean.half_width.unwrap_or(0.0);
        (mean.mean - half, mean.mean + half)
    };
    let sizes: Vec<f64> = points().map(|&(shots, _)| shots as f64).collect();
    let Range {
        start: least,
        end: most,
    } = range(sizes.iter().copied(), 0.0);
    let of_ends = points().flat_map(|(_, mean)| <[f64; 2]>::from(ends(mean)));
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(
            (0.8 * least..1.25 * most)
                .log_scale()
                .with_key_points(sizes),
            range(of_ends, 1.0),
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("training pictures of each class")
        .y_desc("accuracy on test pictures, %")
        .x_label_formatter(&|shots| format!("{shots:.0}"))
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let places = line
            .points
            .iter()
            .map(|(shots, mean)| (*shots as f64, mean.mean));
        let drawn = LineSeries::new(places, colour.stroke_width(2)).point_size(3);
        chart
            .draw_series(drawn)?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let bars = line.points.iter().map(|(shots, mean)| {
            let (low, high) = ends(mean);
            // Side by side.
            let shifted = *shots as f64 * (1.0 + 0.01 * index as f64);
            PathElement::new([(shifted, low), (shifted, high)], colour.stroke_width(1))
        });
        chart.draw_series(bars)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn points() -> Vec<Point> {
        let point = |label: Option<&str>, bytes, accuracy| Point {
            label: label.map(str::to_owned),
            bytes,
            accuracy,
        };
        vec![
            point(Some("whole"), 120_000.0, 92.5),
            point(None, 8_000.0, 91.0),
            point(None, 9_000.0, 90.0),
            point(Some("chosen"), 4_000.0, 90.5),
        ]
    }

    #[test]
    fn the_frontier_is_what_nothing_beats() {
        let points = points();
        let bytes: Vec<f64> = frontier(&points).iter().map(|p| p.bytes).collect();
        assert_eq!(bytes, [4_000.0, 8_000.0, 120_000.0]);
    }

    #[test]
    fn both_pictures_show_every_point() {
        let svg = svg("a title", &points()).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("a title") && svg.contains("chosen"));
        assert_eq!(svg.matches("<circle").count(), 4);
        let terminal = terminal(&points());
        let count = |mark| terminal.matches(mark).count();
        assert_eq!((count('o'), count('*')), (2, 2), "{terminal}");
        // One point alone has a picture, too.
        assert!(super::terminal(&points()[..1]).contains('*'));
    }

    #[test]
    fn a_curve_has_a_point_for_each_epoch() {
        for values in [vec![], vec![0.0], vec![2.0, 1.0, 0.5]] {
            let svg = curve("loss", &values).unwrap();
            assert!(svg.contains("loss") && svg.contains("epoch"));
            assert_eq!(svg.matches("<circle").count(), values.len());
        }
    }
}
