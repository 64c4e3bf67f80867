//! `espalier footprint`: what a model costs on a chip.

mod compare;
mod fleet;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use espalier::device::chips::Chip;
use espalier::device::cycles::{Basis, Estimate};
use espalier::device::emulator;
use espalier::device::footprint::Footprint;
use espalier::device::{Board, DeviceRun, firmware};
use serde::Serialize;
use shared::Model;

use self::compare::Other;
use self::fleet::{Fleet, FleetFlags, Room};
use super::Error;
use super::layers::{LayerCost, Unit, costs, layer_table};
use super::model::{ModelPath, parameters, parse};
use crate::output::{Report, table, thousands};

/// Chips that are listed where none is named.
const CHIPS: usize = 8;
/// How long the emulator may take for the self-test.
const LIMIT: Duration = Duration::from_secs(60);

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
    /// Emulated board on which stack and instructions are measured
    #[arg(long, default_value = "mps2-an386")]
    board: String,
    /// Judge this chip of probe-rs's database
    #[arg(long)]
    chip: Option<String>,
    #[command(flatten)]
    fleet: FleetFlags,
    /// Another model to set beside it
    #[arg(long, value_name = "MODEL")]
    compare: Option<PathBuf>,
}

/// Flash and RAM, measured from the firmware's ELF and in the emulator.
#[derive(Serialize)]
pub struct Cost {
    board: &'static str,
    pub model_bytes: usize,
    /// Model, code, constants and initial values.
    pub flash_bytes: u64,
    firmware_bytes: u64,
    code_bytes: u64,
    constant_bytes: u64,
    data_bytes: u64,
    pub arena_bytes: usize,
    static_bytes: u64,
    pub stack_bytes: u32,
    /// Arena, statics and stack.
    pub ram_bytes: u64,
    pub instructions: u64,
    /// What they may take on a real core.
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<Estimate>,
    pub macs: u64,
    pub params: usize,
    pub nonzeros: usize,
    layers: Vec<LayerCost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chip: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<Fleet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub smallest_chips: Vec<&'static Chip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compared_with: Option<Other>,
}

#[derive(Serialize)]
struct Verdict {
    #[serde(flatten)]
    room: Room,
    fits: bool,
}

impl Cmd {
    /// Builds the firmware, runs the self-test in the emulator, and adds up.
    pub fn run(self) -> Result<Cost, Error> {
        let board = Board::named(&self.board)?;
        let chip = self.chip.as_deref().map(Chip::named).transpose()?;
        let chips = self.fleet.chips()?;
        let mut cost = measure(&board, &self.path)?;
        match (chip, chips) {
            (Some(chip), _) => cost.chip = Some(cost.judge(chip)),
            (None, Some(chips)) => cost.fleet = Some(self.fleet.judge(chips, &cost)),
            (None, None) => cost.list_chips(),
        }
        let other = self
            .compare
            .map(|model| measure(&board, &ModelPath { model }));
        cost.compared_with = other.transpose()?.map(|other| Other(Box::new(other)));
        Ok(cost)
    }
}

/// Builds the firmware and runs the model's self-test.
fn measure(board: &Board, path: &ModelPath) -> Result<Cost, Error> {
    let bytes = path.read()?;
    let model = parse(&bytes, &path.model)?;
    board.admit(bytes.len(), model.arena_bytes())?;
    let elf = firmware::build(board)?;
    let run = emulator::run(board, &elf, &bytes, &[], LIMIT)?;
    Cost::new(board, &model, &elf, &run)
}

impl Cost {
    /// Adds up the parts. Instructions are the mean of the run's inferences.
    pub fn new(board: &Board, model: &Model, elf: &Path, run: &DeviceRun) -> Result<Self, Error> {
        let elf = std::fs::read(elf).map_err(|source| Error::Read {
            file: elf.to_owned(),
            source,
        })?;
        let firmware = Footprint::of_elf(&elf)?;
        let (params, nonzeros) = parameters(model);
        let model_bytes = model.file_bytes();
        let stack_bytes = run.report.stack_bytes;
        let layers = costs(model, &run.work_by_layer(), Unit::Instructions);
        Ok(Self {
            board: board.name,
            model_bytes,
            flash_bytes: firmware.flash() + model_bytes as u64,
            firmware_bytes: firmware.flash(),
            code_bytes: firmware.code,
            constant_bytes: firmware.constants,
            data_bytes: firmware.data,
            arena_bytes: model.arena_bytes(),
            static_bytes: firmware.statics(),
            stack_bytes,
            ram_bytes: model.arena_bytes() as u64 + firmware.statics() + u64::from(stack_bytes),
            instructions: run.work_per_inference(),
            cycles: Estimate::of(board, run.work_per_inference()),
            macs: layers.iter().map(|layer| layer.macs).sum(),
            params,
            nonzeros,
            layers,
            chip: None,
            fleet: None,
            smallest_chips: Vec::new(),
            compared_with: None,
        })
    }

