//! Trains a convolutional network on a small sample, compresses it, and packs it
//! into a model file that the same engine runs on the host and on a chip.
//!
//! Burn appears in [`network`], [`train`], [`distributed`], [`explain`] and [`quantise::calibrate()`] only,
//! and its last release with Candle in `candle`.

pub mod augment;
#[cfg(feature = "candle")]
pub mod candle;
pub mod checkpoint;
pub mod compress;
pub mod confidence;
pub mod config;
pub mod data;
pub mod device;
pub mod distributed;
pub mod explain;
pub mod file;
pub mod network;
pub mod plot;
pub mod quantise;
mod random;
pub mod score;
pub mod simulate;
pub mod train;
