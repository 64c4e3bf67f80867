//! The debug probes of this machine and what hangs on them, through probe-rs. Nobody has tried this file on hardware.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use probe_rs::architecture::arm::{ArmError, DapError};
use probe_rs::config::TargetSelector;
use probe_rs::flashing::{self, DownloadOptions, FlashError, FlashProgress};
use probe_rs::probe::list::{Accessibility, Lister};
use probe_rs::probe::{DebugProbeError, DebugProbeSelector, Probe};
use probe_rs::{Core, MemoryInterface, Permissions, Session, Target};

use super::link::{Found, Link, LinkError, Probes, Registers};

/// How long a core may take to halt.
const HALT: Duration = Duration::from_secs(1);

/// The probes on this machine's USB.
#[derive(Clone, Copy, Debug)]
pub struct Usb;

impl Probes for Usb {
    fn list(&self) -> Vec<Found> {
        let probes = Lister::new().list_all_with_access();
        let found = probes.into_iter().map(|probe| Found {
            name: probe.info.to_string(),
            vendor_id: probe.info.vendor_id,
            product_id: probe.info.product_id,
            interface: probe.info.interface,
            serial_number: probe.info.serial_number,
            permitted: probe.accessibility == Accessibility::Accessible,
        });
        found.collect()
    }

    fn attach(&self, probe: &Found, chip: &str) -> Result<Box<dyn Link>, LinkError> {
        // A probe is used up by an attempt. Where the chip can not be asked, the attempt by its name says why.
        let asked = open(probe)?.attach(TargetSelector::Auto, Permissions::new());
        let chip_found = asked.ok().map(|session| session.target().name.clone());
        let session = open(probe)?.attach(chip, Permissions::new());
        Ok(Box::new(Attached {
            session: session.map_err(link_error)?,
            chip: chip_found,
        }))
    }
}

fn open(probe: &Found) -> Result<Probe, LinkError> {
    let selector = DebugProbeSelector {
        vendor_id: probe.vendor_id,
        product_id: probe.product_id,
        interface: probe.interface,
        serial_number: probe.serial_number.clone(),
    };
    let opened = Lister::new().open(selector);
    opened.map_err(|error| LinkError::Lost(chain(&error)))
}

/// A chip that probe-rs is attached to.
struct Attached {
    session: Session,
    chip: Option<String>,
}

impl Attached {
    fn core(&mut self) -> Result<Core<'_>, LinkError> {
        self.session.core(0).map_err(link_error)
    }
}

impl Link for Attached {
    fn chip(&self) -> Option<&str> {
        self.chip.as_deref()
    }

    fn sector(&self, address: u64) -> Option<Range<u64>> {
        sector(self.session.target(), address)
    }

    fn erase(&mut self, sectors: Range<u64>) -> Result<(), LinkError> {
        let mut silent = FlashProgress::empty();
        let Range { start, end } = sectors;
        flashing::erase(&mut self.session, &mut silent, start, end, false).map_err(flash_error)
    }

    fn program(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let mut loader = self.session.target().flash_loader();
        loader.add_data(address, bytes).map_err(flash_error)?;
        let mut options = DownloadOptions::new();
        options.skip_erase = true;
        let done = loader.commit(&mut self.session, options);
        done.map_err(flash_error)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        let done = self.core()?.read(address, bytes);
        done.map_err(|error| access_error(address, error))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let done = self.core()?.write(address, bytes);
        done.map_err(|error| access_error(address, error))
    }

    fn reset_and_halt(&mut self) -> Result<(), LinkError> {
        self.core()?.reset_and_halt(HALT).map_err(link_error)?;
        Ok(())
    }

    fn run(&mut self) -> Result<(), LinkError> {
        self.core()?.run().map_err(link_error)
    }

    fn halt(&mut self) -> Result<(), LinkError> {
        self.core()?.halt(HALT).map_err(link_error)?;
        Ok(())
    }

    fn is_halted(&mut self) -> Result<bool, LinkError> {
        self.core()?.core_halted().map_err(link_error)
    }

    fn registers(&mut self) -> Result<Registers, LinkError> {
        let mut core = self.core()?;
        let (pc, lr, sp) = (
            core.program_counter(),
            core.return_address(),
            core.stack_pointer(),
        );
        Ok(Registers {
            pc: core.read_core_reg(pc).map_err(link_error)?,
            lr: core.read_core_reg(lr).map_err(link_error)?,
            sp: core.read_core_reg(sp).map_err(link_error)?,
        })
    }
}

