//! What an inference may take in cycles on a real core: an estimate from the instructions
//! that the emulator counts. No board has confirmed it, so its error is unknown.
//!
//! For the Cortex-M0+ and the Cortex-M4 Arm publishes how many cycles each instruction
//! takes from memory without wait states (DDI 0484C, table 3.1; 100166_0001, table 3-1).
//! `tests/bench cycles` adds these up over the instructions that an emulated inference
//! executes; the Cortex-M4's refills of the pipeline and overlapping loads leave a range.
//! The emulated Cortex-M0 executes what a Cortex-M0+ does, and gets its estimate.
//! For the Cortex-M7 and M33 there is no such table. They are scaled from the Cortex-M4 by
//! Arm's CoreMark/MHz: 5.01 and 4.02 over 3.42, of another program.

use serde::Serialize;

use super::Board;

/// Cycles for an instruction of an inference.
struct Core {
    /// How `core` in board.toml begins.
    name: &'static str,
    /// Least and most, over the models that were measured.
    per_instruction: [f64; 2],
    /// Where that is from.
    basis: Basis,
}

/// Where an estimate is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Arm's table of the core, over the executed instructions.
    Table,
    /// That of the Cortex-M4, scaled by CoreMark/MHz.
    CoreMark,
}

const M4: [f64; 2] = [1.35, 1.61];
const CORE_MARK: [f64; 3] = [3.42, 5.01, 4.02];

static CORES: [Core; 4] = [
    Core {
        name: "Cortex-M0",
        per_instruction: [1.52, 1.56],
        basis: Basis::Table,
    },
    Core {
        name: "Cortex-M4",
        per_instruction: M4,
        basis: Basis::Table,
    },
    Core {
        name: "Cortex-M7",
        per_instruction: scaled(CORE_MARK[1]),
        basis: Basis::CoreMark,
    },
    Core {
        name: "Cortex-M33",
        per_instruction: scaled(CORE_MARK[2]),
        basis: Basis::CoreMark,
    },
];

const fn scaled(core_mark: f64) -> [f64; 2] {
    let factor = CORE_MARK[0] / core_mark;
    [M4[0] * factor, M4[1] * factor]
}

/// Least and most cycles for an instruction of an inference on the core of a board.
pub fn per_instruction(board: &Board) -> Option<[f64; 2]> {
    core(board).map(|core| core.per_instruction)
}

fn core(board: &Board) -> Option<&'static Core> {
    let known = |core: &&Core| board.core.starts_with(core.name);
    CORES.iter().find(known)
}

/// An estimate for the core of a board.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Estimate {
    /// From memory without wait states.
    pub least: u64,
    /// Likewise; memory that makes the core wait adds to it.
    pub most: u64,
    /// Where it is from.
    pub basis: Basis,
}

impl Estimate {
    /// Of so many instructions on an emulated board; nothing for a core of which nothing is
    /// published.
    pub fn of(board: &Board, instructions: u64) -> Option<Self> {
        let core = core(board)?;
        let [least, most] = core
            .per_instruction
            .map(|cycles| (instructions as f64 * cycles) as u64);
        Some(Self {
            least,
            most,
            basis: core.basis,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn estimate(board: &str) -> Option<Estimate> {
        Estimate::of(&Board::named(board).unwrap(), 1_000_000)
    }

    #[test]
    fn an_estimate_is_for_the_core_of_the_board() {
        let m4 = estimate("mps2-an386").unwrap();
        assert_eq!(
            (m4.least, m4.most, m4.basis),
            (1_350_000, 1_610_000, Basis::Table)
        );
        let m33 = estimate("mps2-an505").unwrap();
        assert_eq!((m33.least, m33.basis), (1_148_507, Basis::CoreMark));
        assert!(estimate("mps2-an500").unwrap().most < m33.most);
        assert_eq!(estimate("microbit").unwrap().most, 1_560_000);
        assert_eq!(estimate("mps3-an547"), None);
    }
}
