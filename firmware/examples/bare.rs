//! The engine and nothing else, for `tests/bench engine` to weigh: reads the model in flash, checks it, and infers once
//! from whatever the arena holds.
#![no_std]
#![no_main]
#![allow(unsafe_code)]
#![allow(dead_code)] // a board has more constants than this needs

use core::cell::UnsafeCell;
use core::hint::black_box;

use cortex_m_rt::entry;
use shared::{Engine, Model};

include!(concat!(env!("OUT_DIR"), "/board.rs"));

#[repr(align(4))]
struct Arena(UnsafeCell<[i8; ARENA_BYTES]>);

// SAFETY: only `main` reaches the cell, once.
unsafe impl Sync for Arena {}

/// The host finds it by its name.
#[unsafe(export_name = "ESPALIER_ARENA")]
static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));

/// As short as cortex-m-rt lets it be.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(export_name = "__INTERRUPTS")]
static INTERRUPTS: [fn() -> !; 1] = [rest];

fn rest() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    rest()
}

#[entry]
fn main() -> ! {
    // SAFETY: a region of flash that nothing writes, from board.toml.
    let file = unsafe { core::slice::from_raw_parts(MODEL_ADDRESS as *const u8, MODEL_BYTES) };
    // SAFETY: this runs once, so it is the only reference.
    let arena = unsafe { &mut *ARENA.0.get() };
    if let Ok(model) = Model::parse(file)
        && let Ok(mut engine) = Engine::new(&model, arena)
    {
        black_box(engine.infer(|input| {
            black_box(input);
        }));
    }
    rest()
}
