//! The few system calls that no safe wrapper offers: leaving a name space, netlink socket options.
#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::io::unix::AsyncFd;

use crate::netlink::Socket;

/// `NETLINK_CAP_ACK`: errors do not repeat the request.
pub(crate) const CAPPED_ACK: i32 = libc::NETLINK_CAP_ACK;
/// `NETLINK_EXT_ACK`: errors come with the kernel's words.
pub(crate) const EXTENDED_ACK: i32 = libc::NETLINK_EXT_ACK;

/// Gives the calling thread a network name space of its own.
pub(crate) fn unshare_network() -> Result<(), Errno> {
    // SAFETY: only the file table flag can make descriptors vanish for other threads; it is not set.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Switches a netlink socket option on.
pub(crate) fn enable_netlink_option(fd: BorrowedFd<'_>, option: i32) -> Result<(), Errno> {
    let one: i32 = 1;
    // SAFETY: the kernel reads exactly the four bytes of `one`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&one).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}

/// Registers a netlink socket with the async runtime.
pub(crate) fn watch(socket: Socket) -> std::io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor and never replaces or closes it before it is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}
