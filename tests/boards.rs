//! What boards do beside inferences: the firmware of real ones compiles and starts with what the chip looks for, that of
//! emulated ones crashes so that somebody notices, and an application of one's own compiles. Nothing here runs on a real
//! board: no emulator knows them, and none was on a desk.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::path::Path;
use std::time::Duration;

use espalier::device::board::Boot;
use espalier::device::toolchain::Toolchain;
use espalier::device::{Board, emulator, firmware};
use espalier_tests::command::{can_compile, can_emulate, workspace};
use object::elf::{FileHeader32, PT_LOAD};
use object::read::elf::{ElfFile32, FileHeader, ProgramHeader};
use object::{Object, ObjectSymbol};
use shared::{Engine, Model};

type Elf<'a> = ElfFile32<'a, object::Endianness>;

fn boards(pick: impl Fn(&Board) -> bool) -> Vec<Board> {
    let boards = Board::names().map(|name| Board::named(name).unwrap());
    boards.filter(pick).collect()
}

/// What lies in flash, piece by piece: address and bytes.
fn flashed(elf: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let file = Elf::parse(elf).unwrap();
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
    let real = boards(|board| board.probe.is_some());
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

/// Puts bytes in place of others that are loaded to an address.
fn patch(elf: &mut [u8], address: u32, bytes: &[u8]) {
    let piece = flashed(elf)
        .into_iter()
        .rfind(|(start, _)| *start <= address)
        .unwrap();
    // Where that piece lies in the file: no two are the same.
    let mut places = elf.windows(piece.1.len()).enumerate();
    let (place, _) = places.find(|(_, window)| *window == piece.1).unwrap();
    let at = place + (address - piece.0) as usize;
    elf[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Runs a changed firmware, which must not end well, and gives the words for that.
fn failure(board: &Board, change: impl FnOnce(&mut [u8])) -> String {
    let mut elf = std::fs::read(firmware::build(board).unwrap()).unwrap();
    change(&mut elf);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.elf");
    std::fs::write(&path, elf).unwrap();
    let model = workspace().join("examples/fashion-mnist/4k/model.esp");
    let model = std::fs::read(model).unwrap();
    match emulator::run(board, &path, &model, &[], Duration::from_secs(60)) {
        Ok(_) => panic!("{} answers", board.name),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_stack_that_is_too_small_never_gives_an_answer() {
    if !can_emulate("a_stack_that_is_too_small_never_gives_an_answer") {
        return;
    }
    for board in boards(|board| board.emulator.is_some()) {
        // The first word of the vectors is where the stack begins: here, 512 bytes above the start of RAM.
        let stack = (board.ram.address + 512).to_le_bytes();
        let message = failure(&board, |elf| patch(elf, board.flash.address, &stack));
        let hint = "`stack` in board.toml is too small";
        assert!(message.contains(hint), "{}: {message}", board.name);
    }
}

#[test]
fn a_fault_is_reported_with_its_addresses() {
    if !can_emulate("a_fault_is_reported_with_its_addresses") {
        return;
    }
    // MOVS r0, #0x90; LSLS r0, r0, #24; LDR r0, [r0]: no board has memory at 0x9000_0000.
    let code = [0x2090_u16, 0x0600, 0x6800].map(u16::to_le_bytes).concat();
    for (name, has_status) in [("mps2-an386", true), ("microbit", false)] {
        let board = Board::named(name).unwrap();
        let mut main = 0;
        let message = failure(&board, |elf| {
            let file = Elf::parse(&*elf).unwrap();
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok("main"));
            main = symbol.unwrap().address() as u32 & !1;
            patch(elf, main, &code);
        });
        let place = format!("crashed at {:#x}", main + 4);
        assert!(message.contains(&place), "{name}: {message}");
        // Precise, and the address is valid (Armv7-M Architecture Reference Manual, B3.2.15).
        let why = message.contains("fault status 0x8200") && message.contains("address 0x90000000");
        assert_eq!(why, has_status, "{name}: {message}");
    }
}

#[test]
fn what_lay_in_the_arena_changes_no_answer() {
    for name in ["4k", "6k", "6k-split", "50k", "sparse"] {
        let path = workspace().join(format!("examples/fashion-mnist/{name}/model.esp"));
        let file = std::fs::read(path).unwrap();
        let model = Model::parse(&file).unwrap();
        let scores = |before: i8| {
            let mut arena = vec![before; model.arena_bytes()];
            let mut engine = Engine::new(&model, &mut arena).unwrap();
            let output = engine.infer(|input| model.golden().fill(0, input));
            output.to_vec()
        };
        for before in [0x55, -1, i8::MIN] {
            assert_eq!(scores(0), scores(before), "{name}");
        }
    }
}

#[test]
fn an_application_of_ones_own_compiles() {
    let board = Board::named("nrf52840-dk").unwrap();
    if !can_compile(&board, "an_application_of_ones_own_compiles") {
        return;
    }
    let folder = workspace().join("examples/embassy-nrf52840");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embassy");
    let toolchain = Toolchain::find(&board.target).unwrap();
    let mut cargo = toolchain.cargo_build(&board.target, &board.cpu);
    cargo.args(["--release", "--locked", "--target-dir"]);
    let built = cargo.arg(&target).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let program = target.join(&board.target).join("release/embassy-nrf52840");
    let flash = flashed(&std::fs::read(program).unwrap());
    let bytes: usize = flash.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("{bytes} bytes of flash, the model among them");
    let model = std::fs::read(folder.join("../fashion-mnist/4k/model.esp")).unwrap();
    let holds = |(_, bytes): &(u32, Vec<u8>)| bytes.windows(model.len()).any(|w| w == model);
    assert!(flash.iter().any(holds), "the program has no model");
}
