//! The firmware holds no words of panics, and no function of the engine calls one. On a real board, where no code that
//! talks to an emulator is part of it, none of the firmware does, either.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::BTreeSet;

use espalier::device::{Board, firmware};
use espalier_tests::command::can_emulate;
use object::{File, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// A function of the firmware.
struct Function<'a> {
    name: &'a str,
    address: u64,
    code: &'a [u8],
}

fn functions<'a>(elf: &'a File) -> Vec<Function<'a>> {
    let text = elf
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text);
    let function = |symbol: object::Symbol<'a, '_>| {
        // The lowest bit says that it is Thumb code.
        let address = symbol.address() & !1;
        let section = elf.section_by_index(symbol.section_index()?).ok()?;
        let code = section.data_range(address, symbol.size()).ok()??;
        let name = symbol.name().ok()?;
        Some(Function {
            name,
            address,
            code,
        })
    };
    text.filter_map(function).collect()
}

/// Where the `BL` and `B.W` of a function go (Arm v7-M Architecture Reference Manual,
/// A7.7.12 and A7.7.18).
fn branches(function: &Function) -> BTreeSet<u64> {
    let halves: Vec<u32> = function
        .code
        .as_chunks()
        .0
        .iter()
        .map(|&half| u16::from_le_bytes(half).into())
        .collect();
    let mut branches = BTreeSet::new();
    let mut at = 0;
    while let [first, rest @ ..] = &halves[at..] {
        let is_long = first >> 11 > 0b11100;
        let address = function.address + 2 * at as u64;
        at += 1 + usize::from(is_long);
        let (true, [second, ..]) = (is_long, rest) else {
            continue;
        };
        if first >> 11 == 0b11110 && second >> 15 == 1 && second >> 12 & 1 == 1 {
            let bit = |number: u32, index: u32| number >> index & 1;
            let sign = bit(*first, 10);
            let i1 = 1 ^ bit(*second, 13) ^ sign;
            let i2 = 1 ^ bit(*second, 11) ^ sign;
            let low = (first & 0x3FF) << 12 | (second & 0x7FF) << 1;
            let offset = sign << 24 | i1 << 23 | i2 << 22 | low;
            let offset = i64::from((offset << 7) as i32 >> 7);
            branches.insert(address.wrapping_add(4).wrapping_add_signed(offset));
        }
    }
    branches
}

#[test]
fn the_engine_never_panics_and_nothing_is_formatted() {
    if !can_emulate("the_engine_never_panics_and_nothing_is_formatted") {
        return;
    }
    for board in ["mps2-an386", "mps2-an385", "nrf52840-dk"] {
        let board = Board::named(board).unwrap();
        let elf = std::fs::read(firmware::build(&board).unwrap()).unwrap();
        let elf = File::parse(&*elf).unwrap();
        let functions = functions(&elf);
        // In the mangled names, the parts of a path follow their lengths.
        let formatting = functions
            .iter()
            .filter(|f| f.name.contains("4core") && f.name.contains("3fmt"));
        let formatting: Vec<_> = formatting.map(|f| f.name).collect();
        assert!(formatting.is_empty(), "{formatting:?}");
        let panics = functions
            .iter()
            .filter(|f| f.name.contains("9panicking") || f.name.contains("_fail"));
        let panics: BTreeSet<u64> = panics.map(|f| f.address).collect();
        // The log's transport asserts that it is not used twice at a time.
        let call = |f: &&Function| !branches(f).is_disjoint(&panics);
        assert!(
            functions.iter().any(|f| call(&f)),
            "no panic found: is the test blind?"
        );
        let is_ours = |f: &&Function| {
            let of_firmware = f.name.contains("17espalier_firmware") || f.name == "main";
            let of_engine = f.name.contains("15espalier_shared") && !of_firmware;
            of_engine || of_firmware && board.probe.is_some()
        };
        let ours = functions.iter().filter(is_ours);
        let (count, calls) = ours.fold((0, Vec::new()), |(count, mut calls), f| {
            if call(&f) {
                calls.push(f.name);
            }
            (count + 1, calls)
        });
        assert!(count > 20, "{count} functions");
        assert!(calls.is_empty(), "{calls:#?}");
    }
}
