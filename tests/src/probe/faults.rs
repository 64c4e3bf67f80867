//! Everything that can go wrong between this program and a board, and what the error has to say about it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use espalier::device::Board;
use espalier::device::probe::{self, Options, ProbeError};
use espalier::device::verify::Questions;
use shared::Model;
use shared::model::VERSION;
use shared::report::Exit;

use super::firmware::Bug;
use super::target::{Desk, Wrong, probe};
use super::{elf, target};
use crate::models;

/// How many faults were tried, and which of them ended in something else than an error that says what to do.
#[derive(Debug)]
pub struct Tried {
    /// Faults.
    pub tried: usize,
    /// Their names, with what came instead.
    pub missed: Vec<String>,
}

impl Tried {
    /// Faults that ended as they should.
    pub fn handled(&self) -> usize {
        self.tried - self.missed.len()
    }
}

/// One fault: what is wrong, and words of the error.
struct Fault {
    name: &'static str,
    set: fn(&mut Setup),
    says: &'static [&'static str],
}

/// A board on a desk, and what is asked of it. Everything is right to begin with.
struct Setup {
    board: Board,
    desk: Desk,
    selector: Option<&'static str>,
    image_bytes: usize,
    format: u16,
    inputs: Vec<i8>,
    limit: Duration,
}

impl Setup {
    fn wrong(&mut self, wrong: Wrong) {
        self.desk = Desk::new(&self.board, wrong);
    }

    fn bug(&mut self, bug: Bug) {
        self.wrong(Wrong {
            bug: Some(bug),
            ..Wrong::default()
        });
    }
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "no probe",
        set: |setup| setup.desk.probes.clear(),
        says: &["no debug probe was found", "check the cable", "udev"],
    },
    Fault {
        name: "two probes",
        set: |setup| setup.desk.probes.push(probe("2")),
        says: &[
            "more than one",
            "--probe VID:PID:SERIAL",
            "1366:1015:1050123456",
            "1366:1015:2",
        ],
    },
    Fault {
        name: "a probe that is not there",
        set: |setup| setup.selector = Some("dead:beef"),
        says: &[
            "--probe dead:beef",
            "these are connected",
            "1366:1015:1050123456",
        ],
    },
    Fault {
        name: "a selector that is none",
        set: |setup| setup.selector = Some("the green one"),
        says: &["--probe the green one", "VID:PID"],
    },
    Fault {
        name: "a probe that this user may not open",
        set: |setup| setup.desk.probes[0].permitted = false,
        says: &["may not be opened", "udev rules"],
    },
    Fault {
        name: "a typing error in the chip's name",
        set: |setup| {
            setup.board.probe.as_mut().expect("a real board").chip = "nRF52480_xxAA".into()
        },
        says: &[
            "board.toml",
            "no Cortex-M chip `nRF52480_xxAA`",
            "similar",
            "nRF528",
        ],
    },
    Fault {
        name: "another chip",
        set: |setup| {
            setup.wrong(Wrong {
                chip: Some("nRF52832_xxAA"),
                ..Wrong::default()
            });
        },
        says: &["nRF52832_xxAA", "has nRF52840_xxAA", "--board"],
    },
    Fault {
        name: "another core",
        set: |setup| {
            setup.wrong(Wrong {
                cpuid: Some(0x410C_C601),
                ..Wrong::default()
            });
        },
        says: &["Cortex-M0+", "has Cortex-M4", "--board"],
    },
    Fault {
        name: "a locked chip",
        set: |setup| {
            setup.wrong(Wrong {
                locked: true,
                ..Wrong::default()
            });
        },
        says: &["locked", "APPROTECT", "Nothing was erased", "--recover"],
    },
    Fault {
        name: "a chip with locked flash",
        set: |setup| {
            setup.wrong(Wrong {
                flash_locked: true,
                ..Wrong::default()
            });
        },
        says: &["locked", "readback protection", "Nothing was erased"],
    },
    Fault {
        name: "flash that is write-protected",
        set: |setup| {
            setup.wrong(Wrong {
                write_protected: true,
                ..Wrong::default()
            });
        },
        says: &["can not be written", "write-protected"],
    },
    Fault {
        name: "flash that is worn out",
        set: |setup| {
            setup.wrong(Wrong {
                worn: true,
                ..Wrong::default()
            });
        },
        says: &["does not hold what was written", "worn out"],
    },
    Fault {
        name: "the cable pulled while the firmware is written",
        set: |setup| {
            setup.wrong(Wrong {
                pulled_at_flash: Some(1),
                ..Wrong::default()
            });
        },
        says: &[
            "lost while flash was written",
            "does not start",
            "flash again",
        ],
    },
    Fault {
        name: "the cable pulled while the model is written",
        set: |setup| {
            setup.wrong(Wrong {
                pulled_at_flash: Some(4),
                ..Wrong::default()
            });
        },
        says: &[
            "lost while the model was written",
            "still works",
            "flash again",
        ],
    },
    Fault {
        name: "the cable pulled in the middle of a run",
        set: |setup| {
            setup.wrong(Wrong {
                pulled_at_access: Some(40),
                ..Wrong::default()
            });
        },
        says: &["connection to the board was lost", "check cable and power"],
    },
    Fault {
        name: "an RTT block that never appears",
        set: |setup| setup.bug(Bug::NeverStarts),
        says: &["no log after", "pc 0x00000452", "board.toml", "boot pins"],
    },
    Fault {
        name: "a reset in the middle of a run",
        set: |setup| setup.bug(Bug::ResetAfter(2)),
        says: &["reset in the middle", "power supply", "info answered"],
    },
    Fault {
        name: "a target that hangs",
        set: |setup| setup.bug(Bug::Hangs),
        says: &[
            "not done after",
            "pc 0x00000452, lr 0x000003ff, sp 0x20001fe0",
            "--limit",
            "info started",
        ],
    },
    Fault {
        name: "a core that something else halts",
        set: |setup| setup.bug(Bug::HaltsAfter(1)),
        says: &["something else halted", "pc 0x00000452", "another debugger"],
    },
    Fault {
        name: "a firmware that crashes",
        set: |setup| setup.bug(Bug::Ends(Exit::Crashed)),
        says: &["crashed", "info started"],
    },
    Fault {
        name: "a firmware that finds too little RAM",
        set: |setup| setup.bug(Bug::Ends(Exit::ArenaTooSmall)),
        says: &["RAM", "compress further"],
    },
    Fault {
        name: "a firmware that refuses the model",
        set: |setup| setup.bug(Bug::Ends(Exit::ModelRefused)),
        says: &["refuses the model", "build it again"],
    },
    Fault {
        name: "a report that is none",
        set: |setup| setup.bug(Bug::NoReport),
        says: &["report can not be read", "build it again"],
    },
    Fault {
        name: "answers of another protocol",
        set: |setup| setup.bug(Bug::Gibberish),
        says: &["make no sense", "build and flash it again"],
    },
    Fault {
        name: "a firmware older than the model's format",
        set: |setup| setup.format = VERSION - 1,
        says: &[
            "reads model files of version 4",
            "version 5",
            "build this version's firmware",
        ],
    },
    Fault {
        name: "a model for more RAM than the board has",
        set: |setup| setup.board.arena = 8,
        says: &["bytes of RAM", "compress further", "larger board"],
    },
    Fault {
        name: "a model for more flash than the board has",
        set: |setup| setup.board.model.bytes = 64,
        says: &["bytes of flash", "compress further", "larger board"],
    },
    Fault {
        name: "a firmware that reaches into the slots",
        set: |setup| setup.image_bytes = 0x2_0004,
        says: &[
            "firmware ends at 0x21000",
            "model's region from 0x20000",
            "move `[model]`",
        ],
    },
    Fault {
        name: "slots that share a sector",
        set: |setup| setup.board.model.bytes = 0x1_1000,
        says: &["share the erase sector at 0x28000", "whole sectors"],
    },
    Fault {
        name: "slots where there is no flash",
        set: |setup| setup.board.model.bytes = 0x20_0000,
        says: &["no flash at 0x120000", "board.toml"],
    },
    Fault {
        name: "inputs of the wrong shape",
        set: |setup| {
            setup.inputs.pop();
        },
        says: &["no inputs of", "preprocess them"],
    },
    Fault {
        name: "a board that is emulated",
        set: |setup| setup.board = Board::named("mps2-an386").expect("a board"),
        says: &["emulated board", "espalier run"],
    },
];

