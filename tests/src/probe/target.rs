//! A chip on a probe: flash with sectors, RAM, a core that runs the [`Firmware`], and a cable that can be pulled.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use espalier::device::Board;
use espalier::device::probe::link::{Found, Link, LinkError, Probes, Registers};

use super::firmware::{Bug, Firmware, Stepped};

const RAM: u64 = 0x2000_0000;
const SECTOR: u64 = 0x1000;
const CPUID: u64 = 0xE000_ED00;

/// RAM of 256 KiB.
#[derive(Debug)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// Bytes at an address.
    pub fn get(&self, address: u64, count: usize) -> &[u8] {
        let at = (address - RAM) as usize;
        &self.0[at..at + count]
    }

    /// Sets bytes at an address.
    pub fn set(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - RAM) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A number.
    pub fn word(&self, address: u64) -> u32 {
        let bytes = self.get(address, 4).first_chunk().copied();
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    /// Sets a number.
    pub fn set_word(&mut self, address: u64, value: u32) {
        self.set(address, &value.to_le_bytes());
    }
}

/// What is wrong with a target, its firmware aside.
#[derive(Clone, Debug, Default)]
pub struct Wrong {
    /// What the chip says that it is.
    pub chip: Option<&'static str>,
    /// What its core says that it is.
    pub cpuid: Option<u32>,
    /// Debuggers are kept out.
    pub locked: bool,
    /// Debuggers are kept out of the flash.
    pub flash_locked: bool,
    /// Flash does not take what is written.
    pub worn: bool,
    /// Flash refuses to be written.
    pub write_protected: bool,
    /// The cable is pulled at this operation of the flash, from 0.
    pub pulled_at_flash: Option<usize>,
    /// The cable is pulled at this access to memory after the start, from 0.
    pub pulled_at_access: Option<usize>,
    /// What the firmware does not do.
    pub bug: Option<Bug>,
}

/// The chip.
#[derive(Debug)]
pub struct Target {
    flash: Vec<u8>,
    ram: Memory,
    model: Range<usize>,
    running: bool,
    firmware: Firmware,
    /// What is wrong just now.
    pub wrong: Wrong,
    /// Erases and programs so far.
    pub flash_operations: usize,
    accesses: usize,
}

impl Target {
    /// A chip with empty flash, of this board.
    pub fn new(board: &Board, wrong: Wrong) -> Self {
        let model = board.model.address as usize;
        Self {
            flash: vec![0xFF; 0x10_0000],
            ram: Memory(vec![0xA5; 0x4_0000]),
            model: model..model + board.model.bytes as usize,
            running: false,
            firmware: Firmware::new(wrong.bug),
            wrong,
            flash_operations: 0,
            accesses: 0,
        }
    }

    /// What its flash holds.
    pub fn flash(&self) -> &[u8] {
        &self.flash
    }

    /// Its RAM.
    pub fn ram(&self) -> &Memory {
        &self.ram
    }

    /// Whether the core runs.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Starts the firmware as power does.
    pub fn power_up(&mut self) {
        self.firmware = Firmware::new(self.wrong.bug);
        self.running = true;
    }

    fn step(&mut self) {
        if !self.running {
            return;
        }
        let model = &self.flash[self.model.clone()];
        match self.firmware.step(&mut self.ram, model) {
            Stepped::Running => {}
            Stepped::Reset => self.firmware = Firmware::new(self.wrong.bug),
            Stepped::Halted => self.running = false,
        }
    }

    fn connected(&mut self) -> Result<(), LinkError> {
        if self.running {
            self.accesses += 1;
        }
        let pulled = (self.wrong.pulled_at_access).is_some_and(|at| self.accesses > at)
            || (self.wrong.pulled_at_flash).is_some_and(|at| self.flash_operations > at);
        match pulled {
            true => Err(LinkError::Lost("USB Communication Error".to_owned())),
            false => Ok(()),
        }
    }

    fn operate(&mut self) -> Result<(), LinkError> {
        self.flash_operations += 1;
        self.connected()?;
        match self.wrong.write_protected {
            true => Err(LinkError::Flash("the page write failed".to_owned())),
            false => Ok(()),
        }
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        self.connected()?;
        self.step();
        let end = address + bytes.len() as u64;
        let fault = || LinkError::Fault {
            address,
            reason: "Target device responded with a FAULT response to the request.".to_owned(),
        };
        if address == CPUID {
            let cpuid = self.wrong.cpuid.unwrap_or(0x410F_C241);
            bytes.copy_from_slice(&cpuid.to_le_bytes());
        } else if address >= RAM {
            bytes.copy_from_slice(self.ram.get(address, bytes.len()));
        } else if self.wrong.flash_locked {
            return Err(fault());
        } else {
            let range = address as usize..end as usize;
            bytes.copy_from_slice(self.flash.get(range).ok_or_else(fault)?);
        }
        Ok(())
    }
}

