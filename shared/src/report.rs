//! What a run on the device tells the host, as one postcard value.

use serde::{Deserialize, Serialize};

/// Result of one run of the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
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
}