    /// Fills in the smallest chips that it fits.
    pub fn list_chips(&mut self) {
        self.smallest_chips = Chip::smallest(self.flash_bytes, self.ram_bytes, CHIPS);
    }

    fn judge(&self, chip: &'static Chip) -> Verdict {
        let room = Room::of(chip, self);
        Verdict {
            fits: room.fits(),
            room,
        }
    }
}

impl Report for Cost {
    fn failure(&self) -> Option<String> {
        if let Some(fleet) = &self.fleet {
            return fleet.failure();
        }
        let verdict = self.chip.as_ref().filter(|verdict| !verdict.fits)?;
        let short = |what, left: i64| {
            (left < 0)
                .then(|| format!("{} bytes of {what} too few", thousands(left.unsigned_abs())))
        };
        let missing = [
            short("flash", verdict.room.flash_left),
            short("RAM", verdict.room.ram_left),
        ];
        let missing: Vec<String> = missing.into_iter().flatten().collect();
        Some(format!(
            "{} has {}: compress further, or choose a larger chip",
            verdict.room.chip.name,
            missing.join(" and ")
        ))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(["", "bytes", "of which"]);
        let bytes = |n: u64| thousands(n);
        rows.add_row(["flash".to_owned(), bytes(self.flash_bytes), String::new()]);
        rows.add_row([
            "".to_owned(),
            bytes(self.model_bytes as u64),
            "model".to_owned(),
        ]);
        rows.add_row(["".to_owned(), bytes(self.code_bytes), "code".to_owned()]);
        rows.add_row([
            "".to_owned(),
            bytes(self.constant_bytes),
            "constants".to_owned(),
        ]);
        rows.add_row([
            "".to_owned(),
            bytes(self.data_bytes),
            "initial values".to_owned(),
        ]);
        rows.add_row(["RAM".to_owned(), bytes(self.ram_bytes), String::new()]);
        rows.add_row([
            "".to_owned(),
            bytes(self.arena_bytes as u64),
            "arena".to_owned(),
        ]);
        rows.add_row([
            "".to_owned(),
            bytes(self.static_bytes),
            "statics".to_owned(),
        ]);
        rows.add_row([
            "".to_owned(),
            bytes(self.stack_bytes.into()),
            "stack, measured".to_owned(),
        ]);
        writeln!(f, "{rows}")?;
        writeln!(f, "{}", layer_table(&self.layers))?;
        writeln!(
            f,
            "{} instructions for {} MACs on {} (emulated: instructions, not cycles)",
            thousands(self.instructions),
            thousands(self.macs),
            self.board
        )?;
        if let Some(estimate) = &self.cycles {
            let basis = match estimate.basis {
                Basis::Table => "Arm's table of its core",
                Basis::CoreMark => "the Cortex-M4's table and CoreMark",
            };
            writeln!(
                f,
                "about {} to {} cycles without wait states, by {basis}: an estimate, which no board has confirmed",
                thousands(estimate.least),
                thousands(estimate.most)
            )?;
        }
        if let Some(verdict) = &self.chip {
            let word = if verdict.fits { "fits" } else { "does not fit" };
            let Chip {
                name,
                core,
                flash,
                ram,
                ..
            } = verdict.room.chip;
            write!(
                f,
                "{word} {name} ({core}, {} bytes of flash, {} of RAM)",
                bytes(*flash),
                bytes(*ram)
            )?;
        }
        if let Some(other) = &self.compared_with {
            writeln!(f, "{}", other.table(self))?;
        }
        if let Some(fleet) = &self.fleet {
            write!(f, "{fleet}")?;
        }
        if !self.smallest_chips.is_empty() {
            let mut rows = table(["smallest chips it fits", "core", "flash", "RAM"]);
            for chip in &self.smallest_chips {
                rows.add_row([
                    chip.name.clone(),
                    chip.core.to_owned(),
                    bytes(chip.flash),
                    bytes(chip.ram),
                ]);
            }
            write!(f, "{rows}")?;
        }
        Ok(())
    }
}
