//! The allocator, and when it gives memory back (ADR 3; its settings are in `.cargo/config.toml`).
//!
//! jemalloc returns what has been free for a second, but looks at the clock only while somebody allocates: a server that
//! was busy and fell idle would keep the memory of its last burst. So a thread looks once more a moment after the others
//! have gone to sleep, and sleeps itself until they wake again.
//!
//! Keepers and the socket holder have a heap of another kind, see [`runtime::Heap`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: runtime::Heap<tikv_jemallocator::Jemalloc> =
    runtime::Heap { main: tikv_jemallocator::Jemalloc, small: &[runtime::reexec::KEEPERS, crate::holder::WORD] };

/// Somewhat longer than what is free is kept.
const MOMENT: Duration = Duration::from_millis(1500);

/// Whether any thread has worked since the watcher looked.
static WORKED: AtomicBool = AtomicBool::new(false);
static WATCHER: OnceLock<Thread> = OnceLock::new();

/// Starts the thread that gives memory back. Once in a process that lives long.
///
/// # Errors
/// The system allows no more threads.
pub fn watch() -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("memory".into()).stack_size(64 << 10).spawn(|| {
        loop {
            while !WORKED.swap(false, Ordering::Relaxed) {
                std::thread::park();
            }
            std::thread::sleep(MOMENT);
            crate::sys::give_back();
        }
    })?;
    WATCHER.get_or_init(|| thread.thread().clone());
    Ok(())
}

/// What every thread says that is about to sleep.
pub fn worked() {
    if !WORKED.load(Ordering::Relaxed)
        && !WORKED.swap(true, Ordering::Relaxed)
        && let Some(watcher) = WATCHER.get()
    {
        watcher.unpark();
    }
}
