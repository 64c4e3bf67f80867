//! What a device is called on the command line.

use std::fmt;
use std::str::FromStr;

/// A device that a training can run on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DeviceName {
    /// The cores of this machine: `flex`.
    Flex,
    /// A machine where `espalier worker` runs: `HOST:PORT`.
    Worker {
        /// Its name, or its IP address without brackets.
        host: String,
        /// UDP port, from 1.
        port: u16,
    },
    /// A graphics card through CUDA: `cuda`, or `cuda:N` for the N-th from 0.
    Cuda(usize),
    /// A graphics card through Vulkan, Metal or DirectX: `wgpu`, or `wgpu:N` for the N-th
    /// from 0.
    Wgpu(usize),
}

/// Words that name no device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no device: `flex` is this machine, `HOST:PORT` one where `espalier worker` runs, `cuda` or `wgpu` a \
     graphics card, and `cuda:1` or `wgpu:1` the second one"
)]
pub struct NoDeviceName(String);

impl FromStr for DeviceName {
    type Err = NoDeviceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NoDeviceName(text.to_owned());
        let (name, number) = match text.rsplit_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let index = || {
            let index = number.map_or(Ok(0), str::parse::<usize>);
            index.map_err(|_| wrong())
        };
        match (name, number) {
            ("flex", None) => Ok(Self::Flex),
            ("cuda", _) => index().map(Self::Cuda),
            ("wgpu", _) => index().map(Self::Wgpu),
            (host, Some(port)) => {
                let port = port.parse().ok().filter(|&port| port != 0);
                Ok(Self::Worker {
                    host: bare(host).ok_or_else(wrong)?.to_owned(),
                    port: port.ok_or_else(wrong)?,
                })
            }
            _ => Err(wrong()),
        }
    }
}

/// A host without the brackets of an IPv6 address, which only that may have, and has to.
fn bare(host: &str) -> Option<&str> {
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let (host, is_address) = (inside.unwrap_or(host), inside.is_some());
    (!host.is_empty() && host.contains(':') == is_address).then_some(host)
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::Worker { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Worker { host, port } => write!(f, "{host}:{port}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [
            "flex",
            "cuda:0",
            "cuda:3",
            "wgpu:1",
            "bench.local:7411",
            "10.0.0.2:1",
            "[fe80::1]:65535",
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert_eq!("wgpu".parse(), Ok(DeviceName::Wgpu(0)));
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "",
            ":",
            "gpu",
            "flex:0",
            "cuda:",
            "cuda:x",
            "wgpu:-1",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":7411",
            "fe80::1:7411",
            "[]:7411",
            "[host]:7411",
        ] {
            let error = text.parse::<DeviceName>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is no device")),
                "{error}"
            );
        }
    }
}
