//! What lies in the slots of a board.

use std::fmt;

use serde::Serialize;
use shared::report::Report;
use shared::slots::{Record, Slot, stored};

use super::RefusedModel;
use super::board::{Board, BoardError};

/// The bytes of a board's model region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'b> {
    board: &'b Board,
    bytes: Vec<u8>,
}

impl<'b> Image<'b> {
    /// Erased flash.
    pub fn erased(board: &'b Board) -> Self {
        Self {
            board,
            bytes: vec![0xFF; board.model.bytes as usize],
        }
    }

    /// A board's flash with one model, as the first install leaves it: in slot A with the sequence number 1.
    pub fn with(board: &'b Board, model: &[u8]) -> Result<Self, BoardError> {
        let mut image = Self::erased(board);
        image.put(Slot::A, 1, model)?;
        Ok(image)
    }

    /// Puts a model with its record into a slot, whatever is there. It is not checked.
    pub fn put(&mut self, slot: Slot, sequence: u32, model: &[u8]) -> Result<(), BoardError> {
        self.board.admit_file(model.len())?;
        let slots = self.board.slots();
        let record = Record::of(model, sequence).encode();
        for (offset, bytes) in [
            (slots.start(slot), model),
            (slots.record(slot).start, &record),
        ] {
            self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The board.
    pub fn board(&self) -> &'b Board {
        self.board
    }

    /// What a firmware refuses that refuses all that is there.
    pub fn refused(&self) -> RefusedModel {
        let mut models = stored(&self.bytes).into_iter().flatten();
        let reason = models.find_map(|model| model.parse().err());
        RefusedModel { reason }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it, to be damaged.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Which model a board runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    slot: Slot,
    sequence: u32,
    fell_back: bool,
}

impl From<&Report> for Running {
    fn from(report: &Report) -> Self {
        let &Report {
            slot,
            sequence,
            fell_back,
            ..
        } = report;
        Self {
            slot,
            sequence,
            fell_back,
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}, sequence {}", self.slot.name(), self.sequence)?;
        if self.fell_back {
            let newer = self.slot.other().name();
            write!(
                f,
                ": the newer one in slot {newer} does not work, the log says why"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_record_behind_each_model() {
        let board = Board::named("microbit").unwrap();
        let mut image = Image::with(&board, b"one").unwrap();
        image.put(Slot::B, 2, b"another").unwrap();
        let [newest, older] = stored(image.bytes()).map(Option::unwrap);
        assert_eq!((newest.slot, newest.file), (Slot::B, &b"another"[..]));
        assert_eq!((older.slot, older.file), (Slot::A, &b"one"[..]));
        let long = vec![0; board.slots().capacity() + 1];
        assert!(image.put(Slot::A, 3, &long).is_err());
    }

    #[test]
    fn a_fall_back_is_told() {
        let running = Running {
            slot: Slot::A,
            sequence: 4,
            fell_back: true,
        };
        let words = running.to_string();
        assert!(
            words.starts_with("slot A, sequence 4: the newer one in slot B"),
            "{words}"
        );
    }
}
