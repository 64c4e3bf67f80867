//! Power that fails while a model is installed: every operation of a simulated flash is cut, in several ways.

use std::ops::Range;

use shared::Model;
use shared::slots::{self, Flash, Install, InstallError, PAGE_BYTES, Slot, Slots};

use crate::models::{self, Random};

/// NOR flash: programming clears bits, erasing sets those of a whole sector. It takes each unit once between two
/// erasures, as flash with error correction does.
#[derive(Clone, Debug)]
pub struct SimulatedFlash {
    /// What it holds.
    pub bytes: Vec<u8>,
    sector: usize,
    operations: usize,
    cut: Option<Cut>,
}

/// Where power fails.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Operations before it.
    operation: usize,
    torn: Torn,
}

/// What the operation does in which power fails.
#[derive(Clone, Copy, Debug)]
enum Torn {
    /// Nothing.
    Before,
    /// Its first half.
    Half,
    /// Bits anywhere.
    Anywhere(u64),
}

const TORN: [Torn; 4] = [
    Torn::Before,
    Torn::Half,
    Torn::Anywhere(1),
    Torn::Anywhere(2),
];

/// Why the simulated flash does not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashError {
    /// Power has failed.
    NoPower,
    /// The bytes are not erased.
    NotErased,
}

impl SimulatedFlash {
    /// Erased, of two slots of this many bytes each, in sectors of `sector`.
    pub fn erased(slot_bytes: usize, sector: usize) -> Self {
        assert_eq!(slot_bytes % sector, 0, "a slot has whole sectors");
        Self {
            bytes: vec![0xFF; 2 * slot_bytes],
            sector,
            operations: 0,
            cut: None,
        }
    }

    /// Where its slots lie.
    pub fn slots(&self) -> Slots {
        Slots::new(self.bytes.len())
    }

    /// Changes bytes as `target` says, as far as power reaches.
    fn change(&mut self, start: usize, target: &[u8]) -> Result<(), FlashError> {
        let place = self.bytes.iter_mut().skip(start).zip(target);
        let operation = self.operations;
        self.operations += 1;
        let Some(Cut { torn, .. }) = self.cut.filter(|cut| cut.operation <= operation) else {
            place.for_each(|(byte, target)| *byte = *target);
            return Ok(());
        };
        if self.cut.is_some_and(|cut| cut.operation == operation) {
            let mut random = Random::new(operation as u64);
            let half = target.len() / 2;
            for (index, (byte, target)) in place.enumerate() {
                let bits = match torn {
                    Torn::Before => 0,
                    Torn::Half if index < half => 0xFF,
                    Torn::Half => 0,
                    Torn::Anywhere(seed) => (random.number() >> seed) as u8,
                };
                *byte ^= (*byte ^ target) & bits;
            }
        }
        Err(FlashError::NoPower)
    }

    fn has_power(&self) -> bool {
        self.cut.is_none_or(|cut| self.operations <= cut.operation)
    }
}

impl Flash for SimulatedFlash {
    type Error = FlashError;

    fn read(&mut self, range: Range<usize>) -> Result<&[u8], FlashError> {
        match self.has_power() {
            true => Ok(&self.bytes[range]),
            false => Err(FlashError::NoPower),
        }
    }

    fn erase(&mut self, range: Range<usize>) -> Result<(), FlashError> {
        let sectors = range.start / self.sector..range.end.div_ceil(self.sector);
        for sector in sectors {
            self.change(sector * self.sector, &vec![0xFF; self.sector])?;
        }
        Ok(())
    }

    fn program(&mut self, offset: usize, page: &[u8; PAGE_BYTES]) -> Result<(), FlashError> {
        assert_eq!(offset % PAGE_BYTES, 0);
        let is_erased = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0xFF);
        match is_erased(&self.bytes[offset..offset + PAGE_BYTES]) {
            true => self.change(offset, page),
            false => Err(FlashError::NotErased),
        }
    }
}

/// The model file that boot runs, if there is one: as `serve` in `firmware/src/main.rs`.
pub fn boots<'f>(flash: &'f SimulatedFlash, arena: &mut [i8]) -> Option<&'f [u8]> {
    let mut models = slots::stored(&flash.bytes).into_iter().flatten();
    let works = models.find(|model| model.check(arena).is_ok());
    works.map(|model| model.file)
}

/// A way to install a model.
pub type Installer =
    fn(&mut SimulatedFlash, &[u8], &mut [i8]) -> Result<(), InstallError<FlashError>>;

/// That of `shared`.
pub fn install(
    flash: &mut SimulatedFlash,
    file: &[u8],
    arena: &mut [i8],
) -> Result<(), InstallError<FlashError>> {
    let slots = flash.slots();
    slots::install(flash, slots, file, arena).map(|_| ())
}

