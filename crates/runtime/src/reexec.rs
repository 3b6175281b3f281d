//! The other life of our executable, chosen before `main` proper while the process still has one thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::fs::Mode;

use crate::spec::SandboxSpec;

/// First argument of the process that keepers are forked from.
pub const KEEPERS: &str = "keeper";
/// Room in the command line for the names that keepers give themselves there.
const ROOM: &str = "                                                                                                    ";

/// Runs the keepers' process if this one was started as such; returns otherwise. Call it first in `main`, before any
/// thread is started: keepers fork, which only a single-threaded process may do freely.
pub fn dispatch() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|first| first == KEEPERS) {
        match arguments.next() {
            Some(cgroup) => crate::keeper::run_zygote(&cgroup),
            None => {
                eprintln!("keepers are started by the runtime with the name of their cgroup");
                std::process::exit(64);
            }
        }
    }
}

/// Makes a process that has just begun one that outlives us quietly: no inherited descriptors, the default meaning of all
/// signals, a session of its own, nobody's child. Returns in a second process only; the first ends with success.
///
/// The process must have one thread and own no descriptor yet but the three standard ones.
pub fn outlive(name: &std::ffi::CStr) -> anyhow::Result<()> {
    crate::sys::process::close_inherited();
    crate::sys::process::reset_signals();
    crate::sys::process::ignore_signal(libc::SIGPIPE);
    rustix::process::chdir("/").context("leave the directory we were started in")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _leader_already = rustix::process::setsid();
    let _cosmetic = rustix::thread::set_name(name);
    match crate::sys::clone::fork(0, None).context("fork from the process that was started")? {
        crate::sys::clone::Side::Parent(_) => crate::sys::clone::exit_now(0),
        crate::sys::clone::Side::Child => Ok(()),
    }
}

/// The process that keepers are forked from, started with the runtime and again should it be gone.
#[derive(Debug)]
pub(crate) struct Zygote {
    executable: OwnedFd,
    cgroup: String,
    requests: Mutex<Option<OwnedFd>>,
}

impl Zygote {
    /// `executable` is our program, protected, `cgroup` that of the keepers below the visible root.
    pub(crate) fn start_from(executable: OwnedFd, cgroup: &str) -> io::Result<Self> {
        let zygote = Self { executable, cgroup: cgroup.to_owned(), requests: Mutex::new(None) };
        let requests = zygote.start()?;
        *zygote.requests.lock() = Some(requests);
        Ok(zygote)
    }

    /// Starts a keeper for the sandbox in `dir` and returns our end of the conversation with it.
    pub(crate) fn keeper(&self, spec: &SandboxSpec, dir: &Path) -> io::Result<OwnedFd> {
        let (ours, theirs) = crate::sys::socket::pair()?;
        let mut requests = self.requests.lock();
        if let Some(socket) = requests.as_ref()
            && crate::keeper::ask_zygote(socket.as_fd(), spec, dir, &theirs).is_ok()
        {
            return Ok(ours);
        }
        let socket = self.start()?;
        crate::keeper::ask_zygote(socket.as_fd(), spec, dir, &theirs)?;
        *requests = Some(socket);
        Ok(ours)
    }

    /// Has the next keeper forked ahead. Without one, it is forked when it is asked for.
    pub(crate) fn ahead(&self) {
        if let Some(socket) = self.requests.lock().as_ref() {
            let _no_harm = crate::keeper::ask_zygote_ahead(socket.as_fd());
        }
    }

    /// What is started forks once more and ends, so that the process is nobody's child and needs no reaper.
    fn start(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = crate::sys::socket::pair()?;
        let status = Command::new(format!("/proc/self/fd/{}", self.executable.as_raw_fd()))
            .arg0("knarr")
            .args([KEEPERS, &self.cgroup, ROOM])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!("process that keepers are forked from: {status}")));
        }
        Ok(ours)
    }
}
