//! Two slots for model files in flash: a new one is written beside the one that works, and becomes the newest only
//! when all of it is there and has been tried.
//!
//! A region of flash is cut in half. Each slot holds a model file from its first byte, where it is read in place, and
//! in its last [`PAGE_BYTES`] a [`Record`], which says what the file is and how new. `docs/format.md` describes every
//! byte.
//!
//! At boot, [`stored`] gives the models in the order in which to try them. A new one is written by [`install`], or by
//! an [`Install`] as it arrives. Power may fail at any moment: the slot that works is not touched, and the other one
//! has no record before its model is complete. (`tests/slots.rs` cuts at every operation of a simulated flash.)
//!
//! An application whose flash is mapped into memory starts with the first model that works, and takes a new one:
//!
//! ```
//! # use espalier_shared::slots::{self, Flash, InstallError, Slot, Slots, Stored};
//! fn boot<'r>(region: &'r [u8], arena: &mut [i8]) -> Option<Stored<'r>> {
//!     let mut models = slots::stored(region).into_iter().flatten();
//!     models.find(|model| model.check(arena).is_ok())
//! }
//!
//! fn update<F: Flash>(flash: &mut F, slots: Slots, file: &[u8], arena: &mut [i8]) -> Result<Slot, InstallError<F::Error>> {
//!     let installed = slots::install(flash, slots, file, arena)?; // power may fail anywhere in it
//!     Ok(installed.slot) // boots next time
//! }
//! ```

use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::model::{CRC, CRC_RANGE};
use crate::{ArenaTooSmall, Engine, Model, ParseError};

/// What is programmed at a time, always at a multiple of it: as much as the largest unit of a common chip (RP2040's
/// flash has pages of 256 bytes, an STM32H7 words of 32, an STM32L4 of 8), so that no unit is ever programmed twice,
/// which flash with error correction does not take.
pub const PAGE_BYTES: usize = 256;

/// What programming need not change.
const ERASED: u8 = 0xFF;

/// What a record starts with.
const MAGIC: [u8; 4] = *b"slot";

/// One half of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `A` or `B`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// Where the slots of a region lie, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slots {
    slot_bytes: usize,
}

impl Slots {
    /// Cuts a region of this many bytes in half. Each half has to consist of whole erase sectors, so that erasing one
    /// leaves the other alone. What is over where the region is no multiple of two pages is not used.
    pub const fn new(region_bytes: usize) -> Self {
        Self {
            slot_bytes: region_bytes / 2 / PAGE_BYTES * PAGE_BYTES,
        }
    }

    /// The longest model file that a slot takes, in bytes: all of it but the record's page.
    pub const fn capacity(self) -> usize {
        self.slot_bytes.saturating_sub(PAGE_BYTES)
    }

    /// A slot with its record.
    pub const fn range(self, slot: Slot) -> Range<usize> {
        match slot {
            Slot::A => 0..self.slot_bytes,
            Slot::B => self.slot_bytes..2 * self.slot_bytes,
        }
    }

    /// Where the model file of a slot starts.
    pub const fn start(self, slot: Slot) -> usize {
        self.range(slot).start
    }

    /// The page of a slot's record.
    pub const fn record(self, slot: Slot) -> Range<usize> {
        let Range { start, end } = self.range(slot);
        start + self.capacity()..end
    }
}

/// What a slot holds, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Of two, the one that is ahead is newer. It wraps: ahead is what is less than 2^31 steps away (RFC 1982, serial
    /// number arithmetic), and an install takes one step.
    pub sequence: u32,
    /// Length of the model file.
    pub model_bytes: u32,
    /// The checksum in the header of the model file.
    pub model_crc: u32,
}

impl Record {
    /// Bytes of a record at the start of its page.
    pub const BYTES: usize = 20;

    /// Of a model file, whose checksum is taken as it is.
    pub fn of(file: &[u8], sequence: u32) -> Self {
        Self {
            sequence,
            model_bytes: u32::try_from(file.len()).unwrap_or(u32::MAX),
            model_crc: header_crc(file),
        }
    }

    /// The page to program.
    pub fn encode(&self) -> [u8; PAGE_BYTES] {
        let words = [self.sequence, self.model_bytes, self.model_crc].map(u32::to_le_bytes);
        let mut digest = CRC.digest();
        digest.update(&MAGIC);
        digest.update(words.as_flattened());
        let crc = digest.finalize().to_le_bytes();
        let mut page = [ERASED; PAGE_BYTES];
        let bytes = [MAGIC, words[0], words[1], words[2], crc];
        for (to, from) in page.iter_mut().zip(bytes.as_flattened()) {
            *to = *from;
        }
        page
    }

