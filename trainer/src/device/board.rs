//! The boards that the firmware knows.

use serde::Deserialize;
use shared::slots::Slots;

macro_rules! board {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../firmware/boards/", $name, "/board.toml")),
        )
    };
}

/// Each board's name and its `board.toml`. The firmware's build script reads the same files.
const BOARDS: &[(&str, &str)] = &[
    board!("microbit"),
    board!("microbit-v2"),
    board!("mps2-an385"),
    board!("mps2-an386"),
    board!("mps2-an500"),
    board!("mps2-an505"),
    board!("mps3-an547"),
    board!("nrf52840-dk"),
    board!("nucleo-f446re"),
    board!("nucleo-l4r5zi"),
    board!("pico"),
    board!("pico2"),
    board!("stm32f411-disco"),
];

/// One board, as its `board.toml` has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name of its folder and of the firmware's feature.
    #[serde(skip)]
    pub name: &'static str,
    /// The core in words, such as `Cortex-M4F`.
    pub core: String,
    /// Rust's name for the target.
    pub target: String,
    /// What the compiler optimises for.
    pub cpu: String,
    /// Ticks of SysTick in a second: on a chip, the core's clock.
    pub systick_hz: u64,
    /// What its boot ROM wants to find in flash, if anything.
    pub boot: Option<Boot>,
    /// What resets it when it hangs, if anything.
    pub watchdog: Option<Watchdog>,
    /// Bytes of RAM kept for the stack.
    pub stack: u32,
    /// Bytes of RAM kept for the model's activations.
    pub arena: u32,
    /// Flash for the firmware itself.
    pub flash: Region,
    /// Flash for models, two slots: see `shared::slots`.
    pub model: Region,
    /// All RAM.
    pub ram: Region,
    /// How to emulate it.
    pub emulator: Option<Emulator>,
    /// How to reach it through a debug probe.
    pub probe: Option<Probe>,
}

/// What a boot ROM wants to find before the firmware; `firmware/src/board/boot.rs` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// A second-stage boot loader in the first 256 bytes of flash.
    Rp2040,
    /// An image definition block behind the table of vectors.
    Rp2350,
}

/// A kind of watchdog; `firmware/src/board/watchdog.rs` drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watchdog {
    /// WDT of the nRF52.
    Nrf52,
    /// IWDG of the STM32F4 and L4.
    Stm32,
}

/// A stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its first byte.
    pub address: u32,
    /// Its length.
    pub bytes: u32,
}

impl Region {
    /// The first address behind it.
    pub fn end(&self) -> u64 {
        u64::from(self.address) + u64::from(self.bytes)
    }
}

/// A board that QEMU knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulator {
    /// QEMU's name for it.
    pub machine: String,
}

/// A board with a debug probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// probe-rs' name for its chip.
    pub chip: String,
}

/// Why there is no such board, or why it does not do.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// No board has this name.
    #[error("there is no board `{name}`; {}the boards are {known}; docs/adding-a-board.md says how to add one", did_you_mean(.suggestion))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The most similar name, if one is similar.
        suggestion: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// Its file is wrong.
    #[error("firmware/boards/{name}/board.toml: {source}")]
    Invalid {
        /// The board.
        name: &'static str,
        /// What is wrong in the file.
        source: Box<toml::de::Error>,
    },
    /// The model's file is too long.
    #[error(
        "the model takes {needed} bytes of flash and each of the two slots of {board} has {available}: compress further, or choose a larger board"
    )]
    ModelTooLong {
        /// The board.
        board: &'static str,
        /// Bytes of the file.
        needed: u64,
        /// Bytes that a slot has for it.
        available: u64,
    },
    /// The model's activations are too large.
    #[error(
        "the model's activations take {needed} bytes of RAM and {board} has {available} for them: compress further, or choose a larger board"
    )]
    ArenaTooSmall {
        /// The board.
        board: &'static str,
        /// Bytes of arena the model needs.
        needed: u64,
        /// Bytes of arena the board has.
        available: u32,
    },
}

fn did_you_mean(suggestion: &Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("did you mean `{name}`? "))
}

