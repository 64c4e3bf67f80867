//! The firmware of every real board compiles, and starts with what its chip looks for after a reset. Nothing of it runs:
//! no emulator knows these boards, and none of them was on a desk.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use espalier::device::board::Boot;
use espalier::device::{Board, firmware};
use espalier_tests::command::can_compile;
use object::elf::{FileHeader32, PT_LOAD};
use object::read::elf::{ElfFile32, FileHeader, ProgramHeader};

/// What lies in flash, piece by piece: address and bytes.
fn flashed(elf: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let file = ElfFile32::<object::Endianness>::parse(elf).unwrap();
    let (endian, header): (_, &FileHeader32<_>) = (file.endian(), file.elf_header());
    let segments = header.program_headers(endian, elf).unwrap().iter();
    let loaded = segments.filter(|s| s.p_type(endian) == PT_LOAD && s.p_filesz(endian) > 0);
    let mut pieces: Vec<_> = loaded
        .map(|s| (s.p_paddr(endian), s.data(endian, elf).unwrap().to_vec()))
        .collect();
    pieces.sort();
    pieces
}

/// The bytes from an address on, within one piece.
fn at(pieces: &[(u32, Vec<u8>)], address: u32) -> &[u8] {
    let piece = pieces
        .iter()
        .rev()
        .find(|(start, _)| *start <= address)
        .unwrap();
    &piece.1[(address - piece.0) as usize..]
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|&word| u32::from_le_bytes(word)).collect()
}

/// CRC-32/MPEG-2, the RP2040's checksum of its second-stage boot loader (data sheet, "Checksum").
fn mpeg2(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04C1_1DB7 } else { 0 }
        })
    })
}

#[test]
fn every_real_board_compiles_and_starts_as_its_chip_wants() {
    let real: Vec<Board> = Board::names()
        .map(|name| Board::named(name).unwrap())
        .filter(|board| board.probe.is_some())
        .collect();
    assert!(real.len() >= 7);
    for board in real {
        if !can_compile(
            &board,
            "every_real_board_compiles_and_starts_as_its_chip_wants",
        ) {
            continue;
        }
        let elf = std::fs::read(firmware::build(&board).unwrap()).unwrap();
        let (pieces, start) = (flashed(&elf), board.flash.address);
        let last = pieces.last().unwrap();
        assert_eq!(pieces[0].0, start, "{}", board.name);
        assert!(u64::from(last.0) + last.1.len() as u64 <= board.flash.end());
        let vectors = match board.boot {
            Some(Boot::Rp2040) => {
                let loader = at(&pieces, start);
                assert_eq!(loader.len(), 256);
                assert_eq!(mpeg2(&loader[..252]), words(loader)[63]);
                start + 256
            }
            Some(Boot::Rp2350) => {
                let first = words(&at(&pieces, start)[..4096.min(at(&pieces, start).len())]);
                let block = first.iter().position(|&word| word == 0xFFFF_DED3).unwrap();
                assert_eq!(first[block + 4], 0xAB12_3579);
                start
            }
            None => start,
        };
        // The stack ends where RAM begins, and begins so many bytes above.
        let [stack, reset, ..] = words(at(&pieces, vectors))[..] else {
            panic!("{} has no vectors", board.name)
        };
        assert_eq!(stack, board.ram.address + board.stack, "{}", board.name);
        let code = u64::from(vectors)..board.flash.end();
        assert!(code.contains(&reset.into()) && reset % 2 == 1);
    }
}