/// The erase sector of a chip's flash that holds an address, as its flash algorithm has it. That is made for the largest
/// chip of a family: what there is of it, the memory map says.
fn sector(target: &Target, address: u64) -> Option<Range<u64>> {
    let mut flash = target.memory_map.iter().filter_map(|it| it.as_nvm_region());
    flash.find(|region| region.range.contains(&address))?;
    let algorithms = target.flash_algorithms.iter();
    let here = algorithms.filter(|it| it.flash_properties.address_range.contains(&address));
    // The one that probe-rs takes, if there are several.
    let flash = &here.min_by_key(|it| !it.default)?.flash_properties;
    let offset = address - flash.address_range.start;
    let mut kinds = flash.sectors.iter();
    let kind = kinds.rfind(|kind| kind.address <= offset)?;
    let start = address - (offset - kind.address) % kind.size;
    Some(start..start + kind.size)
}

fn link_error(error: probe_rs::Error) -> LinkError {
    let missing = |error: &ArmError| matches!(error, ArmError::MissingPermissions(_));
    let locked = matches!(error, probe_rs::Error::MissingPermissions(_)) || find(&error, missing);
    match locked {
        true => LinkError::Locked(chain(&error)),
        false => LinkError::Lost(chain(&error)),
    }
}

/// The chip refuses an address with a FAULT, and goes on to answer.
fn access_error(address: u64, error: probe_rs::Error) -> LinkError {
    let refused = |error: &DapError| matches!(error, DapError::FaultResponse);
    match find(&error, refused) {
        true => LinkError::Fault {
            address,
            reason: chain(&error),
        },
        false => link_error(error),
    }
}

/// A probe that is gone is no fault of the flash.
fn flash_error(error: FlashError) -> LinkError {
    match find(&error, |_: &DebugProbeError| true) {
        true => LinkError::Lost(chain(&error)),
        false => LinkError::Flash(chain(&error)),
    }
}

/// Whether an error of this type lies at the bottom of it, or in between.
fn find<E: Error + 'static>(error: &(dyn Error + 'static), is: impl Fn(&E) -> bool) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(&is))
}

/// What an error says, and all that it is caused by.
fn chain(error: &(dyn Error + 'static)) -> String {
    let all: Vec<String> = causes(error).map(ToString::to_string).collect();
    all.join(": ")
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use probe_rs::config::Registry;

    use super::*;

    fn sectors(chip: &str, flash: Range<u64>) -> Vec<u64> {
        let target = Registry::from_builtin_families().get_target_by_name(chip);
        let target = target.unwrap();
        let mut lengths = Vec::new();
        let mut address = flash.start;
        while address < flash.end {
            // Any address of it will do.
            let found = sector(&target, address).unwrap();
            assert_eq!(sector(&target, found.end - 1), Some(found.clone()));
            assert_eq!(found.start, address);
            lengths.push(found.end - found.start);
            address = found.end;
        }
        assert_eq!(sector(&target, flash.end), None);
        lengths
    }

    #[test]
    fn sectors_are_those_of_the_chip() {
        // RM0390, "Flash module organization".
        let f446 = [16, 16, 16, 16, 64, 128, 128, 128].map(|kib: u64| kib << 10);
        assert_eq!(sectors("STM32F446RETx", 0x0800_0000..0x0808_0000), f446);
        let nrf = sectors("nRF52840_xxAA", 0..0x10_0000);
        assert_eq!(nrf, [0x1000; 256]);
    }

    #[test]
    fn an_error_is_what_lies_at_the_bottom_of_it() {
        let usb = || DebugProbeError::Usb(std::io::Error::other("gone"));
        let core = FlashError::Core(probe_rs::Error::Probe(usb()));
        assert!(matches!(flash_error(core), LinkError::Lost(why) if why.contains("gone")));
        let page = FlashError::PageWrite {
            page_address: 0,
            source: Box::new(FlashError::Verify),
        };
        assert!(matches!(flash_error(page), LinkError::Flash(_)));
        let missing = || ArmError::MissingPermissions("erase_all".to_owned());
        let locked = link_error(probe_rs::Error::Arm(missing()));
        assert!(matches!(locked, LinkError::Locked(why) if why.contains("erase_all")));
        let fault = probe_rs::Error::Arm(ArmError::Dap(DapError::FaultResponse));
        assert!(matches!(
            access_error(4, fault),
            LinkError::Fault { address: 4, .. }
        ));
        let gone = access_error(4, probe_rs::Error::Probe(usb()));
        assert!(matches!(gone, LinkError::Lost(_)));
    }
}
