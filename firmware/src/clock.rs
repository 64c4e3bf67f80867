//! A 64-bit clock from the 24-bit SysTick: core cycles on a chip, units of instructions in the emulator.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{SCB, SYST};
use cortex_m_rt::exception;

const PERIOD: u32 = 1 << 24;

static WRAPS: AtomicU32 = AtomicU32::new(0);

/// Starts SysTick from the core's clock.
pub fn start(mut syst: SYST) {
    syst.set_clock_source(SystClkSource::Core);
    syst.set_reload(PERIOD - 1);
    syst.clear_current();
    syst.enable_interrupt();
    syst.enable_counter();
}

/// Ticks since the start.
pub fn now() -> u64 {
    cortex_m::interrupt::free(|_| {
        let mut left = SYST::get_current();
        let mut wraps = WRAPS.load(Ordering::Relaxed);
        if SCB::is_pendst_pending() {
            // A wrap still waits for its exception, and the value may be from before it.
            left = SYST::get_current();
            wraps += 1;
        }
        // SysTick counts down, and starts from 0 before its first period.
        u64::from(wraps) * u64::from(PERIOD) + u64::from((PERIOD - left) % PERIOD)
    })
}

/// Only this handler writes WRAPS, so load and store are enough; a Cortex-M0 has nothing stronger.
#[exception]
fn SysTick() {
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
