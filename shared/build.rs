//! Sets `espalier_dsp` where the target has the DSP instructions of Armv7E-M or Armv8-M, and `espalier_armv8m` beside it
//! for the latter. Cargo's own `target_feature = "dsp"` is not told to stable builds for these targets, so their names
//! and CPUs have to do.

use std::env;

/// Armv8-M CPUs whose rustc definition has the instructions. On a Cortex-M33 they are an option: a chip without them
/// needs another `cpu` in its board.toml.
const ARMV8M_WITH_DSP: [&str; 4] = ["cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(espalier_dsp, espalier_armv8m)");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let target = variable("TARGET");
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let cpu = |name: &&str| flags.contains(&format!("target-cpu={name}"));
    let armv8m = target.starts_with("thumbv8m.main") && ARMV8M_WITH_DSP.iter().any(cpu);
    if armv8m {
        println!("cargo::rustc-cfg=espalier_armv8m");
    }
    if target.starts_with("thumbv7em") || armv8m {
        println!("cargo::rustc-cfg=espalier_dsp");
    }
}
