//! What a run on the device tells the host, as one postcard value, and why it ended.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::model::MAX_LAYERS;
use crate::slots::Slot;

/// Result of one run of the firmware.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Slot of the model that runs.
    pub slot: Slot,
    /// Sequence number of its record.
    pub sequence: u32,
    /// Whether a newer model lies in the other slot, which does not work.
    pub fell_back: bool,
    /// Self-test vectors of the model that were run.
    pub self_tests: u16,
    /// Those whose output differed in at least one byte.
    pub self_test_failures: u16,
    /// Inferences on inputs from the host.
    pub inferences: u32,
    /// Timer ticks of all those inferences together (of the self-tests where
    /// the host sent nothing). In the emulator a tick is a fixed number of
    /// executed instructions, on a board a number of cycles.
    pub ticks: u64,
    /// Bytes of stack used at the deepest point, measured by painting.
    pub stack_bytes: u32,
    /// Those ticks by layer, [`u32::MAX`] where they are more; of a convolution
    /// that is computed with the max pool behind it, with those of the pool.
    pub layer_ticks: Vec<u32, MAX_LAYERS>,
}

impl Report {
    /// No report is longer: two bytes, two `u16`, three `u32`, one `u64`, and a number of
    /// `u32` as varints.
    pub const MAX_BYTES: usize = 2 + 2 * 3 + 3 * 5 + 10 + 1 + MAX_LAYERS * 5;

    /// Runs that the ticks are of: the inferences, or where there were none, the
    /// self-tests; at least 1, to divide by.
    pub fn runs(&self) -> u64 {
        let runs = match self.inferences {
            0 => self.self_tests.into(),
            inferences => inferences,
        };
        u64::from(runs.max(1))
    }

    /// The report as bytes for [`Report::decode`].
    pub fn encode<'b>(&self, buffer: &'b mut [u8; Self::MAX_BYTES]) -> &'b [u8] {
        // Every report fits, so the empty answer is never given.
        postcard::to_slice(self, buffer).map_or(&[], |bytes| bytes)
    }

    /// The report that [`Report::encode`] wrote, whatever lies behind it; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Why the firmware stopped. The codes keep clear of 1 and 2, which QEMU itself ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done and every self-test passed.
    Success = 0,
    /// Everything was done, but a self-test failed.
    SelfTestFailed = 10,
    /// The model in flash is none that this firmware reads.
    ModelRefused = 11,
    /// The model needs a larger arena than the board has.
    ArenaTooSmall = 12,
    /// The inputs are no multiple of the model's input.
    WrongInputs = 13,
    /// A file or a question of the host could not be used.
    HostFiles = 14,
    /// A panic or a hard fault.
    Crashed = 15,
    /// Neither slot holds a model.
    NoModel = 16,
}

impl Exit {
    /// What stands in place of a code while the firmware runs.
    pub const RUNNING: u8 = u8::MAX;

    /// The exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason behind an exit code.
    pub fn from_code(code: u8) -> Option<Self> {
        use Exit::{
            ArenaTooSmall, Crashed, HostFiles, ModelRefused, NoModel, SelfTestFailed, Success,
            WrongInputs,
        };
        [
            Success,
            SelfTestFailed,
            ModelRefused,
            ArenaTooSmall,
            WrongInputs,
            HostFiles,
            Crashed,
            NoModel,
        ]
        .into_iter()
        .find(|exit| exit.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_report_fits_and_comes_back() {
        let report = Report {
            slot: Slot::B,
            sequence: u32::MAX,
            fell_back: true,
            self_tests: u16::MAX,
            self_test_failures: u16::MAX,
            inferences: u32::MAX,
            ticks: u64::MAX,
            stack_bytes: u32::MAX,
            layer_ticks: Vec::from_array([u32::MAX; MAX_LAYERS]),
        };
        let mut buffer = [0; Report::MAX_BYTES];
        assert_eq!(report.encode(&mut buffer).len(), Report::MAX_BYTES);
        assert_eq!(Report::decode(&buffer), Some(report));
        assert_eq!(Report::decode(&[]), None);
    }

    #[test]
    fn exit_codes_come_back() {
        assert_eq!(Exit::from_code(Exit::Crashed.code()), Some(Exit::Crashed));
        assert_eq!(Exit::from_code(1), None);
        assert_eq!(Exit::from_code(Exit::RUNNING), None);
    }
}
