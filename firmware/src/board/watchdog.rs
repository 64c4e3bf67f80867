//! A watchdog resets a board that hangs: `watchdog` in board.toml. It is started where no debugger is attached, because
//! it would run on while a probe programs the flash, and it is fed behind each layer. No hardware has seen it.

/// Starts it, with half a minute until it resets the chip.
pub fn start() {
    if !cortex_m::peripheral::DCB::is_debugger_attached() {
        chip::start();
    }
}

/// Says that nothing hangs; where no watchdog runs, it does nothing.
pub fn feed() {
    chip::feed();
}

/// Product Specification of the nRF52833 and the nRF52840, "WDT — Watchdog timer". It counts the 32,768 Hz clock, which
/// it starts if need be, and stands still while a debugger halts the core. A reset by a probe does not stop it.
#[cfg(watchdog = "nrf52")]
mod chip {
    use super::write;

    const TASKS_START: usize = 0x4001_0000;
    const CRV: usize = 0x4001_0504;
    const RR0: usize = 0x4001_0600;

    pub fn start() {
        write(CRV, 32 * 32_768 - 1);
        write(TASKS_START, 1);
    }

    pub fn feed() {
        write(RR0, 0x6E52_4635);
    }
}

/// Reference manuals RM0383, RM0390 and RM0432, "Independent watchdog (IWDG)". It counts 4,096 times 256 periods of the
/// 32 kHz oscillator, which is 22 to 62 s on the F4, and any reset stops it.
#[cfg(watchdog = "stm32")]
mod chip {
    use super::write;

    const KEY: usize = 0x4000_3000;
    const PRESCALER: usize = 0x4000_3004;
    /// Of the debug unit: what stands still while a debugger halts the core.
    const FREEZE: usize = 0xE004_2008;

    pub fn start() {
        write(FREEZE, 1 << 12);
        write(KEY, 0xCCCC); // start
        write(KEY, 0x5555); // open
        write(PRESCALER, 6); // divide by 256; the reload value is 4,095 after a reset
        feed();
    }

    pub fn feed() {
        write(KEY, 0xAAAA);
    }
}

/// A board without one.
#[cfg(not(any(watchdog = "nrf52", watchdog = "stm32")))]
mod chip {
    pub fn start() {}
    pub fn feed() {}
}

#[cfg(any(watchdog = "nrf52", watchdog = "stm32"))]
fn write(register: usize, value: u32) {
    // SAFETY: the addresses above are registers of the watchdog, which nothing else uses.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(register).write_volatile(value) }
}