impl Board {
    /// The names of all boards, sorted.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BOARDS.iter().map(|(name, _)| *name)
    }

    /// The board of this name.
    pub fn named(name: &str) -> Result<Self, BoardError> {
        let found = BOARDS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (name, text) = *found.ok_or_else(|| BoardError::Unknown {
            name: name.to_owned(),
            suggestion: nearest(name, Self::names()),
            known: Self::names().collect::<Vec<_>>().join(", "),
        })?;
        let invalid = |source| BoardError::Invalid {
            name,
            source: Box::new(source),
        };
        Ok(Self {
            name,
            ..toml::from_str(text).map_err(invalid)?
        })
    }

    /// Refuses a model that this board has no room for.
    pub fn admit(&self, model_bytes: usize, arena_bytes: usize) -> Result<(), BoardError> {
        self.admit_file(model_bytes)?;
        if arena_bytes as u64 > self.arena.into() {
            let needed = arena_bytes as u64;
            return Err(BoardError::ArenaTooSmall {
                board: self.name,
                needed,
                available: self.arena,
            });
        }
        Ok(())
    }

    /// Refuses a model's file that is longer than a slot.
    pub fn admit_file(&self, model_bytes: usize) -> Result<(), BoardError> {
        let capacity = self.slots().capacity();
        if model_bytes > capacity {
            return Err(BoardError::ModelTooLong {
                board: self.name,
                needed: model_bytes as u64,
                available: capacity as u64,
            });
        }
        Ok(())
    }

    /// Where models lie in the region for them.
    pub fn slots(&self) -> Slots {
        Slots::new(self.model.bytes as usize)
    }

    /// What a count of ticks means: in the emulator instructions, each of which takes one nanosecond there; on a chip
    /// cycles, which are the ticks themselves.
    pub fn work(&self, ticks: u64) -> u64 {
        if self.emulator.is_none() {
            return ticks;
        }
        let instructions = u128::from(ticks) * 1_000_000_000 / u128::from(self.systick_hz.max(1));
        u64::try_from(instructions).unwrap_or(u64::MAX)
    }
}

/// The most similar of some names, if any is similar.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    names
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use shared::slots::PAGE_BYTES;

    use super::*;

    fn all() -> Vec<Board> {
        Board::names()
            .map(|name| Board::named(name).unwrap())
            .collect()
    }

    fn firmware() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware")
    }

    #[test]
    fn the_list_is_what_lies_in_the_folder() {
        let mut folders: Vec<String> = std::fs::read_dir(firmware().join("boards"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        folders.sort();
        assert_eq!(Board::names().collect::<Vec<_>>(), folders);
    }

    #[test]
    fn every_board_has_a_feature_of_its_family() {
        let manifest = std::fs::read_to_string(firmware().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for board in all() {
            let family = if board.emulator.is_some() {
                "emulated"
            } else {
                "hardware"
            };
            assert_eq!(
                manifest["features"][board.name][0].as_str(),
                Some(family),
                "{}",
                board.name
            );
        }
    }

    #[test]
    fn every_board_is_either_emulated_or_real() {
        for board in all() {
            assert_ne!(
                board.emulator.is_some(),
                board.probe.is_some(),
                "{}",
                board.name
            );
        }
    }

    #[test]
    fn memory_fits_and_does_not_overlap() {
        for board in all() {
            let Board {
                flash, model, ram, ..
            } = &board;
            assert!(flash.end() <= model.address.into(), "{}", board.name);
            assert!(
                model.end() <= u64::from(u32::MAX) && ram.end() <= u64::from(u32::MAX),
                "{}",
                board.name
            );
            assert!(board.stack + board.arena < ram.bytes, "{}", board.name);
            assert_eq!(
                (board.stack % 8, ram.address % 8, model.address % 16),
                (0, 0, 0),
                "{}",
                board.name
            );
        }
    }

    #[test]
    fn slots_are_whole_pages() {
        for board in all() {
            assert_eq!(
                board.model.bytes as usize % (2 * PAGE_BYTES),
                0,
                "{}",
                board.name
            );
        }
    }

    #[test]
    fn a_typing_error_gets_the_nearest_name() {
        let message = Board::named("mps2-an368").unwrap_err().to_string();
        assert!(message.contains("did you mean `mps2-an386`?"), "{message}");
        let message = Board::named("toaster").unwrap_err().to_string();
        assert!(
            !message.contains("did you mean") && message.contains("nrf52840-dk"),
            "{message}"
        );
    }

    #[test]
    fn a_model_that_is_too_large_is_refused() {
        let board = Board::named("microbit").unwrap();
        let (slot, arena) = (0x3_0000 / 2 - PAGE_BYTES, board.arena as usize);
        assert!(board.admit(slot, arena).is_ok());
        assert!(matches!(
            board.admit(slot + 1, 0),
            Err(BoardError::ModelTooLong { .. })
        ));
        assert!(matches!(
            board.admit(0, arena + 1),
            Err(BoardError::ArenaTooSmall { .. })
        ));
    }

    #[test]
    fn ticks_become_instructions_or_cycles() {
        assert_eq!(Board::named("mps2-an386").unwrap().work(3), 120);
        assert_eq!(Board::named("microbit").unwrap().work(2), 125);
        assert_eq!(Board::named("nrf52840-dk").unwrap().work(3), 3);
    }
}
