//! The process that all keepers are forked from.
//!
//! Starting our whole executable anew for each pod would cost a millisecond of the linker's work and hundreds of
//! kilobytes that are the same in each. Instead one copy starts with us, single-threaded, and forks a keeper for every
//! request; keepers share its memory until they change it. It ends with us, keepers do not.
//!
//! Most pods want the same name spaces, and making them takes longer than all the rest. So one *spare* is forked ahead, when
//! nobody waits for the processor: it has made them and waits to be told whose keeper it is.
//!
//! A request is one packet: a letter for the kind, the sandbox's folder, and beside it the keeper's end of the first
//! conversation. What the spare is told looks the same. A letter alone asks for the next spare.

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

use super::sandbox::{self, Ground};
use crate::spec::SandboxSpec;
use crate::sys::clone::Side;

/// Longest path of a sandbox's folder.
const LONGEST: usize = 4096;

/// Letter of a sandbox with the usual name spaces, and of any other.
const ORDINARY: u8 = b'o';
const SPECIAL: u8 = b's';
/// Letter of the wish for a spare.
const AHEAD: u8 = b'a';

/// Asks for a keeper.
pub(crate) fn ask(zygote: BorrowedFd<'_>, spec: &SandboxSpec, dir: &Path, first: &OwnedFd) -> io::Result<()> {
    let mut packet = vec![if sandbox::is_ordinary(spec) { ORDINARY } else { SPECIAL }];
    packet.extend_from_slice(dir.as_os_str().as_bytes());
    crate::sys::socket::send(zygote, &packet, &[first.as_fd()])
}

/// Asks for the next spare, unless there is one.
pub(crate) fn ask_ahead(zygote: BorrowedFd<'_>) -> io::Result<()> {
    crate::sys::socket::send(zygote, &[AHEAD], &[])
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
    let mut spare = fork_spare(&requests, &layout, &join);
    loop {
        let Some((packet, first)) = receive(&requests)? else { return Ok(()) };
        let Some(first) = first else {
            spare = spare.or_else(|| fork_spare(&requests, &layout, &join));
            continue;
        };
        let ready = if packet[0] == ORDINARY { spare.take() } else { None };
        if ready.is_some_and(|spare| crate::sys::socket::send(spare.as_fd(), &packet, &[first.as_fd()]).is_ok()) {
            continue;
        }
        match crate::sys::clone::fork(0, join.unified()) {
            // Dropping our copy of the conversation tells the other side that nobody will answer.
            Err(error) => eprintln!("keepers: fork: {error}"),
            Ok(Side::Parent(_)) => {}
            Ok(Side::Child) => {
                drop((requests, spare));
                become_keeper(&packet, first, layout, &join, Ground::Bare)
            }
        }
    }
}

/// The next packet with its descriptor, if it has one; none at the end of the conversation.
fn receive(socket: &OwnedFd) -> anyhow::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let _ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], None);
        match crate::sys::socket::receive(socket.as_fd(), &mut buffer) {
            Ok((0, _)) => return Ok(None),
            Ok((size, mut fds)) => {
                buffer.truncate(size);
                return Ok(Some((buffer, fds.pop())));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("receive request"),
        }
    }
}

/// Forks a process that makes the usual name spaces and waits. Without one, keepers are forked when they are asked for.
fn fork_spare(requests: &OwnedFd, layout: &Arc<Layout>, join: &JoinHandles) -> Option<OwnedFd> {
    let (ours, theirs) = crate::sys::socket::pair().ok()?;
    match crate::sys::clone::fork(0, join.unified()).ok()? {
        Side::Parent(_) => Some(ours),
        Side::Child => {
            // Kept open here, they would hide the end of the conversations from the others.
            crate::sys::process::close_one(requests);
            drop(ours);
            let prepared = super::enter_cgroup(join).and_then(|()| sandbox::make_ordinary());
            let told = prepared.and_then(|()| receive(&theirs));
            match told {
                Ok(Some((packet, Some(first)))) => {
                    drop(theirs);
                    become_keeper(&packet, first, layout.clone(), join, Ground::Ordinary)
                }
                Ok(_) => crate::sys::clone::exit_now(0),
                Err(error) => {
                    eprintln!("keepers: prepare a keeper: {error:#}");
                    crate::sys::clone::exit_now(1)
                }
            }
        }
    }
}

fn become_keeper(packet: &[u8], first: OwnedFd, layout: Arc<Layout>, join: &JoinHandles, ground: Ground) -> ! {
    crate::sys::process::default_signal(libc::SIGCHLD);
    let dir = PathBuf::from(OsStr::from_bytes(&packet[1..]));
    super::run(dir, first, layout, join, ground)
}