/// Tries every fault on a target that is a program.
pub fn try_all() -> Tried {
    let folder = std::env::temp_dir().join(format!("espalier-faults-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let missed = FAULTS.iter().filter_map(|fault| try_one(fault, &folder));
    let missed = missed.collect();
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    Tried {
        tried: FAULTS.len(),
        missed,
    }
}

/// Nothing, if the error is the right one.
fn try_one(fault: &Fault, folder: &Path) -> Option<String> {
    let model = models::every_kind().to_bytes().expect("a model that fits");
    let parsed = Model::parse(&model).expect("a model");
    let board = Board::named("nrf52840-dk").expect("a board");
    let mut setup = Setup {
        desk: Desk::new(&board, Wrong::default()),
        board,
        selector: None,
        image_bytes: 10_000,
        format: VERSION,
        inputs: vec![3; 4 * parsed.input_shape().len()],
        limit: Duration::from_millis(300),
    };
    (fault.set)(&mut setup);
    let elf = folder.join("firmware.elf");
    std::fs::write(&elf, elf::build(setup.image_bytes, 0, setup.format)).expect("a written file");
    let error = match ask(&setup, &elf, &model) {
        Ok(()) => return Some(format!("{}: no error", fault.name)),
        Err(error) => error.to_string(),
    };
    let missing: Vec<_> = fault
        .says
        .iter()
        .filter(|words| !error.contains(**words))
        .collect();
    (!missing.is_empty()).then(|| format!("{}: {missing:?} is not in: {error}", fault.name))
}

fn ask(setup: &Setup, elf: &Path, model: &[u8]) -> Result<(), ProbeError> {
    let stop = AtomicBool::new(false);
    let options = Options {
        probe: setup.selector,
        limit: setup.limit,
        stop: &stop,
        progress: false,
    };
    let questions = Questions {
        inputs: &setup.inputs,
        layers: false,
    };
    let (desk, board): (&target::Desk, _) = (&setup.desk, &setup.board);
    let hear = &mut |_: &str| {};
    probe::answer(desk, board, elf, model, questions, &options, hear).map(|_| ())
}