    /// The record at the start of a page; `None` if there is none, or one that is damaged.
    pub fn decode(page: &[u8]) -> Option<Self> {
        let (words, _) = page.get(..Self::BYTES)?.as_chunks::<4>();
        let [MAGIC, sequence, model_bytes, model_crc, crc] = *words else {
            return None;
        };
        let covered = page.get(..Self::BYTES - crc.len())?;
        let record = Self {
            sequence: u32::from_le_bytes(sequence),
            model_bytes: u32::from_le_bytes(model_bytes),
            model_crc: u32::from_le_bytes(model_crc),
        };
        (CRC.checksum(covered) == u32::from_le_bytes(crc)).then_some(record)
    }

    fn is_newer(&self, than: &Self) -> bool {
        self.sequence.wrapping_sub(than.sequence) as i32 > 0
    }
}

/// What the header of a model file says, 0 where it is cut off.
fn header_crc(file: &[u8]) -> u32 {
    let bytes = file.get(CRC_RANGE).and_then(<[u8]>::first_chunk);
    bytes.copied().map_or(0, u32::from_le_bytes)
}

/// The slots from the newest to the oldest; those without a record last.
fn newest_first(records: [Option<Record>; 2]) -> [Slot; 2] {
    match records {
        [Some(a), Some(b)] if b.is_newer(&a) => [Slot::B, Slot::A],
        [None, Some(_)] => [Slot::B, Slot::A],
        _ => Slot::ALL,
    }
}

/// A model in a slot that has a record. It may still be damaged.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'r> {
    /// Where it lies.
    pub slot: Slot,
    /// What its record says.
    pub record: Record,
    /// As many bytes as that says, in place.
    pub file: &'r [u8],
}

/// The models of a region that is mapped into memory, in the order in which to try them: the newest comes first. A slot
/// without a record, such as one that was being written when power failed, gives nothing.
#[inline(never)] // what it needs takes no stack while anything is inferred
pub fn stored(region: &[u8]) -> [Option<Stored<'_>>; 2] {
    let slots = Slots::new(region.len());
    let records = Slot::ALL.map(|slot| Record::decode(region.get(slots.record(slot))?));
    let ordered = newest_first(records);
    ordered.map(|slot| {
        let record = records[slot as usize]?;
        let body = region.get(slots.start(slot)..slots.record(slot).start)?;
        let file = body.get(..record.model_bytes as usize).unwrap_or(body);
        Some(Stored { slot, record, file })
    })
}

impl<'r> Stored<'r> {
    /// The model, if it is the one of the record and whole.
    pub fn parse(&self) -> Result<Model<'r>, ParseError> {
        self.is_recorded()?;
        Model::parse(self.file)
    }

    /// As [`check`], if it is the one of the record.
    pub fn check(&self, arena: &mut [i8]) -> Result<(), Unfit> {
        self.is_recorded()?;
        check(self.file, arena)
    }

    fn is_recorded(&self) -> Result<(), ParseError> {
        let (stored, found) = (self.record.model_crc, header_crc(self.file));
        match stored == found {
            true => Ok(()),
            false => Err(ParseError::Crc { stored, found }),
        }
    }
}

/// Why a model would not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// It cannot be read.
    #[error(transparent)]
    Model(#[from] ParseError),
    /// It needs more RAM.
    #[error(transparent)]
    Arena(#[from] ArenaTooSmall),
    /// It computes something else than the machine that wrote it.
    #[error("golden vector {vector} gives other bytes than the model's file says")]
    SelfTest {
        /// The first that does, from 0.
        vector: usize,
    },
}

/// All that boot asks of a model: reads it, and runs its golden vectors in an arena of the firmware's size.
pub fn check(file: &[u8], arena: &mut [i8]) -> Result<(), Unfit> {
    let model = Model::parse(file)?;
    let mut engine = Engine::new(&model, arena)?;
    let golden = model.golden();
    for vector in 0..golden.count() {
        if engine.infer(|input| golden.fill(vector, input)) != golden.expected(vector) {
            return Err(Unfit::SelfTest { vector });
        }
    }
    Ok(())
}

/// Flash that can be written: that of the chip itself, or one behind a debug probe. Offsets are in bytes from the start
/// of the region of both slots.
///
/// Sizes of sectors are its own business, because many chips have several and a probe knows them only when it runs.
pub trait Flash {
    /// Why it did not.
    type Error;

    /// What is there: in place, or a copy of it.
    fn read(&mut self, range: Range<usize>) -> Result<&[u8], Self::Error>;

    /// Erases every sector with a byte in the range. Such a sector lies in one slot.
    fn erase(&mut self, range: Range<usize>) -> Result<(), Self::Error>;

    /// Writes a page that was erased, at a multiple of its size.
    fn program(&mut self, offset: usize, page: &[u8; PAGE_BYTES]) -> Result<(), Self::Error>;
}

/// Why a model was not installed. What worked before still does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InstallError<E> {
    /// The flash fails.
    #[error("the flash fails: {0}")]
    Flash(E),
    /// The file does not fit a slot.
    #[error("the model takes {needed} bytes of flash and a slot has {available}")]
    TooLong {
        /// Bytes of the file.
        needed: usize,
        /// Bytes of a slot.
        available: usize,
    },
    /// Not as many bytes came as were announced.
    #[error("{announced} bytes of the model were announced and {written} came")]
    Length {
        /// To [`Install::start`].
        announced: usize,
        /// Up to now.
        written: usize,
    },
    /// The flash holds something else than was written.
    #[error(
        "the flash at byte {offset} of the region does not hold what was written: it may be worn out"
    )]
    Verify {
        /// Start of the page.
        offset: usize,
    },
    /// The model would not work.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// What is in flash behind an install.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Installed {
    /// Where.
    pub slot: Slot,
    /// Its record.
    pub record: Record,
}

