//! An ELF for 32-bit Arm, as far as the host looks into one.

use super::firmware::{ASKED, BOOTS, EXIT, REPORT, RTT, WORDS};

/// Where the number of the format lies in the image.
const FORMAT: usize = 0x40;

const HEADER: usize = 52;
const PROGRAM_HEADER: usize = 32;
const SECTION_HEADER: u16 = 40;
const SECTIONS: usize = 5;

/// An ELF that puts so many bytes at the start of flash, `salt` among them, and reads this version of the format.
pub fn build(image_bytes: usize, salt: u8, format: u16) -> Vec<u8> {
    let mut image: Vec<u8> = (0..image_bytes)
        .map(|index| (index / 7) as u8 ^ salt)
        .collect();
    image[FORMAT..FORMAT + 2].copy_from_slice(&format.to_le_bytes());
    let (names, symbols) = symbols();
    let section_names = b"\0.defmt\0";
    let symbols_at = HEADER + PROGRAM_HEADER;
    let names_at = symbols_at + symbols.len();
    let section_names_at = names_at + names.len();
    let headers_at = (section_names_at + section_names.len()).next_multiple_of(4);
    let image_at = headers_at + SECTIONS * usize::from(SECTION_HEADER);

    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0\x01\0\0\0".to_vec();
    for word in [0, HEADER, headers_at, 0] {
        file.extend((word as u32).to_le_bytes());
    }
    for half in [
        HEADER as u16,
        PROGRAM_HEADER as u16,
        1,
        SECTION_HEADER,
        5,
        4,
    ] {
        file.extend(half.to_le_bytes());
    }
    // Loaded: offset, virtual and physical address, bytes in the file and in memory, flags, alignment.
    for word in [1, image_at, 0, 0, image.len(), image.len(), 5, 4] {
        file.extend((word as u32).to_le_bytes());
    }
    for part in [&symbols[..], &names, section_names] {
        file.extend(part);
    }
    file.resize(headers_at, 0);
    // Name, kind, flags, address, offset, bytes, link, info, alignment, bytes of an entry.
    let sections: [[usize; 10]; SECTIONS] = [
        [0; 10],
        [1, 1, 0, 0, image_at, WORDS.len() + 1, 0, 0, 1, 0],
        [0, 2, 0, 0, symbols_at, symbols.len(), 3, 1, 4, 16],
        [0, 3, 0, 0, names_at, names.len(), 0, 0, 1, 0],
        [
            0,
            3,
            0,
            0,
            section_names_at,
            section_names.len(),
            0,
            0,
            1,
            0,
        ],
    ];
    for word in sections.as_flattened() {
        file.extend((*word as u32).to_le_bytes());
    }
    file.extend(image);
    file
}

/// The names, and the symbols that have them.
fn symbols() -> (Vec<u8>, Vec<u8>) {
    let word = |(index, text): (usize, &&str)| {
        let name = format!(
            r#"{{"package":"fake","disambiguator":"{index}","tag":"defmt_info","data":"{text}","crate_name":"fake"}}"#
        );
        (name, index as u64 + 1, 1)
    };
    let variable = |(name, address): (&str, u64)| (name.to_owned(), address, 0xFFF1);
    let variables = [
        ("_defmt_version_ = 4", 0),
        ("_defmt_encoding_ = raw", 0),
        ("_SEGGER_RTT", RTT),
        ("ESPALIER_EXIT", EXIT),
        ("ESPALIER_REPORT", REPORT),
        ("ESPALIER_BOOTS", BOOTS),
        ("ESPALIER_ASKED", ASKED),
        ("ESPALIER_FORMAT", FORMAT as u64),
    ];
    let words = WORDS.iter().enumerate().map(word);
    let all = words.chain(variables.into_iter().map(variable));
    let (mut names, mut symbols) = (vec![0], vec![0; 16]);
    for (name, address, section) in all {
        symbols.extend((names.len() as u32).to_le_bytes());
        symbols.extend((address as u32).to_le_bytes());
        symbols.extend([4, 0, 0, 0, 0x11, 0]);
        symbols.extend(u16::to_le_bytes(section));
        names.extend(name.bytes().chain([0]));
    }
    (names, symbols)
}
