//! A benchmark as a program.

use std::process::ExitCode;

use serde_json::Value;

/// Measures and prints: with `--json` the object itself, else as `print` does.
pub fn run(
    measure: impl FnOnce() -> Result<Value, Box<dyn std::error::Error>>,
    print: impl FnOnce(&Value),
) -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    match measure() {
        Ok(results) if json => println!("{results:#}"),
        Ok(results) => print(&results),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
