//! What a device answered, emulated or on the desk, and what that cost it.

use shared::report::Report;

use super::Board;

/// Answers of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRun {
    /// The outputs, one behind the other.
    pub outputs: Vec<i8>,
    /// Whether the model was sure enough of each answer.
    pub sure: Vec<bool>,
    /// For each inference what each layer computed, in the order of the layers; of a
    /// convolution that is computed with the max pool behind it, what the pool did. Empty
    /// where nobody asked.
    pub layers: Vec<i8>,
    /// What the firmware measured.
    pub report: Report,
    /// All inferences together: instructions in the emulator, exact to one tick of SysTick
    /// in each; cycles on a board.
    pub work: u64,
    /// The same by layer, as [`Report::layer_ticks`].
    pub layer_work: Vec<u64>,
    /// What the firmware said.
    pub log: Vec<String>,
}

impl DeviceRun {
    /// A run without answers: what the report says.
    pub fn measured(board: &Board, report: Report) -> Self {
        let ticks = report.layer_ticks.iter();
        Self {
            outputs: Vec::new(),
            sure: Vec::new(),
            layers: Vec::new(),
            work: board.work(report.ticks),
            layer_work: ticks.map(|&ticks| board.work(ticks.into())).collect(),
            report,
            log: Vec::new(),
        }
    }

    /// Mean of the inferences, or of the self-tests where the host asked for none.
    pub fn work_per_inference(&self) -> u64 {
        self.work / self.report.runs()
    }

    /// The same by layer.
    pub fn work_by_layer(&self) -> Vec<u64> {
        let runs = self.report.runs();
        self.layer_work.iter().map(|sum| sum / runs).collect()
    }
}
