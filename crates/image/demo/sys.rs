//! Signals. The first process of a container gets none that it does not ask for, so a pod would always be killed at the
//! end of its grace period. The only place of this program with foreign functions: the standard library has no signals.

use std::time::Duration;

/// A set of signals as the C library lays it out on Linux: 1024 bits.
#[repr(C, align(8))]
struct SignalSet([u8; 128]);

const SIG_BLOCK: i32 = 0;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> i32;
    fn sigaddset(set: *mut SignalSet, signal: i32) -> i32;
    fn pthread_sigmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
    fn sigwait(set: *const SignalSet, signal: *mut i32) -> i32;
}

/// Ends the program a moment after SIGTERM, so that requests which are still sent here get their answer, and at once
/// after SIGINT. To be called before other threads start.
pub fn stop_on_signals(linger: Duration) {
    let mut set = SignalSet([0; 128]);
    // SAFETY: `set` is as large and aligned as the C library's type and lives over the calls; null is allowed for `old`.
    unsafe {
        sigemptyset(&mut set);
        sigaddset(&mut set, SIGTERM);
        sigaddset(&mut set, SIGINT);
        pthread_sigmask(SIG_BLOCK, &set, std::ptr::null_mut());
    }
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call; the signals of the set are blocked in all threads.
        while unsafe { sigwait(&set, &mut signal) } != 0 {}
        if signal == SIGTERM {
            std::thread::sleep(linger);
        }
        std::process::exit(128 + signal);
    });
}
