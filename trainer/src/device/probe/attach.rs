//! Which probe, and whether the chip behind it is the board's.

use std::str::FromStr;

use probe_rs::probe::DebugProbeSelector;

use super::error::ProbeError;
use super::link::{Found, Link, LinkError, Probes};
use crate::device::board::Board;
use crate::device::chips::Chip;

/// Attaches to the board's chip through the only probe that fits the selector.
pub(super) fn attach(
    probes: &dyn Probes,
    selector: Option<&str>,
    board: &Board,
) -> Result<Box<dyn Link>, ProbeError> {
    let probe = board.probe.as_ref();
    let name = &probe.ok_or(ProbeError::NotReal(board.name))?.chip;
    let unknown = |source| ProbeError::UnknownChip {
        board: board.name,
        source,
    };
    let chip = Chip::named(name).map_err(unknown)?;
    let found = choose(probes.list(), selector)?;
    if !found.permitted {
        return Err(ProbeError::Denied(found.name));
    }
    let attached = probes.attach(&found, name);
    let mut link = attached.map_err(|error| refused(error, board, name))?;
    check_chip(&mut *link, board, chip)?;
    Ok(link)
}

fn refused(error: LinkError, board: &Board, chip: &str) -> ProbeError {
    match error {
        LinkError::Locked(reason) => ProbeError::Locked {
            board: board.name,
            chip: chip.to_owned(),
            reason,
        },
        other => ProbeError::NoAnswer {
            board: board.name,
            reason: other.to_string(),
        },
    }
}

/// The only one that fits.
fn choose(probes: Vec<Found>, selector: Option<&str>) -> Result<Found, ProbeError> {
    let wanted = selector.map(|text| {
        DebugProbeSelector::from_str(text).map_err(|_| ProbeError::Selector(text.to_owned()))
    });
    let wanted = wanted.transpose()?;
    let (mut fitting, others): (Vec<Found>, Vec<Found>) = probes
        .into_iter()
        .partition(|probe| wanted.as_ref().is_none_or(|wanted| fits(wanted, probe)));
    let names = |probes: Vec<Found>| probes.into_iter().map(|probe| probe.name).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            fitting.push(last);
            Err(ProbeError::ManyProbes(names(fitting)))
        }
        (None, _) => Err(ProbeError::NoProbe {
            chosen: selector.map(str::to_owned),
            connected: names(others),
        }),
    }
}

fn fits(wanted: &DebugProbeSelector, probe: &Found) -> bool {
    let serial = probe.serial_number.as_deref().unwrap_or_default();
    (wanted.vendor_id, wanted.product_id) == (probe.vendor_id, probe.product_id)
        && (wanted.interface.is_none() || wanted.interface == probe.interface)
        && (wanted.serial_number.as_deref()).is_none_or(|wanted| wanted == serial)
}

/// Asks the chip what it is, as far as its vendor lets it answer, and its core.
fn check_chip(link: &mut dyn Link, board: &Board, chip: &Chip) -> Result<(), ProbeError> {
    let wrong = |expected: &str, found: &str| ProbeError::WrongChip {
        board: board.name,
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    if let Some(found) = link.chip() {
        // Chips that differ in their package only have one answer.
        let same =
            Chip::named(found).is_ok_and(|found| found.name == chip.name || found.is_like(chip));
        if !same {
            return Err(wrong(&chip.name, found));
        }
    }
    let cpuid = link.read_u32(CPUID).map_err(ProbeError::Lost)?;
    let expected = board.core.trim_end_matches('F');
    match core(cpuid) {
        Some(found) if found != expected => Err(wrong(expected, found)),
        _ => Ok(()),
    }
}

/// Where every Cortex-M says which core it is (Armv7-M Architecture Reference Manual, B3.2.3).
const CPUID: u64 = 0xE000_ED00;

/// The part number in bits 4 to 15, from the cores' technical reference manuals.
fn core(cpuid: u32) -> Option<&'static str> {
    let cores = [
        (0xC20, "Cortex-M0"),
        (0xC60, "Cortex-M0+"),
        (0xC23, "Cortex-M3"),
        (0xC24, "Cortex-M4"),
        (0xC27, "Cortex-M7"),
        (0xD20, "Cortex-M23"),
        (0xD21, "Cortex-M33"),
        (0xD22, "Cortex-M55"),
    ];
    let part = cpuid >> 4 & 0xFFF;
    cores.iter().find(|core| core.0 == part).map(|core| core.1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn probe(name: &str, vendor_id: u16, serial: &str) -> Found {
        Found {
            name: name.to_owned(),
            vendor_id,
            product_id: 0x1015,
            interface: None,
            serial_number: Some(serial.to_owned()),
            permitted: true,
        }
    }

    fn probes() -> Vec<Found> {
        vec![
            probe("J-Link", 0x1366, "1"),
            probe("J-Link", 0x1366, "2"),
            probe("DAPLink", 0x0D28, "3"),
        ]
    }

    #[test]
    fn the_only_probe_that_fits_is_taken() {
        assert_eq!(choose(probes().split_off(2), None).unwrap().name, "DAPLink");
        assert_eq!(choose(probes(), Some("0d28:1015")).unwrap().name, "DAPLink");
        let second = choose(probes(), Some("1366:1015:2")).unwrap();
        assert_eq!(second.serial_number.as_deref(), Some("2"));
    }

    #[test]
    fn of_several_probes_those_that_fit_are_named() {
        let Err(ProbeError::ManyProbes(names)) = choose(probes(), Some("1366:1015")) else {
            unreachable!("two fit")
        };
        assert_eq!(names, ["J-Link", "J-Link"]);
    }

    #[test]
    fn cores_are_known_by_their_part() {
        assert_eq!(core(0x410F_C241), Some("Cortex-M4"));
        assert_eq!(core(0x410C_C601), Some("Cortex-M0+"));
        assert_eq!(core(0), None);
    }
}
