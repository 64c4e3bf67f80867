//! The command line. One file in `cmd/` for each command.

mod cmd;
mod flags;
mod output;

use std::process::ExitCode;

use clap::Parser;

// A third of a training step goes into page faults of the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a network on a few pictures, makes it small, and runs the same bytes
/// on this machine and on a microcontroller.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::log_to_standard_error(cli.verbose);
    cli.command.run(cli.json)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_flag_is_named_twice() {
        super::Cli::command().debug_assert();
    }
}