/// The model that boot would choose, whose slot is not to be overwritten: the newest that passes [`check`].
pub fn working<F: Flash>(
    flash: &mut F,
    slots: Slots,
    arena: &mut [i8],
) -> Result<Option<Installed>, F::Error> {
    let records = records(flash, slots)?;
    for slot in newest_first(records) {
        let Some(record) = records[slot as usize] else {
            continue;
        };
        let (start, bytes) = (slots.start(slot), record.model_bytes as usize);
        let file = flash.read(start..start + bytes.min(slots.capacity()))?;
        if (Stored { slot, record, file }).check(arena).is_ok() {
            return Ok(Some(Installed { slot, record }));
        }
    }
    Ok(None)
}

fn records<F: Flash>(flash: &mut F, slots: Slots) -> Result<[Option<Record>; 2], F::Error> {
    let mut read = |slot| Ok(Record::decode(flash.read(slots.record(slot))?));
    Ok([read(Slot::A)?, read(Slot::B)?])
}

/// Installs a whole file into the slot that does not hold the [`working`] model. An arena of the firmware's size is
/// what the models are tried in.
pub fn install<F: Flash>(
    flash: &mut F,
    slots: Slots,
    file: &[u8],
    arena: &mut [i8],
) -> Result<Installed, InstallError<F::Error>> {
    let working = working(flash, slots, arena).map_err(InstallError::Flash)?;
    let mut install = Install::start(flash, slots, working.map(|it| it.slot), file.len())?;
    install.write(file)?;
    install.activate(arena)
}

/// A model on its way into a slot, in as many parts as it arrives in. Dropped, or cut off by a loss of power, it leaves
/// a slot without a record.
#[derive(Debug)]
pub struct Install<'f, F> {
    flash: &'f mut F,
    slots: Slots,
    slot: Slot,
    sequence: u32,
    announced: usize,
    written: usize,
    page: [u8; PAGE_BYTES],
}

impl<'f, F: Flash> Install<'f, F> {
    /// Erases what a file of this many bytes takes of the slot that is not the running one. Without a running one,
    /// neither slot is worth keeping. The model in the running slot can go on answering.
    pub fn start(
        flash: &'f mut F,
        slots: Slots,
        running: Option<Slot>,
        bytes: usize,
    ) -> Result<Self, InstallError<F::Error>> {
        let available = slots.capacity();
        if bytes > available {
            let needed = bytes;
            return Err(InstallError::TooLong { needed, available });
        }
        let records = records(flash, slots).map_err(InstallError::Flash)?;
        let newest = records[newest_first(records)[0] as usize];
        let slot = running.map_or(Slot::A, Slot::other);
        let start = slots.start(slot);
        // The record first: a slot with one has all of its model.
        for range in [
            slots.record(slot),
            start..start + bytes.next_multiple_of(PAGE_BYTES),
        ] {
            flash.erase(range).map_err(InstallError::Flash)?;
        }
        Ok(Self {
            flash,
            slots,
            slot,
            sequence: newest.map_or(1, |record| record.sequence.wrapping_add(1)),
            announced: bytes,
            written: 0,
            page: [ERASED; PAGE_BYTES],
        })
    }

