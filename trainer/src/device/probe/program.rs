//! A built firmware: what goes to flash, and where the host finds what it needs in RAM.

use object::read::elf::{ElfFile32, ProgramHeader};
use object::{Endianness, File, Object, ObjectSegment};

use super::error::ProbeError;
use crate::device::footprint::{FootprintError, symbol};
use crate::device::log::Words;

/// A firmware's ELF.
pub(super) struct Program {
    /// What lies in flash, in pieces.
    pub image: Vec<Piece>,
    /// The words of its log.
    pub words: Words,
    /// Where its variables are.
    pub places: Places,
    /// The version of the model's format that it reads.
    pub format: u16,
}

/// Bytes with a place in flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Address of the first.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Behind the last.
    pub fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// Addresses of the firmware's variables for the host; see `firmware/src/board/hardware.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Control block of RTT.
    pub rtt: u64,
    /// Exit code.
    pub exit: u64,
    /// Report.
    pub report: u64,
    /// How often it has started.
    pub boots: u64,
    /// Whether the host will send a request.
    pub asked: u64,
}

impl Program {
    /// Reads an ELF.
    pub fn of_elf(elf: &[u8]) -> Result<Self, ProbeError> {
        let file = File::parse(elf).map_err(FootprintError::from)?;
        let address = |name| symbol(&file, name).map(|symbol| symbol.address);
        let places = Places {
            rtt: address("_SEGGER_RTT")?,
            exit: address("ESPALIER_EXIT")?,
            report: address("ESPALIER_REPORT")?,
            boots: address("ESPALIER_BOOTS")?,
            asked: address("ESPALIER_ASKED")?,
        };
        let image = pieces(elf).map_err(FootprintError::from)?;
        let format = address("ESPALIER_FORMAT")?;
        let format = number(&image, format).ok_or(FootprintError::NoSymbol("ESPALIER_FORMAT"))?;
        Ok(Self {
            words: Words::with_lines(elf)?,
            image,
            places,
            format,
        })
    }

    /// Behind its last byte in flash.
    pub fn end(&self) -> u64 {
        self.image.iter().map(Piece::end).max().unwrap_or(0)
    }
}

/// What is loaded, where it lies in flash: initial values of variables are somewhere else once the firmware runs.
fn pieces(elf: &[u8]) -> Result<Vec<Piece>, object::Error> {
    let file = ElfFile32::<Endianness>::parse(elf)?;
    let endian = file.endian();
    let mut pieces = Vec::new();
    for segment in file.segments() {
        let bytes = segment.data()?;
        if !bytes.is_empty() {
            pieces.push(Piece {
                address: segment.elf_program_header().p_paddr(endian).into(),
                bytes: bytes.to_vec(),
            });
        }
    }
    Ok(pieces)
}

fn number(image: &[Piece], address: u64) -> Option<u16> {
    let piece = image
        .iter()
        .find(|piece| (piece.address..piece.end()).contains(&address))?;
    let bytes = piece.bytes.get((address - piece.address) as usize..)?;
    Some(u16::from_le_bytes(*bytes.first_chunk()?))
}
