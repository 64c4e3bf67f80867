//! Training on other devices: machines where `espalier worker` runs, and graphics cards.
//!
//! The engine that runs a network on another machine is Burn's own (`burn-remote`), over
//! QUIC as Iroh has it, without its relays and its discovery. This module names devices,
//! opens them, and knows which are lost. What a training gives to which is in
//! [`train`](crate::train).

mod devices;
mod error;
mod name;
mod quiet;
#[cfg(feature = "remote")]
mod remote;
mod token;

pub use devices::{Devices, Layout, Seat};
pub use error::DeviceError;
pub use name::{DeviceName, NoDeviceName};
#[cfg(feature = "remote")]
pub use remote::{DEFAULT_PORT, Server, random_token};
pub use token::{TOKEN_VARIABLE, Token, TokenError};

/// What a worker and its clients must have in common.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
