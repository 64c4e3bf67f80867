//! Tells the linker where flash and RAM are.

fn main() {
    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rustc-link-search={}", env!("CARGO_MANIFEST_DIR"));
    for argument in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // Without it defmt compiles every message below an error away.
    println!("cargo::rustc-env=DEFMT_LOG=info");
}
