//! The flags that say where to train.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use espalier::distributed::{DeviceName, Devices, Layout, Token};
use espalier::network::Network;
use espalier::train::SplitCost;
use serde::Serialize;

use super::Error;

/// They are no keys of the project: a training may go on on other devices.
#[derive(Args, Clone, Debug)]
pub struct DeviceFlags {
    /// Where to train, once for each device: `flex` (the cores of this machine), `HOST:PORT`
    /// (where `espalier worker` runs), `cuda[:N]`, `wgpu[:N]`
    #[arg(long = "device", value_name = "DEVICE", help_heading = "Devices")]
    devices: Vec<DeviceName>,
    /// Divide the network between two devices: this layer and those behind it on the second
    #[arg(
        long,
        value_name = "LAYER",
        requires = "devices",
        help_heading = "Devices"
    )]
    split: Option<String>,
    /// The token of the workers; else that in the environment variable ESPALIER_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Devices")]
    token_file: Option<PathBuf>,
    /// Seconds after which a silent worker counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=15),
        help_heading = "Devices")]
    device_timeout: u64,
}

impl DeviceFlags {
    /// Opens them, if any were named.
    pub fn open(&self) -> Result<Option<Devices>, Error> {
        if self.devices.is_empty() {
            return Ok(None);
        }
        let layout = match &self.split {
            None => Layout::Parts,
            Some(layer) => Layout::Split(layer.clone()),
        };
        let token = Token::find(self.token_file.as_deref())?;
        let patience = Duration::from_secs(self.device_timeout);
        let devices = Devices::open(&self.devices, layout, token.as_ref(), patience)?;
        Ok(Some(devices))
    }
}

/// On which devices a training ran.
#[derive(Serialize)]
pub struct Used {
    /// All, as they were named.
    pub devices: Vec<String>,
    /// Those that were lost on the way.
    pub lost_devices: Vec<String>,
    /// What a divided network sends to and fro.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitCost>,
}

impl Used {
    /// By a training of a network with batches of at most so many pictures.
    pub fn of(devices: &Devices, network: &Network, pictures: usize) -> Self {
        let all = devices.all().iter();
        let lost = all.clone().filter(|seat| seat.lost().is_some());
        Self {
            devices: all.map(|seat| seat.name().to_string()).collect(),
            lost_devices: lost.map(|seat| seat.name().to_string()).collect(),
            split: SplitCost::of(devices, network, pictures),
        }
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "devices            {}", self.devices.join(", "))?;
        if !self.lost_devices.is_empty() {
            write!(f, "; lost: {}", self.lost_devices.join(", "))?;
        }
        if let Some(split) = &self.split {
            write!(f, "\nsplit              {split}")?;
        }
        Ok(())
    }
}
