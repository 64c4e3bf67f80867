//! What people and scripts see: results on standard output, everything else on
//! standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// What a command gives: words by `Display`, JSON by `Serialize`.
pub trait Report: Serialize + Display {
    /// Why the command did not reach what was asked for, although it ran.
    fn failure(&self) -> Option<String> {
        None
    }
}

/// Prints a result or an error; the exit code says which.
pub fn finish<R: Report, E: std::error::Error>(result: Result<R, E>, json: bool) -> ExitCode {
    let problem = match result {
        Ok(report) => match print(&report, json) {
            Ok(()) => report.failure(),
            Err(error) => Some(format!("the result cannot be printed: {error}")),
        },
        Err(error) => Some(error.to_string()),
    };
    match problem {
        Some(problem) => {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn print<R: Report>(report: &R, json: bool) -> std::io::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(report)?,
        false => report.to_string().trim_end().to_owned(),
    };
    writeln!(std::io::stdout(), "{text}")
}

/// A table in the program's one style.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// 12345 as `12,345`.
pub fn thousands(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Logs our warnings and, with each `-v`, more; of other crates only errors,
/// unless everything is asked for.
pub fn log_to_standard_error(verbose: u8) {
    let (ours, others) = match verbose {
        0 => (LevelFilter::WARN, LevelFilter::ERROR),
        1 => (LevelFilter::INFO, LevelFilter::WARN),
        _ => (LevelFilter::DEBUG, LevelFilter::DEBUG),
    };
    let filter = Targets::new()
        .with_target("espalier", ours)
        .with_default(others);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .without_time()
        .with_target(false);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
}

/// Says what is going on, on standard error.
pub fn say(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_have_commas() {
        let shown = [0u32, 999, 1_000, 121_930, 12_501_632].map(super::thousands);
        assert_eq!(shown, ["0", "999", "1,000", "121,930", "12,501,632"]);
    }
}