/// The probes on the desk, each with the same target.
#[derive(Debug)]
pub struct Desk {
    /// The probes.
    pub probes: Vec<Found>,
    /// The target.
    pub target: Rc<RefCell<Target>>,
}

impl Desk {
    /// One probe and one target.
    pub fn new(board: &Board, wrong: Wrong) -> Self {
        Self {
            probes: vec![probe("1050123456")],
            target: Rc::new(RefCell::new(Target::new(board, wrong))),
        }
    }
}

/// A probe with this serial number.
pub fn probe(serial: &str) -> Found {
    Found {
        name: format!("J-Link -- 1366:1015:{serial}"),
        vendor_id: 0x1366,
        product_id: 0x1015,
        interface: None,
        serial_number: Some(serial.to_owned()),
        permitted: true,
    }
}

impl Probes for Desk {
    fn list(&self) -> Vec<Found> {
        self.probes.clone()
    }

    fn attach(&self, _: &Found, chip: &str) -> Result<Box<dyn Link>, LinkError> {
        let wrong = self.target.borrow().wrong.clone();
        if wrong.locked {
            let why = "An operation was not performed because the required permissions were not given: erase_all";
            return Err(LinkError::Locked(why.to_owned()));
        }
        Ok(Box::new(Wire {
            chip: wrong.chip.unwrap_or(chip).to_owned(),
            target: Rc::clone(&self.target),
        }))
    }
}

/// A probe that is attached.
struct Wire {
    chip: String,
    target: Rc<RefCell<Target>>,
}

impl Link for Wire {
    fn chip(&self) -> Option<&str> {
        Some(&self.chip)
    }

    fn sector(&self, address: u64) -> Option<Range<u64>> {
        let start = address / SECTOR * SECTOR;
        (address < self.target.borrow().flash.len() as u64).then_some(start..start + SECTOR)
    }

    fn erase(&mut self, sectors: Range<u64>) -> Result<(), LinkError> {
        assert_eq!((sectors.start % SECTOR, sectors.end % SECTOR), (0, 0));
        let mut target = self.target.borrow_mut();
        assert!(!target.running, "flash is erased under a running firmware");
        target.operate()?;
        target.flash[sectors.start as usize..sectors.end as usize].fill(0xFF);
        Ok(())
    }

    fn program(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let mut target = self.target.borrow_mut();
        assert!(!target.running, "flash is written under a running firmware");
        target.operate()?;
        let worn = target.wrong.worn;
        let place = &mut target.flash[address as usize..address as usize + bytes.len()];
        assert!(
            place.iter().all(|&byte| byte == 0xFF),
            "flash is written that is not erased"
        );
        place.copy_from_slice(bytes);
        if worn {
            place[0] ^= 1;
        }
        Ok(())
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        self.target.borrow_mut().read(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let mut target = self.target.borrow_mut();
        target.connected()?;
        target.ram.set(address, bytes);
        target.step();
        Ok(())
    }

    fn reset_and_halt(&mut self) -> Result<(), LinkError> {
        let mut target = self.target.borrow_mut();
        target.connected()?;
        target.power_up();
        target.running = false;
        Ok(())
    }

    fn run(&mut self) -> Result<(), LinkError> {
        let mut target = self.target.borrow_mut();
        target.connected()?;
        target.running = true;
        Ok(())
    }

    fn halt(&mut self) -> Result<(), LinkError> {
        let mut target = self.target.borrow_mut();
        target.connected()?;
        target.running = false;
        Ok(())
    }

    fn is_halted(&mut self) -> Result<bool, LinkError> {
        let mut target = self.target.borrow_mut();
        target.connected()?;
        target.step();
        Ok(!target.running)
    }

    fn registers(&mut self) -> Result<Registers, LinkError> {
        let target = self.target.borrow();
        assert!(!target.running, "registers of a running core");
        Ok(Registers {
            pc: 0x0000_0452,
            lr: 0x0000_03FF,
            sp: 0x2000_1FE0,
        })
    }
}
