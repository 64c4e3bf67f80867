//! From float to int8: ranges seen on sample pictures, scales, factors, and the
//! model file.
//!
//! The scheme is the TensorFlow Lite quantisation specification: weights int8
//! per output channel and symmetric, activations int8 per tensor and
//! asymmetric, biases int32 in units of input scale x weight scale.

mod calibrate;
mod coded;
mod dead;
mod export;
pub mod factor;
mod grid;
pub mod layout;
mod plan;
mod sparse;
mod writer;

pub use calibrate::{Method, Ranges, calibrate};
pub use dead::remove_dead_channels;
pub use export::{DeadChannels, ExportError, ExportOptions, Exported, export};
pub use grid::{Grid, Levels};
pub use layout::{Choice, Prefer};
pub use writer::{Block, ModelFile, WriteError, WrittenLayer, with_confidence};
