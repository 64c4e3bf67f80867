//! Two hosts on this machine: network namespaces with a cable between them.

use std::process::Command;

/// Address of the host where trainings are started.
pub const HERE: &str = "10.213.7.1";
/// Address of the host with a worker.
pub const THERE: &str = "10.213.7.2";

/// Two hosts that are taken away when they are dropped.
pub struct Hosts {
    /// Namespace of [`HERE`].
    pub here: String,
    /// Namespace of [`THERE`].
    pub there: String,
}

impl Hosts {
    /// Makes them, or says why that does not work: it takes `ip` and the rights of root.
    pub fn new() -> Result<Self, String> {
        let process = std::process::id();
        let hosts = Self {
            here: format!("espalier-a{process}"),
            there: format!("espalier-b{process}"),
        };
        let (here, there) = (hosts.here.as_str(), hosts.there.as_str());
        ip(&["netns", "add", here])?;
        ip(&["netns", "add", there])?;
        ip(&[
            "-n", here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
            there,
        ])?;
        for (host, address) in [(here, HERE), (there, THERE)] {
            ip(&[
                "-n",
                host,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "cable",
            ])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
            ip(&["-n", host, "link", "set", "cable", "up"])?;
        }
        Ok(hosts)
    }

    /// Pulls the cable out, or plugs it in again.
    pub fn set_cable(&self, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        let set = ip(&["-n", &self.there, "link", "set", "cable", state]);
        assert_eq!(set, Ok(()));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.here, &self.there] {
            // One that was never made is not there.
            let _ = ip(&["netns", "delete", host]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output
        .map_err(|error| format!("`ip`, of Debian's package iproute2, does not start: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "`ip {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
