//! Writes flash, but only what is not there yet, and reads back what it wrote.

use std::ops::Range;

use indicatif::ProgressBar;
use serde::Serialize;
use shared::slots::{self, Flash, InstallError, PAGE_BYTES, Record, Slot};

use super::error::ProbeError;
use super::link::{Link, LinkError};
use super::program::{Piece, Program};
use crate::device::board::Board;

/// What a chip's flash has at the end, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Flashed {
    /// Bytes of the firmware's sectors that were erased and written.
    pub firmware_written: u64,
    /// Bytes of its sectors that were right already.
    pub firmware_kept: u64,
    /// The slot that holds the model.
    pub slot: &'static str,
    /// Whether the model was written; if not, it was there already.
    pub model_written: bool,
}

/// Refuses a firmware that reaches into the model's region, and slots that cannot be erased one without the other.
pub(super) fn check_layout(
    link: &dyn Link,
    board: &Board,
    program: &Program,
) -> Result<(), ProbeError> {
    let model = u64::from(board.model.address);
    let last = sector(link, board, program.end().saturating_sub(1))?;
    let firmware_end = last.end.max(program.end());
    let begins_below = program.image.iter().any(|piece| piece.address < model);
    if begins_below && firmware_end > model {
        return Err(ProbeError::Overlap {
            board: board.name,
            firmware_end,
            model,
        });
    }
    let second = model + board.slots().start(Slot::B) as u64;
    let shared = sector(link, board, second)?.start;
    match shared == second {
        true => Ok(()),
        false => Err(ProbeError::SharedSector {
            board: board.name,
            sector: shared,
        }),
    }
}

fn sector(link: &dyn Link, board: &Board, address: u64) -> Result<Range<u64>, ProbeError> {
    link.sector(address).ok_or(ProbeError::NoFlash {
        board: board.name,
        address,
    })
}

/// Reads flash. A chip whose RAM can be read and whose flash can not is locked.
fn read(link: &mut dyn Link, board: &Board, range: &Range<u64>) -> Result<Vec<u8>, ProbeError> {
    let bytes = link.read_vec(range.start, (range.end - range.start) as usize);
    bytes.map_err(|error| refused(error, board))
}

fn refused(error: LinkError, board: &Board) -> ProbeError {
    match error {
        LinkError::Fault { .. } | LinkError::Locked(_) => ProbeError::Locked {
            board: board.name,
            chip: board
                .probe
                .as_ref()
                .map_or_else(String::new, |probe| probe.chip.clone()),
            reason: error.to_string(),
        },
        other => ProbeError::Lost(other),
    }
}

