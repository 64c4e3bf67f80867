//! Devices that are open, and which of them are lost.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{DeviceError, DeviceName, Token};

/// What each device computes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layout {
    /// A part of every batch, with the whole network.
    Parts,
    /// The whole batch with a part of the network: the second device has the layer of this
    /// name and all behind it, the first one those before.
    Split(String),
}

/// The devices of one or several trainings, one after the other.
pub struct Devices {
    seats: Vec<Seat>,
    layout: Layout,
    patience: Duration,
}

/// One of them.
pub struct Seat {
    name: DeviceName,
    device: Device,
    /// One thread, always the same: backends keep state for each.
    thread: ThreadPool,
    lost: OnceLock<String>,
    /// Ends with the seat.
    #[cfg(feature = "remote")]
    _link: Option<super::remote::Link>,
}

impl Devices {
    /// Opens them all. `patience`, 1 to 15 s, is how long a worker may be silent before it
    /// counts as lost.
    pub fn open(
        names: &[DeviceName],
        layout: Layout,
        token: Option<&Token>,
        patience: Duration,
    ) -> Result<Self, DeviceError> {
        let mut seen = HashSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(DeviceError::Twice(twice.clone()));
        }
        if matches!(layout, Layout::Split(_)) && names.len() != 2 {
            return Err(DeviceError::NotTwo(names.len()));
        }
        super::quiet::silence_devices();
        let seats = names.iter().map(|name| Seat::open(name, token, patience));
        Ok(Self {
            seats: seats.collect::<Result<_, _>>()?,
            layout,
            patience,
        })
    }

    /// What each computes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All, in the order in which they were named.
    pub fn all(&self) -> &[Seat] {
        &self.seats
    }

    /// Those that are not lost.
    pub fn left(&self) -> Vec<&Seat> {
        let left = self.seats.iter().filter(|seat| seat.lost().is_none());
        left.collect()
    }

    /// How long a worker may be silent.
    pub fn patience(&self) -> Duration {
        self.patience
    }
}

impl Seat {
    #[cfg_attr(not(feature = "remote"), allow(unused_variables))]
    fn open(
        name: &DeviceName,
        token: Option<&Token>,
        patience: Duration,
    ) -> Result<Self, DeviceError> {
        let thread = ThreadPoolBuilder::new().num_threads(1).build();
        let thread = thread.map_err(|error| DeviceError::System(error.to_string()))?;
        #[cfg(feature = "remote")]
        let mut link = None;
        let device = match name {
            DeviceName::Flex => Device::flex(),
            DeviceName::Cuda(index) => cuda(name, *index)?,
            DeviceName::Wgpu(index) => wgpu(name, *index)?,
            #[cfg(feature = "remote")]
            DeviceName::Worker { host, port } => {
                let token = token.ok_or_else(|| DeviceError::NoToken(name.clone()))?;
                let (opened, device) =
                    super::remote::Link::open(name, (host, *port), token, patience)?;
                link = Some(opened);
                device
            }
            #[cfg(not(feature = "remote"))]
            DeviceName::Worker { .. } => return Err(no_feature(name, "remote")),
        };
        Ok(Self {
            name: name.clone(),
            device,
            thread,
            lost: OnceLock::new(),
            #[cfg(feature = "remote")]
            _link: link,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &DeviceName {
        &self.name
    }

    /// Whether it is this machine's cores.
    pub fn is_here(&self) -> bool {
        self.name == DeviceName::Flex
    }

    /// The device, without gradients.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Why it is lost, once it is.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Uses it no more. The first reason is kept.
    pub(crate) fn lose(&self, reason: String) {
        self.lost.get_or_init(|| reason);
    }

    /// Works on the device's own thread. A panic is the reason why it is lost: Burn's
    /// operations give no errors, and where a device fails in one of them, a panic is all
    /// that comes out. What was computed with is thrown away then.
    pub(crate) fn work<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let work = || {
            super::quiet::keep_quiet();
            work()
        };
        catch_unwind(AssertUnwindSafe(|| self.thread.install(work))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(text.unwrap_or_else(|| "it failed without a word".to_owned()))
        })
    }
}

#[cfg(not(all(feature = "remote", feature = "cuda", feature = "wgpu")))]
fn no_feature(name: &DeviceName, feature: &'static str) -> DeviceError {
    DeviceError::NoFeature {
        name: name.clone(),
        feature,
    }
}

#[cfg(feature = "cuda")]
fn cuda(name: &DeviceName, index: usize) -> Result<Device, DeviceError> {
    listed(name, index, burn::tensor::DeviceType::Cuda)
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &DeviceName, _: usize) -> Result<Device, DeviceError> {
    Err(no_feature(name, "cuda"))
}

#[cfg(feature = "wgpu")]
fn wgpu(name: &DeviceName, index: usize) -> Result<Device, DeviceError> {
    listed(name, index, burn::tensor::DeviceType::Wgpu)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(name: &DeviceName, _: usize) -> Result<Device, DeviceError> {
    Err(no_feature(name, "wgpu"))
}

/// One of the devices that Burn lists; it panics where one is used that is not there, and
/// may where the driver is not.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn listed(
    name: &DeviceName,
    index: usize,
    kind: burn::tensor::DeviceType,
) -> Result<Device, DeviceError> {
    let list = || {
        super::quiet::keep_quiet();
        Device::enumerate(kind).into_vec()
    };
    let thread = std::thread::spawn(list);
    let mut devices = thread.join().unwrap_or_default();
    let found = devices.len();
    match index < found {
        true => Ok(devices.swap_remove(index)),
        false => Err(DeviceError::NoDevice {
            name: name.clone(),
            found,
        }),
    }
}
