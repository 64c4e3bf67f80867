//! Which of many chips take a model, and what is left on each.

use std::fmt;

use bytesize::ByteSize;
use clap::Args;
use espalier::device::chips::{Chip, ChipPattern};
use serde::Serialize;

use super::Cost;
use crate::cmd::Error;
use crate::output::{table, thousands};

/// Flags that choose chips.
#[derive(Args)]
pub struct FleetFlags {
    /// List every chip of probe-rs's database whose name is like this, such as "STM32L4*"
    #[arg(long, value_name = "PATTERN", conflicts_with = "chip")]
    chips: Option<ChipPattern>,
    /// Of those, only chips with so much RAM left, such as 16KiB
    #[arg(long, value_name = "SIZE", requires = "chips", default_value = "0")]
    min_free_ram: ByteSize,
    /// Of those, only chips with so much flash left
    #[arg(long, value_name = "SIZE", requires = "chips", default_value = "0")]
    min_free_flash: ByteSize,
}

/// The chips of a pattern.
#[derive(Serialize)]
pub struct Fleet {
    pattern: String,
    /// Chips whose name is like the pattern.
    matching: usize,
    min_free_flash: u64,
    min_free_ram: u64,
    /// Those that take the model with so much left, smallest first.
    fitting: Vec<Room>,
}

/// What a model leaves of a chip; less than 0 where it does not fit.
#[derive(Serialize)]
pub struct Room {
    #[serde(flatten)]
    pub chip: &'static Chip,
    pub flash_left: i64,
    pub ram_left: i64,
}

impl Room {
    /// What is left of a chip.
    pub fn of(chip: &'static Chip, cost: &Cost) -> Self {
        let left = |has: u64, needs: u64| has as i64 - needs as i64;
        Self {
            chip,
            flash_left: left(chip.flash, cost.flash_bytes),
            ram_left: left(chip.ram, cost.ram_bytes),
        }
    }

    /// Whether at least so many bytes are left.
    fn leaves(&self, flash: u64, ram: u64) -> bool {
        let at_least = |left: i64, bytes| u64::try_from(left).is_ok_and(|left| left >= bytes);
        at_least(self.flash_left, flash) && at_least(self.ram_left, ram)
    }

    /// Whether the model fits.
    pub fn fits(&self) -> bool {
        self.leaves(0, 0)
    }
}

impl FleetFlags {
    /// The chips that are asked for, before anything is measured.
    pub fn chips(&self) -> Result<Option<Vec<&'static Chip>>, Error> {
        Ok(self.chips.as_ref().map(Chip::matching).transpose()?)
    }

    /// Those that take the model.
    pub fn judge(&self, chips: Vec<&'static Chip>, cost: &Cost) -> Fleet {
        let (flash, ram) = (self.min_free_flash.as_u64(), self.min_free_ram.as_u64());
        let rooms = chips.iter().map(|chip| Room::of(chip, cost));
        Fleet {
            pattern: self
                .chips
                .as_ref()
                .map_or(String::new(), ToString::to_string),
            matching: chips.len(),
            min_free_flash: flash,
            min_free_ram: ram,
            fitting: rooms.filter(|room| room.leaves(flash, ram)).collect(),
        }
    }
}

impl Fleet {
    /// Why the model is not for these chips, if it is for none.
    pub fn failure(&self) -> Option<String> {
        let free = |bytes: u64, what| {
            (bytes > 0).then(|| format!(" with {} bytes of {what} left", thousands(bytes)))
        };
        let asked = free(self.min_free_flash, "flash").into_iter();
        let asked: String = asked.chain(free(self.min_free_ram, "RAM")).collect();
        self.fitting.is_empty().then(|| {
            format!(
                "none of the {} chips like {} takes the model{asked}: compress further, or choose larger chips",
                self.matching, self.pattern
            )
        })
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(["chip", "core", "flash", "left", "RAM", "left"]);
        let bytes = |left: i64| thousands(left.unsigned_abs());
        for Room {
            chip,
            flash_left,
            ram_left,
        } in &self.fitting
        {
            rows.add_row([
                chip.name.clone(),
                chip.core.to_owned(),
                thousands(chip.flash),
                bytes(*flash_left),
                thousands(chip.ram),
                bytes(*ram_left),
            ]);
        }
        if !self.fitting.is_empty() {
            writeln!(f, "{rows}")?;
        }
        write!(
            f,
            "{} of {} chips like {} take it",
            self.fitting.len(),
            self.matching,
            self.pattern
        )
    }
}
