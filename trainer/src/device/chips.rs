//! The Cortex-M chips that probe-rs knows, with their flash and RAM.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::LazyLock;

use glob::{MatchOptions, Pattern, PatternError};
use probe_rs::config::{self, ChipFamily, CoreType, MemoryRegion, Registry};
use serde::Serialize;

use super::board::nearest;

/// One chip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chip {
    /// probe-rs' name.
    pub name: String,
    /// The family that it belongs to.
    pub family: String,
    /// Its core.
    pub core: &'static str,
    /// The longest stretch of flash without a gap, in bytes.
    pub flash: u64,
    /// The longest stretch of RAM without a gap, in bytes. A chip whose RAM lies in pieces has more, but no arena goes
    /// across a gap.
    pub ram: u64,
    /// Its names, lower-case, with those of its packages.
    #[serde(skip)]
    names: Vec<String>,
}

/// No chip has this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no Cortex-M chip `{name}`; {}", similar(.suggestions))]
pub struct UnknownChip {
    /// What was asked for.
    pub name: String,
    /// Names like it.
    pub suggestions: Vec<&'static str>,
}

/// Names of chips, with `*`, `?` and `[...]` as in the names of files, in whatever case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChipPattern(Pattern);

impl FromStr for ChipPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Pattern::new(text).map(Self)
    }
}

impl fmt::Display for ChipPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn similar(suggestions: &[&str]) -> String {
    if suggestions.is_empty() {
        return "https://probe.rs/targets lists all that there are".to_owned();
    }
    format!("similar names are {}", suggestions.join(", "))
}

/// All chips, smallest first: RAM counts before flash, and the name decides in the end.
static CHIPS: LazyLock<Vec<Chip>> = LazyLock::new(|| {
    let registry = Registry::from_builtin_families();
    let families = registry.families().iter();
    let mut chips: Vec<Chip> = families
        .flat_map(|family| {
            family
                .variants
                .iter()
                .filter_map(|variant| Chip::of(family, variant))
        })
        .collect();
    chips.sort_by(|a, b| (a.ram, a.flash, &a.name).cmp(&(b.ram, b.flash, &b.name)));
    chips
});

impl Chip {
    /// The chip of this name, in whatever case; the name of one of its packages does, too.
    pub fn named(name: &str) -> Result<&'static Self, UnknownChip> {
        let lower = name.to_lowercase();
        let found = CHIPS.iter().find(|chip| chip.names.contains(&lower));
        found.ok_or_else(|| UnknownChip {
            name: name.to_owned(),
            suggestions: like(&lower),
        })
    }

    /// All chips, smallest first.
    pub fn all() -> &'static [Self] {
        &CHIPS
    }

    /// All chips one of whose names is like the pattern, smallest first; at least one.
    pub fn matching(pattern: &ChipPattern) -> Result<Vec<&'static Self>, UnknownChip> {
        let options = MatchOptions {
            case_sensitive: false,
            ..MatchOptions::default()
        };
        let like_it = |name: &String| pattern.0.matches_with(name, options);
        let chips: Vec<&Self> = CHIPS
            .iter()
            .filter(|chip| chip.names.iter().any(like_it))
            .collect();
        let none = || UnknownChip {
            name: pattern.to_string(),
            suggestions: like(
                pattern
                    .to_string()
                    .trim_matches('*')
                    .to_lowercase()
                    .as_str(),
            ),
        };
        (!chips.is_empty()).then_some(chips).ok_or_else(none)
    }

    /// Whether so many bytes fit.
    pub fn fits(&self, flash: u64, ram: u64) -> bool {
        self.flash >= flash && self.ram >= ram
    }

    /// The smallest chips that so many bytes fit, smallest first. Where chips of a family differ in nothing that matters
    /// here, the first by name stands for all.
    pub fn smallest(flash: u64, ram: u64, count: usize) -> Vec<&'static Self> {
        let mut smallest: Vec<&Self> = Vec::new();
        for chip in CHIPS.iter().filter(|chip| chip.fits(flash, ram)) {
            if smallest.len() == count {
                break;
            }
            if !smallest.iter().any(|other| other.is_like(chip)) {
                smallest.push(chip);
            }
        }
        smallest
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.family, self.core, self.flash, self.ram)
            == (&other.family, other.core, other.flash, other.ram)
    }

    /// What probe-rs says of a chip, if it is one to run a model on: it has a Cortex-M core, flash and RAM.
    fn of(family: &ChipFamily, variant: &config::Chip) -> Option<Self> {
        let core = variant
            .cores
            .iter()
            .find(|core| core.core_type.is_cortex_m())?;
        let regions = |pick: fn(&MemoryRegion, &str) -> Option<Range<u64>>| {
            longest(
                variant
                    .memory_map
                    .iter()
                    .filter_map(|region| pick(region, &core.name))
                    .collect(),
            )
        };
        let (flash, ram) = (regions(flash_of), regions(ram_of));
        (flash > 0 && ram > 0).then(|| Self {
            name: variant.name.clone(),
            family: family.name.clone(),
            core: core_name(core.core_type),
            flash,
            ram,
            names: variant
                .package_variants()
                .map(|name| name.to_lowercase())
                .collect(),
        })
    }
}

