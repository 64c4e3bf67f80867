//! Makes a trained network smaller. One file per method; each takes a
//! checkpoint and gives one back.

pub mod prune;
