//! What runs on the chip stays small: `shared` and `firmware` depend on nothing
//! of the trainer's side and on nothing that needs `std`.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::BTreeSet;
use std::process::Command;

use espalier_tests::command::workspace;

/// Everything that either crate may link on the chip.
const ALLOWED: &[&str] = &[
    "bare-metal",
    "bitfield",
    "bitflags",
    "bytemuck",
    "byteorder",
    "cobs",
    "cortex-m",
    "cortex-m-rt",
    "cortex-m-semihosting",
    "crc",
    "crc-catalog",
    "critical-section",
    "defmt",
    "defmt-semihosting",
    "embedded-hal",
    "embedded-io",
    "hash32",
    "heapless",
    "nb",
    "portable-atomic",
    "postcard",
    "rp2040-boot2",
    "rtt-target",
    "semihosting",
    "serde",
    "serde_core",
    "stable_deref_trait",
    "thiserror",
    "ufmt-write",
    "vcell",
    "void",
    "volatile-register",
    "espalier-shared",
    "espalier-firmware",
];

/// Names of the crates that a package links for a target, build scripts and
/// procedural macros left out.
fn linked(package: &str, features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            package,
            "--features",
            features,
            "--edges",
            "normal,no-proc-macro",
        ])
        .args([
            "--target",
            "thumbv7em-none-eabihf",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn check(package: &str, features: &str) {
    let linked = linked(package, features);
    assert!(linked.contains(package));
    for name in &linked {
        assert!(
            ALLOWED.contains(&name.as_str()),
            "{package} links {name}, which is not for the chip"
        );
    }
}

#[test]
fn shared_links_nothing_of_the_host() {
    check("espalier-shared", "");
}

#[test]
fn firmware_links_nothing_of_the_host() {
    check("espalier-firmware", "mps2-an386");
    check("espalier-firmware", "nrf52840-dk");
    check("espalier-firmware", "pico");
}

#[test]
fn shared_and_firmware_declare_no_std() {
    for file in ["shared/src/lib.rs", "firmware/src/main.rs"] {
        let text = std::fs::read_to_string(workspace().join(file)).unwrap();
        let declared = ["#![no_std]", "#![cfg_attr(not(test), no_std)]"];
        assert!(
            declared.iter().any(|attribute| text.contains(attribute)),
            "{file}"
        );
        assert!(!text.contains("extern crate std") && !text.contains("extern crate alloc"));
    }
}
