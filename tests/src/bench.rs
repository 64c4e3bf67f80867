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

/// A number with so many decimals, or a dash where there is none.
pub fn figure(value: &Value, decimals: usize) -> String {
    value
        .as_f64()
        .map_or("-".into(), |figure| format!("{figure:.decimals$}"))
}
