//! Boards in QEMU: logs, files and the exit code by semihosting. On silicon without a debugger all of it would hang.

use bytemuck::{cast_slice, cast_slice_mut};
use defmt::error;
use defmt_semihosting as _;
use semihosting::fs::{self, File};
use semihosting::io::{Read, Write};
use shared::report::{Exit, Report};

/// The inputs that the host left in the emulator's folder, and the answers.
pub struct Requests {
    inputs: File,
    outputs: File,
    sure: File,
    /// What every layer computes, where the host wants that as well.
    layers: Option<File>,
    count: usize,
}

impl Requests {
    /// Opens the files; each input has this many bytes.
    pub fn open(input_bytes: usize) -> Result<Self, Exit> {
        let inputs = File::open(c"inputs.bin").map_err(|_| broken("open inputs.bin"))?;
        let bytes = inputs
            .metadata()
            .map_err(|_| broken("measure inputs.bin"))?
            .len() as usize;
        if !bytes.is_multiple_of(input_bytes) {
            error!(
                "inputs.bin has {=usize} bytes, not a multiple of the model's {=usize}",
                bytes, input_bytes
            );
            return Err(Exit::WrongInputs);
        }
        let outputs = File::create(c"outputs.bin").map_err(|_| broken("create outputs.bin"))?;
        let sure = File::create(c"sure.bin").map_err(|_| broken("create sure.bin"))?;
        // The host leaves an empty file where it wants them.
        let layers = match File::open(c"layers.bin") {
            Ok(_) => Some(File::create(c"layers.bin").map_err(|_| broken("create layers.bin"))?),
            Err(_) => None,
        };
        Ok(Self {
            inputs,
            outputs,
            sure,
            layers,
            count: bytes.checked_div(input_bytes).unwrap_or(0),
        })
    }

    /// How many inputs there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The next input.
    pub fn read(&self, input: &mut [i8]) -> Result<(), Exit> {
        (&self.inputs)
            .read_exact(cast_slice_mut(input))
            .map_err(|_| broken("read inputs.bin"))
    }

    /// Whether the model is sure of its answer, a byte of 0 or 1.
    pub fn write_sure(&self, sure: bool) -> Result<(), Exit> {
        (&self.sure)
            .write_all(&[sure.into()])
            .map_err(|_| broken("write sure.bin"))
    }

    /// The answer to it.
    pub fn write(&self, output: &[i8]) -> Result<(), Exit> {
        (&self.outputs)
            .write_all(cast_slice(output))
            .map_err(|_| broken("write outputs.bin"))
    }

    /// Whether the host wants what every layer computes.
    pub fn wants_layers(&self) -> bool {
        self.layers.is_some()
    }

    /// What a layer has computed.
    pub fn write_layer(&self, output: &[i8]) -> Result<(), Exit> {
        match &self.layers {
            Some(layers) => Write::write_all(&mut &*layers, cast_slice(output))
                .map_err(|_| broken("write layers.bin")),
            None => Ok(()),
        }
    }
}

/// Leaves the report where the host looks for it.
pub fn save(report: &Report) -> Result<(), Exit> {
    fs::write(c"report.bin", report.encode(&mut [0; Report::MAX_BYTES]))
        .map_err(|_| broken("write report.bin"))
}

/// Ends the emulator.
pub fn exit(exit: Exit) -> ! {
    semihosting::process::exit(exit.code().into())
}

fn broken(what: &str) -> Exit {
    error!("semihosting can not {=str}", what);
    Exit::HostFiles
}
