//! What several tests need.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

pub mod bench;
pub mod command;
pub mod cost;
pub mod cycles;
pub mod digits;
pub mod hosts;
pub mod measured;
pub mod models;
pub mod power;
pub mod probe;
pub mod scale;
pub mod speed;
pub mod worker;
