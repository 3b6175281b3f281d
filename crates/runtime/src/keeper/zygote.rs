//! The process that all keepers are forked from.
//!
//! Starting our whole executable anew for each pod would cost a millisecond of the linker's work and hundreds of
//! kilobytes that are the same in each. Instead one copy starts with us, single-threaded, and forks a keeper for every
//! request; keepers share its memory until they change it. It ends with us, keepers do not.
//!
//! A request is one packet: the sandbox's folder, and beside it the keeper's end of the first conversation.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use cgroup::{Group, JoinHandles, Layout};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;

use crate::sys::clone::Side;

/// Longest path of a sandbox's folder.
const LONGEST: usize = 4096;

/// Asks for a keeper.
pub(crate) fn ask(zygote: BorrowedFd<'_>, dir: &Path, first: &OwnedFd) -> io::Result<()> {
    crate::sys::socket::send(zygote, dir.as_os_str().as_bytes(), &[first.as_fd()])
}

/// Lives as the process that keepers are forked from; `keepers` is their cgroup below the visible root.
pub(crate) fn run(keepers: &str) -> ! {
    match serve(keepers) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("keepers: {error:#}");
            std::process::exit(1);
        }
    }
}

fn serve(keepers: &str) -> anyhow::Result<()> {
    crate::sys::process::close_inherited();
    let requests = crate::sys::process::take_stdin().context("take over the conversation")?;
    crate::sys::process::reset_signals();
    crate::sys::process::ignore_signal(libc::SIGPIPE);
    // Keepers that end are nobody's business here.
    crate::sys::process::ignore_signal(libc::SIGCHLD);
    rustix::process::chdir("/").context("leave the directory we were started in")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Out of the reach of a terminal's signals, which are meant for the main process.
    let _leader_already = rustix::process::setsid();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).context("hide from the containers")?;
    let _cosmetic = rustix::thread::set_name(c"knarr-keeper");
    match crate::sys::clone::fork(0, None).context("fork from the process that was started")? {
        Side::Parent(_) => crate::sys::clone::exit_now(0),
        Side::Child => {}
    }
    let layout = Arc::new(Layout::detect()?);
    let join = Group::new(layout.clone(), keepers)?.join_handles()?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let _ready = poll(&mut [PollFd::new(&requests, PollFlags::IN)], None);
        let (size, mut fds) = match crate::sys::socket::receive(requests.as_fd(), &mut buffer) {
            Ok((0, _)) => return Ok(()),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("receive request"),
        };
        let Some(first) = fds.pop() else { continue };
        let dir = PathBuf::from(OsStr::from_bytes(&buffer[..size]));
        match fork(&join) {
            // Dropping our copy of the conversation tells the other side that nobody will answer.
            Err(error) => eprintln!("keepers: fork: {error}"),
            Ok(Side::Parent(_)) => {}
            Ok(Side::Child) => {
                drop(requests);
                crate::sys::process::default_signal(libc::SIGCHLD);
                super::run(dir, first, layout, &join)
            }
        }
    }
}

fn fork(join: &JoinHandles) -> io::Result<Side> {
    crate::sys::clone::fork(0, join.unified())
}
