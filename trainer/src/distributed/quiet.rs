//! Panics of lost devices, which are caught and become errors, say nothing.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

/// Name that Burn's threads for remote and graphics devices begin with.
const BURN_THREAD: &str = "DS";

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From now on, panics on this thread are not printed. Whoever calls this catches them.
pub(super) fn keep_quiet() {
    QUIET.set(true);
}

/// Makes that so for Burn's threads too, which catch their panics and give the caller one.
pub(super) fn silence_devices() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let of_burn = thread
                .name()
                .is_some_and(|name| name.starts_with(BURN_THREAD));
            match QUIET.get() || of_burn {
                true => tracing::debug!("{info}"),
                false => before(info),
            }
        }));
    });
}
