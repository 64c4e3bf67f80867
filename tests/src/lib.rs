//! What several tests need.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

pub mod command;
pub mod cost;
pub mod models;
