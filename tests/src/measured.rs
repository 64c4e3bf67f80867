//! What a committed model does now.

use std::path::Path;
use std::time::Duration;

use espalier::data::{self, Part, Source};
use espalier::device::verify::compare;
use espalier::device::{Board, emulator};
use espalier::score::Score;
use espalier::simulate::{self, inputs, options};
use shared::Model;

/// Pictures that the emulated chip answers.
const EMULATED: usize = 20;
/// How long it may take for them.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A model on all test pictures in the host simulation, and on some in the emulator.
pub struct Measured {
    /// Weights and biases in the file.
    pub params: usize,
    /// On all test pictures.
    pub score: Score,
    /// Of one inference on the emulated chip.
    pub instructions: u64,
    /// Outputs of the emulated chip that are not those of the host.
    pub mismatched: usize,
}

impl Measured {
    /// Of this model file, by a firmware for the board.
    pub fn new(
        bytes: &[u8],
        source: &Source,
        board: &Board,
        elf: &Path,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let model = Model::parse(bytes)?;
        let mut test = data::load(source, Part::Test, &options(&model))?;
        let score = simulate::simulate(&model, &test)?;
        test.pictures.truncate(EMULATED);
        let inputs = inputs(&model, &test);
        let run = emulator::run(board, elf, bytes, &inputs, LIMIT)?;
        let params = model.steps().filter_map(|step| model.params(&step));
        Ok(Self {
            params: params.map(|p| p.weights() + p.channels).sum(),
            score,
            instructions: run.work_per_inference(),
            mismatched: compare(&model, &inputs, &run).mismatched_bytes,
        })
    }
}
