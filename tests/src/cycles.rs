//! What kinds of instructions an inference takes, and how many cycles Arm's manuals give
//! for them.
//!
//! The emulator counts instructions; it knows nothing of cycles. Arm publishes how many
//! cycles each instruction takes, without wait states of memory, for the Cortex-M0+ (DDI
//! 0484C, table 3.1) and the Cortex-M4 (100166_0001, table 3-1). An inference is run one
//! instruction at a time, each is told apart by its encoding (ARMv7-M Architecture
//! Reference Manual, A5), and those tables are added up.

use std::collections::HashMap;

use espalier::device::{Board, emulator, firmware};
use object::{Object, ObjectSection, SectionKind};

/// What an instruction does, as far as its time depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Anything that takes one cycle, multiplications among them.
    Plain,
    /// A load or store of one register.
    Single,
    /// A load or store of several, and of how many.
    Several(u32),
    /// A division.
    Divide,
    /// A jump, taken or not.
    Branch,
    /// A call by an offset.
    Call,
}

/// The kind of the instruction that begins with `first`, and its bytes.
fn decode(first: u16, second: u16) -> (Kind, u32) {
    if first >> 11 > 0b11100 {
        return (long(first, second), 4);
    }
    let kind = match first >> 12 {
        // 01001: a constant behind the code; 0101: an offset in a register.
        0b0100 if first >> 11 == 0b01001 => Kind::Single,
        // BX and BLX.
        0b0100 if first >> 8 == 0b0100_0111 => Kind::Branch,
        0b0101..=0b1001 => Kind::Single,
        0b1011 => match first >> 8 & 0xF {
            // CBZ and CBNZ.
            0x1 | 0x3 | 0x9 | 0xB => Kind::Branch,
            // PUSH and POP, a bit for LR or PC before those of the registers.
            0x4 | 0x5 | 0xC | 0xD => Kind::Several((first & 0x1FF).count_ones()),
            _ => Kind::Plain,
        },
        0b1100 => Kind::Several((first & 0xFF).count_ones()),
        0b1101 if first >> 8 & 0xF < 0xE => Kind::Branch,
        0b1110 => Kind::Branch,
        _ => Kind::Plain,
    };
    (kind, 2)
}

fn long(first: u16, second: u16) -> Kind {
    match first >> 9 {
        // Load and store multiple; with bit 6, of two registers, and table branches.
        0b111_0100 if first & 1 << 6 == 0 => Kind::Several(second.count_ones()),
        0b111_0100 if first >> 4 == 0xE8D && second >> 5 == 0x780 => Kind::Branch,
        0b111_0100 => Kind::Several(2),
        0b111_1000..=0b111_1011 if second >> 15 == 1 => match second >> 14 & second >> 12 & 1 {
            1 => Kind::Call,
            _ => Kind::Branch,
        },
        0b111_1100 => Kind::Single,
        // SDIV and UDIV.
        0b111_1101 if first >> 7 & 0b11 == 0b11 && matches!(first >> 4 & 7, 1 | 3) => Kind::Divide,
        _ => Kind::Plain,
    }
}

/// Instructions of a run by what they take time for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// All.
    pub instructions: u64,
    /// Loads and stores of one register.
    pub single: u64,
    /// Those that come right behind another one.
    pub neighbours: u64,
    /// Loads and stores of several.
    pub several: u64,
    /// And how many registers these are of.
    pub registers: u64,
    /// Divisions.
    pub divisions: u64,
    /// Jumps and calls that are taken, returns by POP among them.
    pub taken: u64,
    /// Of which calls by an offset.
    pub calls: u64,
}

impl Mix {
    fn add(&mut self, kind: Kind, after_single: bool, taken: bool) {
        self.instructions += 1;
        self.taken += u64::from(taken);
        match kind {
            Kind::Plain | Kind::Branch => {}
            Kind::Single => {
                self.single += 1;
                self.neighbours += u64::from(after_single);
            }
            Kind::Several(registers) => {
                self.several += 1;
                self.registers += u64::from(registers);
            }
            Kind::Divide => self.divisions += 1,
            Kind::Call => self.calls += u64::from(taken),
        }
    }

    /// Cycles of a Cortex-M4 from memory without wait states, at least and at most: a
    /// branch takes 1 to 3 more to refill the pipeline, a single load or store one more
    /// unless it overlaps with the one before, a division 2 to 12.
    pub fn cortex_m4(&self) -> [u64; 2] {
        let common = self.instructions + self.registers;
        let least = common + self.taken + (self.single - self.neighbours) + self.divisions;
        let most = common + 3 * self.taken + self.single + 11 * self.divisions;
        [least, most]
    }

    /// Cycles of a Cortex-M0+ with its fast multiplier, likewise: loads and stores take 2,
    /// or 1 for each register and 1 more; a taken branch 2, a call 3, a return 2 more.
    pub fn cortex_m0_plus(&self) -> u64 {
        self.instructions + self.single + self.registers + self.taken + self.calls
    }
}

