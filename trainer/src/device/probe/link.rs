//! What our code needs of a debug probe and of the target behind it: two traits, with one implementation over probe-rs
//! in [`super::hardware`]. Tests have others: a target that is a program, and one that is QEMU behind its GDB stub.
//!
//! Nothing here decides. Which probe, which chip, what is flashed, what a silence means: all that lies above.

use std::ops::Range;

/// The debug probes of this machine.
pub trait Probes {
    /// All that are connected.
    fn list(&self) -> Vec<Found>;

    /// Opens a probe and attaches to the chip behind it, which probe-rs knows by this name. Nothing is halted, erased or
    /// unlocked.
    fn attach(&self, probe: &Found, chip: &str) -> Result<Box<dyn Link>, LinkError>;
}

/// A probe that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it calls itself, with its numbers.
    pub name: String,
    /// USB vendor.
    pub vendor_id: u16,
    /// USB product.
    pub product_id: u16,
    /// USB interface, where a probe has several.
    pub interface: Option<u8>,
    /// Serial number.
    pub serial_number: Option<String>,
    /// Whether the operating system lets this user open it.
    pub permitted: bool,
}

/// A target behind a probe. Addresses are those of the chip.
pub trait Link {
    /// What the chip says that it is, by probe-rs' name; nothing where its vendor has no way to ask.
    fn chip(&self) -> Option<&str>;

    /// The erase sector of flash that holds an address; nothing where there is no flash.
    fn sector(&self, address: u64) -> Option<Range<u64>>;

    /// Erases whole sectors.
    fn erase(&mut self, sectors: Range<u64>) -> Result<(), LinkError>;

    /// Writes flash that is erased, and nothing around it.
    fn program(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError>;

    /// Reads memory, whether the core runs or not.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError>;

    /// Writes RAM, whether the core runs or not.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), LinkError>;

    /// Resets the chip and stops it before its first instruction.
    fn reset_and_halt(&mut self) -> Result<(), LinkError>;

    /// Lets the core go on.
    fn run(&mut self) -> Result<(), LinkError>;

    /// Stops the core.
    fn halt(&mut self) -> Result<(), LinkError>;

    /// Whether it stands still.
    fn is_halted(&mut self) -> Result<bool, LinkError>;

    /// Where it stands; it has to be halted.
    fn registers(&mut self) -> Result<Registers, LinkError>;
}

/// Where a core stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The next instruction.
    pub pc: u32,
    /// Where the function returns to, as a rule.
    pub lr: u32,
    /// The stack.
    pub sp: u32,
}

/// Why a target did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The chip keeps debuggers out.
    #[error("the chip is locked: {0}")]
    Locked(String),
    /// The probe, or the chip, does not answer, or stopped to.
    #[error("{0}")]
    Lost(String),
    /// The chip answers, but not at this address.
    #[error("no access to {address:#x}: {reason}")]
    Fault {
        /// The address.
        address: u64,
        /// What the probe says.
        reason: String,
    },
    /// The flash does not take it.
    #[error("{0}")]
    Flash(String),
}

impl dyn Link + '_ {
    /// Reads a number.
    pub fn read_u32(&mut self, address: u64) -> Result<u32, LinkError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads so many bytes.
    pub fn read_vec(&mut self, address: u64, count: usize) -> Result<Vec<u8>, LinkError> {
        let mut bytes = vec![0; count];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a number.
    pub fn write_u32(&mut self, address: u64, value: u32) -> Result<(), LinkError> {
        self.write(address, &value.to_le_bytes())
    }
}
