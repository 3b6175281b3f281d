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
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, std::ptr::from_ref(&one).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}

/// Registers a netlink socket with the async runtime.
pub(crate) fn watch(socket: Socket) -> std::io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor and never replaces or closes it before it is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// Whether the legacy iptables `filter` table (not the nftables one) drops forwarded packets by
/// default; none if there is no such table or it cannot be read.
pub(crate) fn legacy_forward_drops() -> Option<bool> {
    const GET_INFO: i32 = 64;
    const GET_ENTRIES: i32 = 65;
    /// `struct ipt_getinfo`: name, valid hooks, entries per hook, policies per hook, count, size.
    const INFO: usize = 32 + 4 * 13;
    const POLICY_OF_FORWARD: usize = 32 + 4 + 4 * 5 + 4 * 2;
    /// `struct ipt_get_entries` before the entries.
    const HEADER: usize = 40;
    /// The offset of the target's offset in an entry, and of the verdict in a standard target.
    const TARGET_OFFSET: usize = 88;
    const VERDICT: usize = 32;
    const DROP: i32 = -1;
    // Asking loads the table where it is a module, so that it is only asked about if it is there.
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok()?;
    tables.lines().find(|table| *table == "filter")?;
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::RAW, Some(rustix::net::ipproto::RAW)).ok()?;
    let mut info = vec![0u8; INFO];
    info[..6].copy_from_slice(b"filter");
    get_ip_option(socket.as_raw_fd(), GET_INFO, &mut info)?;
    let number = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let size = number(&info, INFO - 4)?;
    let mut entries = vec![0u8; HEADER + size as usize];
    entries[..6].copy_from_slice(b"filter");
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    get_ip_option(socket.as_raw_fd(), GET_ENTRIES, &mut entries)?;
    let entry = HEADER + number(&info, POLICY_OF_FORWARD)? as usize;
    let target = entries.get(entry + TARGET_OFFSET..entry + TARGET_OFFSET + 2)?;
    let verdict = entry + usize::from(u16::from_ne_bytes(target.try_into().ok()?)) + VERDICT;
    Some(number(&entries, verdict)? as i32 == DROP)
}

fn get_ip_option(socket: i32, option: i32, buffer: &mut [u8]) -> Option<()> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, all of which belong to `buffer`.
    let result = unsafe { libc::getsockopt(socket, libc::IPPROTO_IP, option, buffer.as_mut_ptr().cast(), std::ptr::from_mut(&mut length)) };
    (result == 0).then_some(())
}