/// The instructions of the engine in a run of the model's self-test on an emulated board.
pub fn mix(board: &Board, model: &[u8]) -> Result<Mix, Box<dyn std::error::Error>> {
    let elf = firmware::build(board)?;
    let code = Code::of(&std::fs::read(&elf)?)?;
    let mut mix = Mix::default();
    let mut last: Option<(u32, Kind, u32)> = None;
    let mut was_single = false;
    emulator::trace(board, &elf, model, |address, function| {
        if let Some((from, kind, bytes)) = last.take() {
            mix.add(kind, was_single, address != from + bytes);
            was_single = kind == Kind::Single;
        }
        last = function
            .contains("espalier_shared")
            .then(|| code.decode(address))
            .flatten();
    })?;
    Ok(mix)
}

/// The code of a firmware.
struct Code(HashMap<u32, u16>);

impl Code {
    fn of(elf: &[u8]) -> Result<Self, object::Error> {
        let file = object::File::parse(elf)?;
        let mut halves = HashMap::new();
        for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
            let start = section.address() as u32;
            let pairs = section.data()?.as_chunks().0.iter().zip(0u32..);
            halves.extend(pairs.map(|(&half, at)| (start + 2 * at, u16::from_le_bytes(half))));
        }
        Ok(Self(halves))
    }

    fn decode(&self, address: u32) -> Option<(u32, Kind, u32)> {
        let half = |address| self.0.get(&address).copied();
        let (kind, bytes) = decode(half(address)?, half(address + 2).unwrap_or(0));
        Some((address, kind, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart() {
        // Encodings of the ARMv7-M Architecture Reference Manual, A7.7.
        for (first, second, kind, bytes) in [
            (0x4288, 0, Kind::Plain, 2),           // CMP r0, r1
            (0x4348, 0, Kind::Plain, 2),           // MULS r0, r1
            (0x6808, 0, Kind::Single, 2),          // LDR r0, [r1]
            (0x5c08, 0, Kind::Single, 2),          // LDRB r0, [r1, r0]
            (0x4801, 0, Kind::Single, 2),          // LDR r0, [pc, #4]
            (0x9001, 0, Kind::Single, 2),          // STR r0, [sp, #4]
            (0xb5f0, 0, Kind::Several(5), 2),      // PUSH {r4-r7, lr}
            (0xbd10, 0, Kind::Several(2), 2),      // POP {r4, pc}
            (0xc903, 0, Kind::Several(2), 2),      // LDM r1!, {r0, r1}
            (0xd0fe, 0, Kind::Branch, 2),          // BEQ
            (0xe7fe, 0, Kind::Branch, 2),          // B
            (0x4770, 0, Kind::Branch, 2),          // BX lr
            (0xb110, 0, Kind::Branch, 2),          // CBZ r0
            (0xbf00, 0, Kind::Plain, 2),           // NOP
            (0xf000, 0xf800, Kind::Call, 4),       // BL
            (0xf000, 0xb800, Kind::Branch, 4),     // B.W
            (0xf000, 0x8000, Kind::Branch, 4),     // BEQ.W
            (0xf851, 0x0b04, Kind::Single, 4),     // LDR r0, [r1], #4
            (0xe9d1, 0x2300, Kind::Several(2), 4), // LDRD r2, r3, [r1]
            (0xe92d, 0x4ff0, Kind::Several(9), 4), // PUSH {r4-r11, lr}
            (0xe8df, 0xf000, Kind::Branch, 4),     // TBB [pc, r0]
            (0xfb20, 0x3002, Kind::Plain, 4),      // SMLAD r0, r0, r2, r3
            (0xfb90, 0xf0f1, Kind::Divide, 4),     // SDIV r0, r0, r1
            (0xfbb0, 0xf0f1, Kind::Divide, 4),     // UDIV r0, r0, r1
            (0xfb80, 0x2301, Kind::Plain, 4),      // SMULL r2, r3, r0, r1
            (0xf04f, 0x0001, Kind::Plain, 4),      // MOV.W r0, #1
            (0xea4f, 0x0001, Kind::Plain, 4),      // MOV.W r0, r1
        ] {
            assert_eq!(
                decode(first, second),
                (kind, bytes),
                "{first:#x} {second:#x}"
            );
        }
    }

    #[test]
    fn cycles_are_those_of_the_tables() {
        // LDR, LDR, ADD, PUSH of two, a taken branch.
        let mut mix = Mix::default();
        mix.add(Kind::Single, false, false);
        mix.add(Kind::Single, true, false);
        mix.add(Kind::Plain, false, false);
        mix.add(Kind::Several(2), false, false);
        mix.add(Kind::Branch, false, true);
        assert_eq!(mix.cortex_m4(), [2 + 1 + 1 + 3 + 2, 2 + 2 + 1 + 3 + 4]);
        assert_eq!(mix.cortex_m0_plus(), 2 + 2 + 1 + 3 + 2);
    }
}
