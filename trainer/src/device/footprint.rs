//! What a built firmware takes of flash and RAM, without the model.

use object::{File, Object, ObjectSection, ObjectSymbol, SectionKind};

/// The firmware's name for its arena.
const ARENA: &str = "ESPALIER_ARENA";

/// Bytes of a firmware, by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    /// Instructions.
    pub code: u64,
    /// Constants, the table of interrupt vectors among them.
    pub constants: u64,
    /// Variables with an initial value: in flash and in RAM.
    pub data: u64,
    /// Variables that start as zero or as nothing, without the arena.
    pub zeroed: u64,
    /// RAM for the model's activations: all that the board gives.
    pub arena: u64,
}

/// The file is no firmware of espalier.
#[derive(Debug, thiserror::Error)]
pub enum FootprintError {
    /// It can not be read as an ELF.
    #[error("the firmware is no ELF file that can be read: {0}")]
    Unreadable(#[from] object::Error),
    /// A symbol is missing.
    #[error(
        "the ELF file has no symbol `{0}`: it is no firmware of espalier, or its symbols were stripped"
    )]
    NoSymbol(&'static str),
}

impl Footprint {
    /// Measures an ELF file.
    pub fn of_elf(elf: &[u8]) -> Result<Self, FootprintError> {
        let file = File::parse(elf)?;
        let mut footprint = Self {
            arena: symbol(&file, ARENA)?.bytes,
            ..Self::default()
        };
        for section in file.sections() {
            match section.kind() {
                SectionKind::Text => footprint.code += section.size(),
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => {
                    footprint.constants += section.size()
                }
                SectionKind::Data => footprint.data += section.size(),
                SectionKind::UninitializedData => footprint.zeroed += section.size(),
                _ => {}
            }
        }
        footprint.zeroed = footprint.zeroed.saturating_sub(footprint.arena);
        Ok(footprint)
    }

    /// Bytes of flash.
    pub fn flash(&self) -> u64 {
        self.code + self.constants + self.data
    }

    /// Bytes of RAM besides the arena and the stack.
    pub fn statics(&self) -> u64 {
        self.data + self.zeroed
    }
}

/// A variable of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    pub address: u64,
    pub bytes: u64,
}

/// Finds a variable by the name it is exported under.
pub(super) fn symbol(file: &File, name: &'static str) -> Result<Symbol, FootprintError> {
    let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
    found
        .map(|symbol| Symbol {
            address: symbol.address(),
            bytes: symbol.size(),
        })
        .ok_or(FootprintError::NoSymbol(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A file for 32-bit Arm, little-endian, with one section after the other, of which some are only sizes, and one
    /// symbol.
    fn elf(sections: &[(u32, u32, u32)], symbol_name: &str) -> Vec<u8> {
        const HEADER: u32 = 52;
        let names = format!("\0{symbol_name}\0");
        let symbols = [[0_u8; 16], *b"\x01\0\0\0\0\0\0\x20\x00\x01\0\0\x11\0\x01\0"].concat();
        let (names_at, symbols_at) = (HEADER, HEADER + 64);
        let headers_at = symbols_at + symbols.len() as u32;
        let count = sections.len() as u16 + 3;

        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0\x01\0\0\0".to_vec();
        for word in [0, 0, headers_at, 0] {
            file.extend(u32::to_le_bytes(word));
        }
        for half in [HEADER as u16, 0, 0, 40, count, count - 1] {
            file.extend(half.to_le_bytes());
        }
        file.extend(names.bytes());
        file.resize(symbols_at as usize, 0);
        file.extend(&symbols);
        let mut header = |kind: u32, flags: u32, at: u32, size: u32, link: u32, entry: u32| {
            for word in [0, kind, flags, 0, at, size, link, 1, 1, entry] {
                file.extend(word.to_le_bytes());
            }
        };
        header(0, 0, 0, 0, 0, 0);
        for (kind, flags, size) in sections {
            header(*kind, *flags, HEADER, *size, 0, 0);
        }
        header(
            2,
            0,
            symbols_at,
            symbols.len() as u32,
            u32::from(count) - 1,
            16,
        );
        header(3, 0, names_at, names.len() as u32, 0, 0);
        file
    }

    const ALLOC: u32 = 2;
    const WRITE: u32 = 1;
    const EXECUTE: u32 = 4;

    #[test]
    fn bytes_are_told_apart_by_what_they_are() {
        let sections = [
            (1, ALLOC | EXECUTE, 40),
            (1, ALLOC, 12),
            (1, ALLOC | WRITE, 4),
            (8, ALLOC | WRITE, 0x130),
            (1, 0, 9),
        ];
        let footprint = Footprint::of_elf(&elf(&sections, ARENA)).unwrap();
        let expected = Footprint {
            code: 40,
            constants: 12,
            data: 4,
            zeroed: 0x30,
            arena: 0x100,
        };
        assert_eq!(footprint, expected);
        assert_eq!((footprint.flash(), footprint.statics()), (56, 52));
    }

    #[test]
    fn a_program_without_an_arena_is_no_firmware() {
        let message = Footprint::of_elf(&elf(&[], "main"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("ESPALIER_ARENA"), "{message}");
        assert!(Footprint::of_elf(b"nothing").is_err());
    }
}
