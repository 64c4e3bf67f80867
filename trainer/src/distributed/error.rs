//! Why a device cannot be used.

use std::net::SocketAddr;

use super::{DeviceName, TOKEN_VARIABLE};

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Two names of one device.
    #[error("`--device {0}` is given twice; each device takes one part of a batch")]
    Twice(DeviceName),
    /// A split without two sides.
    #[error(
        "`--split` divides a network between two devices, and there are {0}: give `--device` twice, first that of the \
         layers before"
    )]
    NotTwo(usize),
    /// Left out when espalier was built.
    #[error(
        "`--device {name}` needs the Cargo feature `{feature}`, which this espalier was built without: build it with \
         `cargo build --release --features {feature}`"
    )]
    NoFeature {
        /// The device.
        name: DeviceName,
        /// What it needs.
        feature: &'static str,
    },
    /// A graphics card that is not there.
    #[error(
        "there is no `{name}` in this machine: {found} such devices were found; `flex` is always there"
    )]
    NoDevice {
        /// The device.
        name: DeviceName,
        /// How many there are.
        found: usize,
    },
    /// A worker without the secret.
    #[error(
        "`--device {0}` needs the token that its worker printed or was given: put it into a file for `--token-file`, \
         or into the environment variable {TOKEN_VARIABLE}"
    )]
    NoToken(DeviceName),
    /// A host that has no address.
    #[error("`--device {name}`: the address of the host is not known: {source}")]
    Host {
        /// The device.
        name: DeviceName,
        /// Why.
        source: std::io::Error,
    },
    /// No answer.
    #[error(
        "nothing answers at {name} within {seconds} s: is `espalier worker` running there, listening on that address \
         and not on 127.0.0.1 alone, and does every firewall between let UDP through?"
    )]
    NoAnswer {
        /// The device.
        name: DeviceName,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// Another token, or something else that speaks QUIC.
    #[error(
        "what answers at {0} does not have this token: compare it with the token of the worker there"
    )]
    OtherToken(DeviceName),
    /// Another espalier.
    #[error(
        "the worker at {name} is espalier {theirs} and this is espalier {ours}: both sides need the same version"
    )]
    OtherVersion {
        /// The device.
        name: DeviceName,
        /// Its version.
        theirs: String,
        /// The version here.
        ours: String,
    },
    /// Another failure of the connection.
    #[error("the worker at {name} cannot be used: {reason}")]
    Connection {
        /// The device.
        name: DeviceName,
        /// Why.
        reason: String,
    },
    /// An address that cannot be listened on.
    #[error("{address}: cannot listen there: {reason}; give another as `--listen ADDRESS:PORT`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// No threads, sockets or signals from the system.
    #[error("the system refuses what a connection needs: {0}")]
    System(String),
}
