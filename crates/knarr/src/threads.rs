//! The threads that everything runs on.

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

use crate::allocator;

/// Starts so many of them.
///
/// # Errors
/// The system allows no more threads.
pub fn start(count: usize) -> Result<Runtime> {
    allocator::watch().context("start threads")?;
    Builder::new_multi_thread().worker_threads(count).on_thread_park(allocator::worked).enable_all().build().context("start threads")
}

/// As many as a control plane makes use of on this machine.
pub fn of_control_plane() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(2, 4)
}
