//! One module for each command, each with its own `Cmd` and `run`.

mod backend;
mod build;
mod compress;
mod curve;
mod data;
mod devices;
mod error;
mod evaluate;
mod explain;
mod export;
mod finetune;
mod flash;
mod footprint;
mod inspect;
mod layers;
mod model;
mod monitor;
mod network;
mod new;
mod probe;
mod project;
mod report;
mod run;
mod sensitivity;
mod simulate;
mod train;
mod verify;
#[cfg(feature = "remote")]
mod worker;

use std::process::ExitCode;

use clap::Subcommand;

pub use error::Error;

use crate::output::finish;

/// What `espalier` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Make a project folder to start from
    New(new::Cmd),
    /// Every step: train, compress, export, simulate, measure, run on an emulated chip
    Build(build::Cmd),
    /// What is in a data source, and how its augmented pictures look
    Data(data::Cmd),
    /// Train the float network of a project
    Train(train::Cmd),
    /// Train on from a trained network: `train` with a base
    Finetune(finetune::Cmd),
    /// How many pictures the float network of a checkpoint answers rightly
    Evaluate(evaluate::Cmd),
    /// How good networks get with few, and with more, labelled pictures
    Curve(curve::Cmd),
    /// Make a checkpoint smaller: scale, clip, remove channels, prune
    Compress(compress::Cmd),
    /// Which layers of a checkpoint mind being compressed
    Sensitivity(sensitivity::Cmd),
    /// Quantise a checkpoint and write the model file
    Export(export::Cmd),
    /// The layers of a model file
    Inspect(inspect::Cmd),
    /// Run the int8 engine on this machine: accuracy and confusion
    Simulate(simulate::Cmd),
    /// Where a network looks: Grad-CAM, integrated gradients, occlusion, before and after
    Explain(explain::Cmd),
    /// What a model costs: flash, RAM, instructions, and which chips it fits
    Footprint(footprint::Cmd),
    /// Run the real firmware in an emulator and compare every byte
    Run(run::Cmd),
    /// Compare a device with this machine byte by byte, and name the layer where they part
    Verify(verify::Cmd),
    /// Put firmware and model on a real board and show its log
    Flash(flash::Cmd),
    /// Show the log of a real board that runs, until Ctrl-C
    Monitor(monitor::Cmd),
    /// Lend this machine's cores to trainings on other machines, until Ctrl-C
    #[cfg(feature = "remote")]
    Worker(worker::Cmd),
}

impl Command {
    /// Runs the command and prints its result.
    pub fn run(self, json: bool) -> ExitCode {
        match self {
            Self::New(cmd) => finish(cmd.run(), json),
            Self::Build(cmd) => finish(cmd.run(), json),
            Self::Data(cmd) => finish(cmd.run(), json),
            Self::Train(cmd) => finish(cmd.run(), json),
            Self::Finetune(cmd) => finish(cmd.run(), json),
            Self::Evaluate(cmd) => finish(cmd.run(), json),
            Self::Curve(cmd) => finish(cmd.run(), json),
            Self::Compress(cmd) => finish(cmd.run(), json),
            Self::Sensitivity(cmd) => finish(cmd.run(), json),
            Self::Export(cmd) => finish(cmd.run(), json),
            Self::Inspect(cmd) => finish(cmd.run(), json),
            Self::Simulate(cmd) => finish(cmd.run(), json),
            Self::Explain(cmd) => finish(cmd.run(), json),
            Self::Footprint(cmd) => finish(cmd.run(), json),
            Self::Run(cmd) => finish(cmd.run(), json),
            Self::Verify(cmd) => finish(cmd.run(), json),
            Self::Flash(cmd) => finish(cmd.run(), json),
            Self::Monitor(cmd) => finish(cmd.run(), json),
            #[cfg(feature = "remote")]
            Self::Worker(cmd) => finish(cmd.run(), json),
        }
    }
}
