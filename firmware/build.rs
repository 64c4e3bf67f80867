//! Turns the chosen board's `board.toml` into the linker's memory map and the constants the source uses.

use std::{env, error::Error, fs, path::Path, path::PathBuf};

use toml::Table;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = chosen_board()?;
    let file = folder.join("board.toml");
    println!("cargo::rerun-if-changed={}", file.display());
    let board: Table = fs::read_to_string(&file)?.parse()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("memory.x"), memory_map(&board)?)?;
    // cortex-m-rt asks for the handlers of the chip's own interrupts, of which none is used.
    fs::write(out.join("device.x"), "")?;
    fs::write(out.join("board.rs"), constants(&folder, &board)?)?;
    parts(&board)?;
    link(&out);
    Ok(())
}

/// The keys that choose a part of a module, and their values.
const PARTS: [(&str, [&str; 2]); 2] = [
    ("boot", ["rp2040", "rp2350"]),
    ("watchdog", ["nrf52", "stm32"]),
];

/// Chooses parts of modules by `cfg(key = "value")`, and by `cfg(fault_status)` on cores that say why they crash.
fn parts(board: &Table) -> Result<(), Box<dyn Error>> {
    for (key, known) in PARTS {
        let [a, b] = known;
        println!("cargo::rustc-check-cfg=cfg({key}, values({a:?}, {b:?}))");
        match word(board, key) {
            Some(value) if known.contains(&value) => println!("cargo::rustc-cfg={key}={value:?}"),
            Some(value) => {
                return Err(format!("board.toml: {key} is {a} or {b}, not {value}").into());
            }
            None => {}
        }
    }
    println!("cargo::rustc-check-cfg=cfg(fault_status)");
    if !env::var("TARGET")?.starts_with("thumbv6m") {
        println!("cargo::rustc-cfg=fault_status");
    }
    Ok(())
}

/// The folder of the one board whose feature is on.
fn chosen_board() -> Result<PathBuf, Box<dyn Error>> {
    let boards = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("boards");
    println!("cargo::rerun-if-changed={}", boards.display());
    let mut chosen = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(boards)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let feature = name.to_uppercase().replace('-', "_");
        if env::var_os(format!("CARGO_FEATURE_{feature}")).is_some() {
            chosen.push(entry.path());
        }
        names.push(name);
    }
    names.sort();
    match <[PathBuf; 1]>::try_from(chosen) {
        Ok([board]) => Ok(board),
        Err(chosen) => Err(format!(
            "choose exactly one board, not {}: --features NAME with NAME one of {}",
            chosen.len(),
            names.join(", ")
        )
        .into()),
    }
}

fn memory_map(board: &Table) -> Result<String, Box<dyn Error>> {
    let (flash, flash_bytes) = region(board, "flash")?;
    let (ram, ram_bytes) = region(board, "ram")?;
    let stack = integer(board, "stack")?;
    let rest = ram_bytes
        .checked_sub(stack)
        .ok_or("stack is larger than ram.bytes")?;
    let (loader_bytes, sections) = boot(board);
    let (vectors, flash_bytes) = (flash + loader_bytes, flash_bytes - loader_bytes);
    // The stack lies below everything else: one that grows too far leaves RAM and faults, instead of
    // quietly overwriting the arena.
    Ok(format!(
        "MEMORY\n{{\n  BOOT : ORIGIN = {flash:#x}, LENGTH = {loader_bytes:#x}\n  \
         FLASH : ORIGIN = {vectors:#x}, LENGTH = {flash_bytes:#x}\n  \
         STACK : ORIGIN = {ram:#x}, LENGTH = {stack:#x}\n  \
         RAM : ORIGIN = {:#x}, LENGTH = {rest:#x}\n}}\n\
         _stack_end = ORIGIN(STACK);\n_stack_start = ORIGIN(STACK) + LENGTH(STACK);\n{sections}",
        ram + stack
    ))
}

/// What src/board/boot.rs holds for the boot ROM: its bytes in front of the table of vectors, and where the linker puts
/// it.
fn boot(board: &Table) -> (u32, &'static str) {
    match word(board, "boot") {
        Some("rp2040") => (
            0x100,
            "SECTIONS { .boot2 ORIGIN(BOOT) : { KEEP(*(.boot2)) } > BOOT } INSERT BEFORE .text;\n",
        ),
        Some("rp2350") => (
            0,
            "SECTIONS { .image_definition : { KEEP(*(.image_definition)) } > FLASH } INSERT AFTER .vector_table;\n\
             _stext = ALIGN(ADDR(.image_definition) + SIZEOF(.image_definition), ALIGNOF(.text));\n",
        ),
        _ => (0, ""),
    }
}

fn constants(folder: &Path, board: &Table) -> Result<String, Box<dyn Error>> {
    let name = folder
        .file_name()
        .ok_or("a board without a name")?
        .to_string_lossy();
    let (model, model_bytes) = region(board, "model")?;
    let (arena, hz) = (integer(board, "arena")?, integer(board, "systick_hz")?);
    Ok(format!(
        "/// The board's name.\npub const NAME: &str = {name:?};\n\
         /// RAM for the model's activations.\nconst ARENA_BYTES: usize = {arena:#x};\n\
         /// Where in flash the slots for models start.\npub const MODEL_ADDRESS: usize = {model:#x};\n\
         /// How long both are.\nconst MODEL_BYTES: usize = {model_bytes:#x};\n\
         /// Ticks of the clock in a second.\n#[cfg(feature = \"hardware\")]\nconst SYSTICK_HZ: u64 = {hz};\n"
    ))
}

fn region(board: &Table, key: &str) -> Result<(u32, u32), Box<dyn Error>> {
    let table = board
        .get(key)
        .and_then(|value| value.as_table())
        .ok_or(format!("board.toml has no [{key}]"))?;
    Ok((integer(table, "address")?, integer(table, "bytes")?))
}

fn word<'t>(table: &'t Table, key: &str) -> Option<&'t str> {
    table.get(key).and_then(|value| value.as_str())
}

fn integer(table: &Table, key: &str) -> Result<u32, Box<dyn Error>> {
    let value = table
        .get(key)
        .and_then(|value| value.as_integer())
        .ok_or(format!("board.toml has no number {key}"))?;
    Ok(u32::try_from(value)?)
}

fn link(out: &Path) {
    println!("cargo::rustc-link-search={}", out.display());
    for argument in ["--nmagic", "-Tlink.x"] {
        println!("cargo::rustc-link-arg-bins={argument}");
        println!("cargo::rustc-link-arg-examples={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
    // Without it defmt compiles every message below an error away.
    println!("cargo::rustc-env=DEFMT_LOG=info");
}
