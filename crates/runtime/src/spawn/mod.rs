//! From a fork of the keeper to the container's program: everything that happens inside the new process.
//!
//! ```text
//! keeper                          container process
//!   fork  ------------------->    own mount and PID name space, cgroup joined
//!                                 copies of bind sources are taken (by the node's paths, the last time they count)
//!                                 root attached, pivot_root, old root gone (with hooks: after the mounts)
//!                                 /proc /sys /dev, mounts, masks: by descriptor, inside the root only
//!         <-- Ready(user, tty) -  waits
//!   start -- go -------------->   identity, capabilities, filter, execve
//!         <-- end of file ------  the program runs (or Refused(why) and exit 128)
//! ```
//!
//! Nothing here returns to the keeper's loop: each entry point ends the process.

pub(crate) mod capabilities;
mod container;
mod dev;
pub(crate) mod environment;
mod exec;
mod identity;
mod masks;
mod mounts;
mod program;
mod resolve;
mod root;
mod user;
mod users;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

pub(crate) use container::{Launch, run as run_container};
pub(crate) use exec::{ExecLaunch, run as run_exec};
pub(crate) use users::{Users, check as check_users};

use crate::status::ResolvedUser;

/// Where input and output of a new process go.
pub(crate) enum Streams {
    /// Its own terminal; our end is sent with [`Report::Ready`].
    Terminal,
    /// Pipes or whatever a client gave.
    Files { input: OwnedFd, output: OwnedFd, error: OwnedFd },
}

/// From the new process to the keeper, on a packet socket that closes on execve.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Set up; with a terminal its descriptor is beside the message.
    Ready(ResolvedUser),
    /// Everything is in place while the node's paths are still there, and hooks may run on the node.
    Paused,
    /// Another process has taken the place of this one, which ends.
    Moved(i32),
    /// The set-up failed.
    Failed(String),
    /// The description does not fit the image.
    Invalid(String),
    /// The program could not be executed.
    Refused(String),
}

impl Report {
    fn send(&self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        crate::sys::socket::send(socket, &serde_json::to_vec(self)?, fds)
    }

    /// The next report; none when the program runs (or the process is gone).
    pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let mut buffer = [0; 8192];
        let (size, fds) = crate::sys::socket::receive(socket.as_fd(), &mut buffer)?;
        if size == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..size])?, fds)))
    }
}

/// Reports why a process cannot go on, and ends it.
fn give_up(socket: BorrowedFd<'_>, report: Report) -> ! {
    let text = match report {
        Report::Failed(text) => Report::Failed(cut(text)),
        Report::Invalid(text) => Report::Invalid(cut(text)),
        Report::Refused(text) => Report::Refused(cut(text)),
        ready => ready,
    };
    let _keeper_gone = text.send(socket, &[]);
    crate::sys::clone::exit_now(128)
}

/// A report has to fit its packet.
fn cut(mut text: String) -> String {
    let mut end = text.len().min(2048);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// An error that blames the description rather than the machine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadDescription(String);
