//! What differs between boards. Numbers come from `boards/NAME/board.toml` through build.rs; the two families below
//! define the same names, so the rest of the firmware does not know which one it has.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;

use shared::report::Exit;

use crate::clock;

mod boot;
mod fault;
mod watchdog;
pub use watchdog::feed;

#[cfg(feature = "emulated")]
mod emulated;
#[cfg(feature = "emulated")]
pub use emulated::{Requests, exit, save};

#[cfg(feature = "hardware")]
mod hardware;
#[cfg(feature = "hardware")]
pub use hardware::{Requests, exit, save};

include!(concat!(env!("OUT_DIR"), "/board.rs"));

/// What the board lends the firmware.
pub struct Board {
    /// The flash that holds the models, both slots.
    pub models: &'static [u8],
    /// RAM for activations.
    pub arena: &'static mut [i8],
}

#[repr(align(16))]
struct Arena(UnsafeCell<[i8; ARENA_BYTES]>);

// SAFETY: only `Board::take` reaches the cell, once.
unsafe impl Sync for Arena {}

/// The host finds it by its name to tell activations from other statics.
#[unsafe(export_name = "ESPALIER_ARENA")]
static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));

/// The version of the model's format that this firmware reads. The host looks it up in the ELF.
#[unsafe(export_name = "ESPALIER_FORMAT")]
static FORMAT: u16 = shared::model::VERSION;

/// Nothing enables an interrupt of the chip itself, so the table ends behind the first; cortex-m-rt wants one, and would
/// fill 240 of them, a kilobyte, on its own.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(export_name = "__INTERRUPTS")]
static INTERRUPTS: [fn() -> !; 1] = [unexpected];

fn unexpected() -> ! {
    exit(Exit::Crashed)
}

impl Board {
    /// The board with its clock started, to whoever asks first.
    pub fn take() -> Option<Self> {
        let peripherals = cortex_m::Peripherals::take()?;
        clock::start(peripherals.SYST);
        #[cfg(feature = "hardware")]
        hardware::start();
        // The linker leaves out what nothing looks at.
        core::hint::black_box(&FORMAT);
        watchdog::start();
        Some(Self {
            // SAFETY: build.rs took both numbers from board.toml: a region of flash that nothing writes while this runs.
            models: unsafe { core::slice::from_raw_parts(MODEL_ADDRESS as *const u8, MODEL_BYTES) },
            // SAFETY: `Peripherals::take` gives its value once, so this is the only reference there will be.
            arena: unsafe { &mut *ARENA.0.get() },
        })
    }
}

/// The most stack in use at any time so far: cortex-m-rt paints the stack before anything runs.
pub fn stack_used() -> usize {
    unsafe extern "C" {
        static _stack_end: u32;
        static _stack_start: u32;
    }
    let bottom = &raw const _stack_end;
    // SAFETY: both symbols bound the one stack, from memory.x.
    let words = unsafe { (&raw const _stack_start).offset_from(bottom) } as usize;
    // SAFETY: every word read lies on the stack; volatile, because code below the caller may write it.
    let painted = |&index: &usize| unsafe { bottom.add(index).read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE;
    4 * (words - (0..words).take_while(painted).count())
}
