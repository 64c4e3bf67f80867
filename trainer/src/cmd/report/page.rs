//! The page: one function for each section.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use espalier::data::{Dataset, PictureShape};
use espalier::score::{Score, percent};

use super::{Mistake, Page};
use crate::output::thousands;

const STYLE: &str = include_str!("style.css");

/// Anchors and titles of the sections, in their order.
const SECTIONS: [(&str, &str); 6] = [
    ("data", "Data"),
    ("training", "Training"),
    ("compression", "Compression"),
    ("answers", "Answers"),
    ("footprint", "Footprint"),
    ("mistakes", "Worst mistakes"),
];

/// A quantity and the most that it may be.
struct Limit {
    name: &'static str,
    is: u64,
    most: u64,
    /// Who sets it.
    of: &'static str,
}

impl Page<'_> {
    /// The whole file.
    pub fn html(&self) -> Markup {
        let name = self.name();
        let contents = [
            self.data(),
            self.training(),
            self.compression(),
            self.answers(),
            self.footprint(),
            self.mistakes(),
        ];
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (name) " - espalier" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (name) }
                    nav { @for (id, title) in SECTIONS { a href={ "#" (id) } { (title) } } }
                    (self.tiles())
                    @if !self.built.over_budget.is_empty() {
                        section class="warning" {
                            h2 { "Over budget" }
                            @for over in &self.built.over_budget { p { (over) } }
                        }
                    }
                    @for ((id, title), content) in SECTIONS.iter().zip(contents) {
                        section id=(id) { h2 { (title) } (content) }
                    }
                    p class="dim" { "Made by espalier " (env!("CARGO_PKG_VERSION")) "." }
                }
            }
        }
    }

    /// The project's folder.
    fn name(&self) -> String {
        let folder = self.project.folder.canonicalize().unwrap_or_default();
        let name = folder.file_name().unwrap_or_default();
        name.display().to_string()
    }

    fn tiles(&self) -> Markup {
        let built = self.built;
        let cost = built.footprint.as_ref();
        let [low, high] = built.simulate.interval.map(|share| 100.0 * share);
        let int8 = percent_of(built.simulate.accuracy);
        html! {
            div class="tiles" {
                (tile("right on the test pictures, int8", &int8, &format!("95 % interval {low:.1} to {high:.1}")))
                (tile("model file", &bytes(built.export.model_bytes as u64), &format!("{} parameters", thousands(built.export.params as u64))))
                @if let Some(cost) = cost {
                    (tile("flash", &bytes(cost.flash_bytes), "firmware and model"))
                    (tile("RAM", &bytes(cost.ram_bytes), "arena, stack, statics"))
                    (tile("instructions", &thousands(cost.instructions), "one picture, emulated"))
                }
            }
        }
    }

    fn data(&self) -> Markup {
        let pictures = self.pictures;
        let PictureShape {
            height,
            width,
            channels,
        } = pictures.train.shape;
        let validation = pictures.validation.as_ref().map(Dataset::counts);
        let (train, test) = (pictures.train.counts(), pictures.test.counts());
        let total = |counts: &[usize]| thousands(counts.iter().sum::<usize>() as u64);
        let (most, least) = (train.iter().max(), train.iter().min());
        let (most, least) = (most.copied().unwrap_or(0), least.copied().unwrap_or(0));
        html! {
            p { "Pictures of " (height) " x " (width) " pixels, " @if channels == 1 { "grey" } @else { "in colour" } "; source "
                code { (self.project.data.source.display()) } ". "
                @if most == least { "Every class has " (most) " training pictures." }
                @else { "The largest class has " (format!("{:.1}", most as f64 / least.max(1) as f64)) " times the training pictures of the smallest." }
            }
            div class="sheet" {
            div class="wide" { table {
                thead { tr { th { "class" } th { "train" } @if validation.is_some() { th { "validation" } } th { "test" } } }
                tbody {
                    @for (index, class) in pictures.train.classes.iter().enumerate() {
                        tr { td { (class) } td { (train[index]) } @if let Some(counts) = &validation { td { (counts[index]) } } td { (test[index]) } }
                    }
                    tr { th { "all" } th { (total(&train)) } @if let Some(counts) = &validation { th { (total(counts)) } } th { (total(&test)) } }
                }
            } }
            figure {
                img src=(self.sheet) alt="A training picture of each class in a row with its augmented variants";
                figcaption class="dim" { "A training picture of each class, and how training sees it, augmented." }
            }
            }
        }
    }

    fn training(&self) -> Markup {
        let train = &self.built.train;
        html! {
            p { (thousands(train.pictures as u64)) " pictures, " (train.epochs) " epochs, "
                (format!("{:.0} s", train.seconds)) "; " (thousands(train.params as u64)) " parameters." }
            @if self.curves.is_empty() {
                p class="dim" { "The training was finished before this build, which has no curve of it." }
            } @else {
                p class="dim" { "Means of each epoch, over augmented pictures, each before it was learned from." }
                div class="plots" { @for curve in &self.curves { div class="plot" { (inline(curve)) } } }
            }
        }
    }

    fn compression(&self) -> Markup {
        let (built, compressed) = (self.built, &self.built.compress);
        let (float, int8) = (&built.train.score, &built.simulate);
        let row = |name: &str, cells: [String; 3]| html! { tr { td { (name) } @for cell in cells { td { (cell) } } } };
        let count = |n: usize| thousands(n as u64);
        html! {
            div class="wide" { table {
                thead { tr { th {} th { "float" } th { "compressed" } th { "int8" } } }
                tbody {
                    (row("accuracy", [float.accuracy, compressed.score.accuracy, int8.accuracy].map(percent_of)))
                    (row("parameters", [built.train.params, compressed.params, built.export.params].map(count)))
                    (row("not zero", [built.train.nonzeros, compressed.nonzeros, built.export.nonzeros].map(count)))
                    (row("bytes", [4 * built.train.params, 4 * compressed.params, built.export.model_bytes].map(count)))
                }
            } }
            p { (count(compressed.answers_changed)) " of " (count(compressed.score.total))
                " test pictures are answered otherwise by the compressed float network than before." }
            @if let Some(drop) = compressed.drop {
                p { (format!("{drop:.2}")) " points of accuracy are lost on the validation pictures, from float before to int8 after." }
            }
            h3 { "Receipt" }
            div class="wide" { table {
                thead { tr { th { "step" } th { "parameters" } th { "not zero" } th { "distinct" } th { "model bytes" } th { "MACs" } th { "validation" } } }
                tbody { @for step in &compressed.steps { tr {
                    td { (step.name) }
                    td { (count(step.cost.params)) } td { (count(step.cost.nonzeros)) } td { (count(step.cost.distinct)) }
                    td { (count(step.cost.model_bytes)) } td { (thousands(step.cost.macs)) }
                    td { @match step.validation { Some((accuracy, interval)) => (percent(accuracy, interval)), None => "no such pictures" } }
                } } }
            } }
            @if compressed.pareto.is_some() && let Ok(svg) = compressed.plot() { div class="plot" { (inline(&svg)) } }
            p class="dim" { "Dead: " (built.export.dead()) ", left out of the file." }
        }
    }

    fn answers(&self) -> Markup {
        let score = &self.built.simulate;
        html! {
            p { (count_of(score)) " right: " (score.percent()) ". Balanced accuracy, the mean of the recalls, is "
                (percent_of(score.balanced_accuracy)) "." }
            @if let Some(sure) = &self.built.sure {
                p { "It need not answer: " (sure.words()) ". What it says of the others is that it is not sure." }
                p class="dim" { "Its scores are off by " (format!("{:.3}", sure.calibration_error))
                    " on average (expected calibration error), at the temperature " (format!("{:.2}", sure.temperature))
                    " that was found on validation pictures." }
            }
            h3 { "Recall of each class" }
            table class="full" { tbody { @for class in &score.per_class { tr {
                td { (class.class) } td { (percent_of(class.recall)) } td class="bars" { (bar(class.recall, false)) }
            } } } }
            h3 { "Confusion" }
            p class="dim" { "Rows are what a picture is, columns what the int8 model answers." }
            div class="wide" { (confusion(score)) }
        }
    }

    fn footprint(&self) -> Markup {
        let built = self.built;
        let limits = self.limits();
        html! {
            @if let Some(missing) = &built.not_measured {
                p { "Not run on a chip: " (missing) }
            }
            @if let Some(least) = self.project.budget.accuracy {
                p { "Accuracy " (percent_of(built.simulate.accuracy)) ", budget at least " (percent_of(least)) "." }
            }
            @if !limits.is_empty() {
                div class="wide" { table class="full" {
                    thead { tr { th { "on " (self.board.name) } th { "takes" } th { "of" } th { "" } } }
                    tbody { @for limit in &limits { tr {
                        td { (limit.name) } td { (thousands(limit.is)) } td { (thousands(limit.most)) " (" (limit.of) ")" }
                        td class="bars" { (bar(limit.is as f64 / limit.most.max(1) as f64, limit.is > limit.most)) }
                    } } }
                } }
            }
            @if let Some(run) = &built.run {
                p { (run.agreement.mismatched_bytes) " of " (run.agreement.output_bytes) " output bytes of " (run.inferences)
                    " pictures differ between this machine and the emulated chip." }
            }
            @if let Some(cost) = &built.footprint {
                p class="dim" { (thousands(cost.instructions)) " instructions for one picture, emulated; never cycles. The smallest chips that it fits: "
                    (cost.smallest_chips.iter().map(|chip| chip.name.as_str()).collect::<Vec<_>>().join(", ")) "." }
            }
        }
    }

    /// Against the budget, and where that says nothing, against what the board has.
    fn limits(&self) -> Vec<Limit> {
        let Some(cost) = &self.built.footprint else {
            return Vec::new();
        };
        let (budget, board) = (&self.project.budget, self.board);
        let limit = |name, is, budget: Option<u64>, has: Option<u64>| {
            let (most, of) = match budget {
                Some(most) => (most, "budget"),
                None => (has?, "board"),
            };
            Some(Limit { name, is, most, of })
        };
        let whole = |bytes: Option<usize>| bytes.map(|bytes| bytes as u64);
        let flash = u64::from(board.flash.bytes) + board.slots().capacity() as u64;
        [
            limit(
                "flash, bytes",
                cost.flash_bytes,
                whole(budget.flash),
                Some(flash),
            ),
            limit(
                "RAM, bytes",
                cost.ram_bytes,
                whole(budget.ram),
                Some(board.ram.bytes.into()),
            ),
            limit("instructions", cost.instructions, budget.instructions, None),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn mistakes(&self) -> Markup {
        html! {
            @if self.mistakes.is_empty() { p { "No test picture is answered wrongly." } }
            @else {
                p class="dim" { "The wrong answers to test pictures that the int8 model is surest of: on the left the picture, on the right "
                    "in bright colours the cells without which the logit of the answer falls most. To look at, not to tune on." }
                div class="mistakes" { @for mistake in &self.mistakes { (figure(mistake)) } }
            }
        }
    }
}

fn figure(mistake: &Mistake) -> Markup {
    let Mistake {
        truth,
        answer,
        score,
        shown,
    } = mistake;
    html! {
        figure {
            img src=(shown) alt={ "A picture of " (truth) " that is answered " (answer) };
            figcaption { b { (answer) } " " (percent_of(f64::from(*score))) ", is " b { (truth) } }
        }
    }
}

fn confusion(score: &Score) -> Markup {
    html! {
        table class="confusion" {
            thead { tr { th { "is" } @for class in &score.per_class { th { (class.class) } } } }
            tbody { @for (truth, row) in score.confusion.iter().enumerate() { tr {
                th { (score.per_class[truth].class) }
                @for (answer, &count) in row.iter().enumerate() {
                    @let share = count as f64 / score.per_class[truth].total.max(1) as f64;
                    td class=[(truth == answer).then_some("right")] style=(share_style(share)) {
                        @if count > 0 { (count) }
                    }
                }
            } } }
        }
    }
}

fn tile(what: &str, value: &str, more: &str) -> Markup {
    html! { div class="tile" { (what) b { (value) } span class="dim" { (more) } } }
}

/// A share of 1; what is over it fills the bar.
fn bar(share: f64, over: bool) -> Markup {
    html! {
        div class={ "bar" @if over { " over" } } style=(share_style(share.min(1.0))) { i {} }
    }
}

fn share_style(share: f64) -> String {
    format!("--share:{share:.3}")
}

/// An SVG of `espalier::plot`, whose namespace HTML knows already.
fn inline(svg: &str) -> Markup {
    PreEscaped(svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", ""))
}

fn percent_of(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn bytes(bytes: u64) -> String {
    format!("{} B", thousands(bytes))
}

fn count_of(score: &Score) -> String {
    let (correct, total) = (score.correct as u64, score.total as u64);
    format!("{} of {}", thousands(correct), thousands(total))
}
