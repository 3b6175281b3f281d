//! Descriptors that the asynchronous runtime waits for.
#![allow(unsafe_code, reason = "tokio asks for a promise that the descriptor stays the same")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets tokio wait for a descriptor.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` refers to the same open file until it is dropped, which `AsyncFd` does only after it has
    // stopped waiting for it.
    Ok(unsafe { AsyncFd::register(fd)? })
}