    /// Writes the next part of the file, of any length, and reads back what it wrote.
    pub fn write(&mut self, part: &[u8]) -> Result<(), InstallError<F::Error>> {
        for &byte in part {
            if self.written == self.announced {
                return Err(self.wrong_length(1));
            }
            let at = self.written % PAGE_BYTES;
            if let Some(place) = self.page.get_mut(at) {
                *place = byte;
            }
            self.written += 1;
            if at == PAGE_BYTES - 1 || self.written == self.announced {
                let offset = self.slots.start(self.slot) + self.written - 1 - at;
                let page = core::mem::replace(&mut self.page, [ERASED; PAGE_BYTES]);
                self.program(offset, &page)?;
            }
        }
        Ok(())
    }

    /// Tries the model as it lies in flash, and makes it the newest.
    pub fn activate(mut self, arena: &mut [i8]) -> Result<Installed, InstallError<F::Error>> {
        if self.written != self.announced {
            return Err(self.wrong_length(0));
        }
        let (slot, start) = (self.slot, self.slots.start(self.slot));
        let file = self.flash.read(start..start + self.announced);
        let file = file.map_err(InstallError::Flash)?;
        check(file, arena)?;
        let record = Record::of(file, self.sequence);
        self.program(self.slots.record(slot).start, &record.encode())?;
        Ok(Installed { slot, record })
    }

    fn program(
        &mut self,
        offset: usize,
        page: &[u8; PAGE_BYTES],
    ) -> Result<(), InstallError<F::Error>> {
        self.flash
            .program(offset, page)
            .map_err(InstallError::Flash)?;
        let read = self.flash.read(offset..offset + PAGE_BYTES);
        match read.map_err(InstallError::Flash)? == page {
            true => Ok(()),
            false => Err(InstallError::Verify { offset }),
        }
    }

    fn wrong_length(&self, more: usize) -> InstallError<F::Error> {
        InstallError::Length {
            announced: self.announced,
            written: self.written + more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        sequence: 7,
        model_bytes: 1000,
        model_crc: 0xCEFC_7F26,
    };

    #[test]
    fn a_record_comes_back_and_damage_is_none() {
        let page = RECORD.encode();
        assert_eq!(Record::decode(&page), Some(RECORD));
        for bit in 0..8 * Record::BYTES {
            let mut page = page;
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&page), None, "bit {bit}");
        }
        assert_eq!(Record::decode(&page[..Record::BYTES - 1]), None);
        assert_eq!(Record::decode(&[ERASED; PAGE_BYTES]), None);
        assert_eq!(Record::decode(&[0; PAGE_BYTES]), None);
    }

    #[test]
    fn slots_are_the_halves_of_a_region() {
        let slots = Slots::new(0x4000);
        assert_eq!(slots.capacity(), 0x1F00);
        assert_eq!((slots.start(Slot::A), slots.start(Slot::B)), (0, 0x2000));
        assert_eq!(slots.record(Slot::A), 0x1F00..0x2000);
        assert_eq!(slots.record(Slot::B), 0x3F00..0x4000);
        let odd = Slots::new(0x4000 + 2 * PAGE_BYTES - 1);
        assert_eq!(odd, slots);
        let none = Slots::new(PAGE_BYTES);
        assert_eq!((none.capacity(), none.record(Slot::B)), (0, 0..0));
    }

    #[test]
    fn the_newest_comes_first_across_the_end_of_numbers() {
        let record = |sequence| Some(Record { sequence, ..RECORD });
        let order = |a: Option<u32>, b: Option<u32>| {
            newest_first([a.and_then(record), b.and_then(record)])[0]
        };
        assert_eq!(order(Some(1), Some(2)), Slot::B);
        assert_eq!(order(Some(2), Some(1)), Slot::A);
        assert_eq!(order(Some(u32::MAX), Some(0)), Slot::B);
        assert_eq!(order(Some(0), Some(u32::MAX)), Slot::A);
        assert_eq!(order(None, Some(1)), Slot::B);
        assert_eq!(order(Some(1), None), Slot::A);
    }

    #[test]
    fn a_region_gives_what_its_records_say() {
        let mut region = [ERASED; 0x1000];
        let slots = Slots::new(region.len());
        assert!(stored(&region).iter().flatten().next().is_none());
        let long = Record {
            sequence: 8,
            model_bytes: u32::MAX,
            ..RECORD
        };
        region[slots.record(Slot::A)].copy_from_slice(&RECORD.encode());
        region[slots.record(Slot::B)].copy_from_slice(&long.encode());
        let [Some(newest), Some(older)] = stored(&region) else {
            unreachable!("both have records")
        };
        assert_eq!((newest.slot, newest.record), (Slot::B, long));
        assert_eq!(newest.file.len(), slots.capacity());
        assert_eq!((older.slot, older.file.len()), (Slot::A, 1000));
        assert!(matches!(older.parse(), Err(ParseError::Crc { .. })));
    }
}