/// What came of cutting everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerCuts {
    /// Points at which power was cut.
    pub tried: usize,
    /// Those behind which no model, or another than the old and the new one, ran; or no further install went through.
    pub lost: usize,
}

/// Bytes of a slot, and of its sectors: many small ones, some, and one for all, as chips have them.
const FLASHES: [(usize, usize); 3] = [(0x2000, 0x400), (0x2000, 0x1000), (0x2000, 0x2000)];

/// Cuts power at every operation of an install, in flash with different sectors and in several states.
pub fn power_cuts(install: Installer) -> PowerCuts {
    let mut cuts = PowerCuts::default();
    for (slot_bytes, sector) in FLASHES {
        for state in states(&SimulatedFlash::erased(slot_bytes, sector)) {
            cut_everywhere(&state, install, &mut cuts);
        }
    }
    cuts
}

/// Model files of a few pages, each its own. The last vector's answer of a broken one is wrong.
pub fn file(seed: u64, is_broken: bool) -> Vec<u8> {
    let mut model = models::convolutions(seed);
    model.golden = 2;
    let mut file = model.to_bytes().expect("a valid model");
    if is_broken {
        *file.last_mut().expect("a byte") ^= 1;
        let crc = shared::model::crc32(&file);
        file[shared::model::CRC_RANGE].copy_from_slice(&crc.to_le_bytes());
        assert!(Model::parse(&file).is_ok(), "only its self-test fails");
    }
    file
}

/// RAM for the models of [`file`].
pub const ARENA_BYTES: usize = 0x1_0000;

/// Flash as it may be before an install.
fn states(empty: &SimulatedFlash) -> Vec<SimulatedFlash> {
    let slots = empty.slots();
    let with = |before: &SimulatedFlash, seed| {
        let mut flash = before.clone();
        install(&mut flash, &file(seed, false), &mut vec![0; ARENA_BYTES]).expect("an install");
        flash.operations = 0;
        flash
    };
    // As `espalier` of another version may have left it: nothing has tried the model.
    let with_broken = |before: &SimulatedFlash, running| {
        let mut flash = before.clone();
        let file = file(9, true);
        let mut install = Install::start(&mut flash, slots, running, file.len()).expect("a start");
        install.write(&file).expect("room");
        let page = slots::Record::of(&file, 9).encode();
        let slot = running.map_or(Slot::A, Slot::other);
        flash
            .program(slots.record(slot).start, &page)
            .expect("erased");
        flash.operations = 0;
        flash
    };
    let damaged = |before: &SimulatedFlash, range: Range<usize>| {
        let mut flash = before.clone();
        let mut random = Random::new(5);
        flash.bytes[range].fill_with(|| random.number() as u8);
        flash
    };
    let a = with(empty, 1);
    let b = with(&a, 2);
    vec![
        empty.clone(),
        damaged(empty, 0..empty.bytes.len()),
        with_broken(empty, None),
        damaged(&a, slots.range(Slot::B)),
        with_broken(&a, Some(Slot::A)),
        damaged(&b, slots.range(Slot::A)),
        damaged(&b, slots.start(Slot::B)..slots.start(Slot::B) + 8),
        with(&b, 3),
        a,
        b,
    ]
}

/// Cuts at every operation of an install over one state.
fn cut_everywhere(state: &SimulatedFlash, install: Installer, cuts: &mut PowerCuts) {
    let [new, newer] = [5, 6].map(|seed| file(seed, false));
    let mut arena = vec![0; ARENA_BYTES];
    let old = boots(state, &mut arena).map(<[u8]>::to_vec);
    let mut whole = state.clone();
    install(&mut whole, &new, &mut arena).expect("an install with power");
    assert_eq!(boots(&whole, &mut arena), Some(&new[..]));
    for operation in 0..whole.operations {
        for torn in TORN {
            let mut flash = state.clone();
            flash.cut = Some(Cut { operation, torn });
            let ended = install(&mut flash, &new, &mut arena);
            assert!(
                matches!(ended, Err(InstallError::Flash(FlashError::NoPower))),
                "{ended:?}"
            );
            flash.cut = None;
            let model = boots(&flash, &mut arena);
            let is_one_of_both = model == old.as_deref() || model == Some(&new);
            let goes_on = install(&mut flash, &newer, &mut arena).is_ok()
                && boots(&flash, &mut arena) == Some(&newer);
            cuts.tried += 1;
            cuts.lost += usize::from(!is_one_of_both || !goes_on);
        }
    }
}
