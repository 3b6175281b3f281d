//! Forking from a single-threaded process, into name spaces and a cgroup at once.
#![allow(unsafe_code, reason = "fork and unshare have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

/// New mount name space.
pub(crate) const NEW_MOUNT: u64 = libc::CLONE_NEWNS as u64;
/// New PID name space.
pub(crate) const NEW_PID: u64 = libc::CLONE_NEWPID as u64;
/// New user name space.
pub(crate) const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;
/// New network name space.
pub(crate) const NEW_NET: u64 = libc::CLONE_NEWNET as u64;
/// New name space of host names.
pub(crate) const NEW_UTS: u64 = libc::CLONE_NEWUTS as u64;
/// New IPC name space.
pub(crate) const NEW_IPC: u64 = libc::CLONE_NEWIPC as u64;
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// On which side of a fork we are.
pub(crate) enum Side {
    Child,
    Parent(i32),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Copies this process. The copy starts in the given name spaces and, if given, in the cgroup of that directory, which
/// saves the wait for the kernel's grace period that a later move costs.
pub(crate) fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    copy(CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() }, cgroup)
}

/// Copies this process; the copy is a child of our parent.
pub(crate) fn fork_sibling() -> io::Result<Side> {
    copy(CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() }, None)
}

fn copy(mut args: CloneArgs, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    if let Some(dir) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the given size; without CLONE_VM the child runs on its own copy of memory.
    // JUSTIFICATION: only the keeper and its copies call this, and none of them ever has a second thread, so no lock is held by a thread that
    // does not exist in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => Ok(Side::Parent(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves this process into new name spaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "the table of descriptors is never unshared here");
    // SAFETY: the table of descriptors stays, as asserted.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Ends a forked copy at once, without the exit handlers of the original.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}