/// Whether flash holds the firmware.
pub(super) fn holds(
    link: &mut dyn Link,
    board: &Board,
    program: &Program,
) -> Result<bool, ProbeError> {
    for piece in &program.image {
        if read(link, board, &(piece.address..piece.end()))? != piece.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the sectors of the firmware that hold something else, and says how many bytes they and the others have.
pub(super) fn write_firmware(
    link: &mut dyn Link,
    board: &Board,
    program: &Program,
    progress: bool,
) -> Result<(u64, u64), ProbeError> {
    let (runs, kept) = changed(link, board, &program.image)?;
    let total = runs.iter().map(|run| run.bytes.len() as u64).sum();
    let bar = if progress {
        ProgressBar::new(total)
    } else {
        ProgressBar::hidden()
    };
    let mut written = 0;
    for run in &runs {
        let failed = |error| match error {
            LinkError::Flash(reason) => ProbeError::Flash {
                address: run.address,
                reason,
            },
            lost => ProbeError::HalfWritten(lost, written, total),
        };
        write_run(link, run).map_err(failed)?;
        if link
            .read_vec(run.address, run.bytes.len())
            .map_err(failed)?
            != run.bytes
        {
            return Err(ProbeError::Verify(run.address));
        }
        written += run.bytes.len() as u64;
        bar.set_position(written);
    }
    bar.finish_and_clear();
    Ok((written, kept))
}

/// Sectors that have to change, with what they have to hold, neighbours in one piece; and how many bytes the others have.
fn changed(
    link: &mut dyn Link,
    board: &Board,
    image: &[Piece],
) -> Result<(Vec<Piece>, u64), ProbeError> {
    let (mut runs, mut kept): (Vec<Piece>, u64) = (Vec::new(), 0);
    for sector in sectors(link, board, image)? {
        let now = read(link, board, &sector)?;
        let mut then = now.clone();
        for piece in image {
            lay(&mut then, sector.start, piece);
        }
        if then == now {
            kept += sector.end - sector.start;
            continue;
        }
        match runs.last_mut().filter(|run| run.end() == sector.start) {
            Some(run) => run.bytes.extend(then),
            None => runs.push(Piece {
                address: sector.start,
                bytes: then,
            }),
        }
    }
    Ok((runs, kept))
}

/// Every sector that the image touches, in order.
fn sectors(link: &dyn Link, board: &Board, image: &[Piece]) -> Result<Vec<Range<u64>>, ProbeError> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for piece in image {
        let mut address = piece.address;
        while address < piece.end() {
            let sector = sector(link, board, address)?;
            address = sector.end;
            all.push(sector);
        }
    }
    all.sort_by_key(|sector| sector.start);
    all.dedup();
    Ok(all)
}

/// Lays a piece over the part of it that a sector holds.
fn lay(sector: &mut [u8], start: u64, piece: &Piece) {
    let end = start + sector.len() as u64;
    let (from, to) = (piece.address.max(start), piece.end().min(end));
    if from < to {
        let source = (from - piece.address) as usize..(to - piece.address) as usize;
        let place = (from - start) as usize..(to - start) as usize;
        sector[place].copy_from_slice(&piece.bytes[source]);
    }
}

/// Erases and writes; what is erased need not be written.
fn write_run(link: &mut dyn Link, run: &Piece) -> Result<(), LinkError> {
    link.erase(run.address..run.end())?;
    let used = run.bytes.iter().rposition(|&byte| byte != 0xFF);
    match run.bytes.get(..used.map_or(0, |last| last + 1)) {
        Some([]) | None => Ok(()),
        Some(bytes) => link.program(run.address, bytes),
    }
}

/// Puts the model into the slot that is not in use, unless the model in use is the same. Says which slot holds it, and
/// whether it was written.
pub(super) fn write_model(
    link: &mut dyn Link,
    board: &Board,
    model: &[u8],
) -> Result<(Slot, bool), ProbeError> {
    let slots = board.slots();
    let mut arena = vec![0; board.arena as usize];
    let mut region = Region::new(link, board);
    let working = slots::working(&mut region, slots, &mut arena);
    if let Some(there) = working.map_err(|error| refused(error, board))?
        && Record::of(model, there.record.sequence) == there.record
    {
        return Ok((there.slot, false));
    }
    let installed = slots::install(&mut region, slots, model, &mut arena);
    let failed = |error| match error {
        InstallError::Flash(lost @ LinkError::Lost(_)) => ProbeError::ModelHalfWritten(lost),
        error => ProbeError::Install(error),
    };
    let installed = installed.map_err(failed)?;
    region
        .flush()
        .map_err(|error| failed(InstallError::Flash(error)))?;
    Ok((installed.slot, true))
}

/// The flash of both slots, behind a probe. Pages that follow each other are written together, because every call of a
/// flash algorithm loads it first; they are read back before anything else is read or written.
struct Region<'l> {
    link: &'l mut dyn Link,
    address: u64,
    waiting: Option<Piece>,
    copy: Vec<u8>,
}

impl<'l> Region<'l> {
    fn new(link: &'l mut dyn Link, board: &Board) -> Self {
        Self {
            link,
            address: board.model.address.into(),
            waiting: None,
            copy: Vec::new(),
        }
    }

    fn place(&self, range: &Range<usize>) -> Range<u64> {
        self.address + range.start as u64..self.address + range.end as u64
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        let Some(Piece { address, bytes }) = self.waiting.take() else {
            return Ok(());
        };
        self.link.program(address, &bytes)?;
        match self.link.read_vec(address, bytes.len())? == bytes {
            true => Ok(()),
            false => Err(LinkError::Flash(format!(
                "at {address:#x} it does not hold what was written; it may be worn out"
            ))),
        }
    }
}

impl Flash for Region<'_> {
    type Error = LinkError;

    fn read(&mut self, range: Range<usize>) -> Result<&[u8], LinkError> {
        let place = self.place(&range);
        // The page that was just written waits for its neighbours, and is read back with them.
        let last = self.waiting.as_ref().and_then(|it| {
            let page = it.bytes.last_chunk::<PAGE_BYTES>()?;
            (it.end() == place.end && range.len() == PAGE_BYTES).then(|| page.to_vec())
        });
        self.copy = match last {
            Some(page) => page,
            None => {
                self.flush()?;
                self.link.read_vec(place.start, range.len())?
            }
        };
        Ok(&self.copy)
    }

    fn erase(&mut self, range: Range<usize>) -> Result<(), LinkError> {
        self.flush()?;
        let place = self.place(&range);
        let sector = |address| {
            let none = || LinkError::Flash(format!("there is no flash at {address:#x}"));
            self.link.sector(address).ok_or_else(none)
        };
        let whole = sector(place.start)?.start..sector(place.end.saturating_sub(1))?.end;
        self.link.erase(whole)
    }

    fn program(&mut self, offset: usize, page: &[u8; PAGE_BYTES]) -> Result<(), LinkError> {
        let address = self.address + offset as u64;
        match self.waiting.as_mut().filter(|it| it.end() == address) {
            Some(waiting) => waiting.bytes.extend(page),
            None => {
                self.flush()?;
                let bytes = page.to_vec();
                self.waiting = Some(Piece { address, bytes });
            }
        }
        Ok(())
    }
}