fn flash_of(region: &MemoryRegion, core: &str) -> Option<Range<u64>> {
    let region = region.as_nvm_region()?;
    (!region.is_alias && region.accessible_by(core)).then(|| region.range.clone())
}

fn ram_of(region: &MemoryRegion, core: &str) -> Option<Range<u64>> {
    let region = region.as_ram_region()?;
    (!region.is_alias && region.accessible_by(core)).then(|| region.range.clone())
}

/// The length of the longest stretch that the ranges cover without a gap.
fn longest(mut ranges: Vec<Range<u64>>) -> u64 {
    ranges.sort_by_key(|range| range.start);
    let mut longest = 0;
    let mut current = 0..0;
    for range in ranges {
        if range.start > current.end {
            current = range;
        } else {
            current.end = current.end.max(range.end);
        }
        longest = longest.max(current.end - current.start);
    }
    longest
}

fn core_name(core: CoreType) -> &'static str {
    match core {
        CoreType::Armv6m => "Cortex-M0/M0+",
        CoreType::Armv7m => "Cortex-M3",
        CoreType::Armv7em => "Cortex-M4/M7",
        CoreType::Armv8m => "Cortex-M23/M33/M55",
        _ => "other",
    }
}

/// Names that begin like this one, as who asks for `STM32F4` wants to see those; if none does, the most similar.
fn like(lower: &str) -> Vec<&'static str> {
    let begins = |chip: &&Chip| chip.names.iter().any(|name| name.starts_with(lower));
    let mut names: Vec<&str> = CHIPS
        .iter()
        .filter(begins)
        .map(|chip| chip.name.as_str())
        .collect();
    names.sort_unstable();
    names.truncate(5);
    if names.is_empty() {
        names.extend(nearest(lower, CHIPS.iter().map(|chip| chip.name.as_str())));
    }
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_known_chip_has_its_memory() {
        let chip = Chip::named("NRF52840_XXAA").unwrap();
        assert_eq!(
            (chip.name.as_str(), chip.core),
            ("nRF52840_xxAA", "Cortex-M4/M7")
        );
        assert_eq!((chip.flash, chip.ram), (1024 * 1024, 256 * 1024));
        assert!(chip.fits(chip.flash, chip.ram));
        assert!(!chip.fits(chip.flash + 1, 0) && !chip.fits(0, chip.ram + 1));
    }

    #[test]
    fn thousands_of_chips_are_known() {
        assert!(CHIPS.len() > 3000, "{}", CHIPS.len());
    }

    #[test]
    fn the_smallest_fit_come_in_order_and_differ() {
        let (flash, ram) = (200 * 1024, 40 * 1024);
        let chips = Chip::smallest(flash, ram, 8);
        assert_eq!(chips.len(), 8);
        assert!(chips.iter().all(|chip| chip.fits(flash, ram)));
        assert!(
            chips
                .windows(2)
                .all(|pair| pair[0].ram <= pair[1].ram && !pair[0].is_like(pair[1]))
        );
        assert_eq!(chips, Chip::smallest(flash, ram, 8));
        assert!(Chip::smallest(u64::MAX, 0, 8).is_empty());
    }

    #[test]
    fn an_unknown_name_gets_similar_ones() {
        let message = Chip::named("nrf52840").unwrap_err().to_string();
        assert!(message.contains("nRF52840_xxAA"), "{message}");
        let message = Chip::named("nRF52480_xxAA").unwrap_err().to_string();
        assert!(message.contains("nRF528"), "{message}");
        let message = Chip::named("?").unwrap_err().to_string();
        assert!(message.contains("probe.rs/targets"), "{message}");
    }

    /// Where a chip's flash is erased: the ranges of its flash algorithms, and from which address on sectors have which
    /// length.
    fn is_start_of_sector(target: &probe_rs::Target, address: u64) -> bool {
        target.flash_algorithms.iter().any(|algorithm| {
            let flash = &algorithm.flash_properties;
            let range = &flash.address_range;
            let inside = (range.start..=range.end).contains(&address);
            let sectors = flash.sectors.iter().rev();
            let offset = address.wrapping_sub(range.start);
            let sector = sectors
                .clone()
                .find(|sector| inside && sector.address <= offset);
            sector.is_some_and(|sector| (offset - sector.address).is_multiple_of(sector.size))
        })
    }

    #[test]
    fn real_boards_have_the_memory_of_their_chips() {
        use crate::device::Board;
        let registry = Registry::from_builtin_families();
        let boards = Board::names().map(|name| Board::named(name).unwrap());
        let real = boards.filter_map(|board| Some((board.probe.clone()?.chip, board)));
        for (chip, board) in real {
            let target = registry.get_target_by_name(&chip).unwrap();
            // An alias is the same memory by another address.
            let has = |flash: bool, range: Range<u64>| {
                let mut regions = target.memory_map.iter();
                regions.any(|region| {
                    let of = match flash {
                        true => region.as_nvm_region().map(|region| &region.range),
                        false => region.as_ram_region().map(|region| &region.range),
                    };
                    of.is_some_and(|of| of.start <= range.start && range.end <= of.end)
                })
            };
            let [flash, model, ram] = [&board.flash, &board.model, &board.ram]
                .map(|region| u64::from(region.address)..region.end());
            assert!(has(true, flash.start..flash.end), "{}: flash", board.name);
            assert!(has(true, model.start..model.end), "{}: model", board.name);
            assert!(has(false, ram), "{}: RAM", board.name);
            let middle = u64::midpoint(model.start, model.end);
            for address in [flash.start, model.start, middle, model.end] {
                let is = is_start_of_sector(&target, address);
                assert!(is, "{}: {address:#x} lies within a sector", board.name);
            }
            for address in [model.start + 0x800, middle - 0x800] {
                assert!(!is_start_of_sector(&target, address), "is the test blind?");
            }
        }
    }

    #[test]
    fn a_pattern_finds_a_fleet() {
        let chips = Chip::matching(&"stm32l4r5*".parse().unwrap()).unwrap();
        assert!(chips.len() > 5);
        assert!(chips.iter().all(|chip| chip.name.starts_with("STM32L4R5")));
        assert_eq!(
            Chip::matching(&"*".parse().unwrap()).unwrap().len(),
            CHIPS.len()
        );
        let message = Chip::matching(&"STM32L9*".parse().unwrap()).unwrap_err();
        let message = message.to_string();
        assert!(
            message.contains("`STM32L9*`") && message.contains("STM32L"),
            "{message}"
        );
        assert!("[".parse::<ChipPattern>().is_err());
    }

    #[test]
    fn memory_in_pieces_counts_by_its_longest() {
        assert_eq!(longest(vec![100..164, 0..32, 32..40]), 64);
        assert_eq!(longest(vec![32..72, 0..32]), 72);
        assert_eq!(longest(vec![]), 0);
    }
}
