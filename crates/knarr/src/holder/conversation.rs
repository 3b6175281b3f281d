//! What knarr and the socket holder say to each other: one packet for a request, one for its answer, descriptors beside
//! them. The words are those of every later version, too, so that a holder started by one serves another.

use std::io::{self, Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use runtime::packets;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Asks for copies of the descriptors.
pub const TAKE: &[u8] = b"knarr-sockets 1 take";
/// Brings descriptors, which replace those that were held.
pub const KEEP: &[u8] = b"knarr-sockets 1 keep";
/// The answer.
pub const DONE: &[u8] = b"knarr-sockets 1 done";

/// How long the holder may take for what takes it microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Our end of a conversation with the holder.
#[derive(Debug)]
pub struct Conversation(OwnedFd);

impl Conversation {
    /// Finds the holder; none listens where none was started, or where it belongs to another network.
    pub fn begin(path: &Path) -> io::Result<Option<Conversation>> {
        let socket = match packets::connect(path) {
            Ok(socket) => socket,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(pid) = packets::peer(&socket)?
            && !same_network(pid)
        {
            kill(pid)?;
            return Ok(None);
        }
        Ok(Some(Conversation(socket)))
    }

    /// Copies of the descriptors that are held.
    pub fn take(&self) -> io::Result<Vec<OwnedFd>> {
        self.ask(TAKE, &[])
    }

    /// Has these held instead of the former ones.
    pub fn keep(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.ask(KEEP, sockets).map(|_none| ())
    }

    /// The socket, to notice the holder's end.
    pub fn into_socket(self) -> OwnedFd {
        self.0
    }

    fn ask(&self, request: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
        packets::send(self.0.as_fd(), request, with)?;
        if !wait(&self.0, PATIENCE)? {
            return Err(Error::new(ErrorKind::TimedOut, "no answer"));
        }
        let mut buffer = [0; 64];
        let (size, fds) = packets::receive(self.0.as_fd(), &mut buffer)?;
        if &buffer[..size] != DONE {
            return Err(Error::new(ErrorKind::InvalidData, "an answer of another version"));
        }
        Ok(fds)
    }
}

/// Ends whoever listens there, and waits for it.
pub fn end(path: &Path) -> io::Result<()> {
    match packets::connect(path) {
        Ok(socket) => packets::peer(&socket)?.map_or(Ok(()), kill)?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(error),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn kill(pid: Pid) -> io::Result<()> {
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    if wait(&process, PATIENCE)? { Ok(()) } else { Err(Error::new(ErrorKind::TimedOut, "the socket holder does not end")) }
}

fn same_network(pid: Pid) -> bool {
    let theirs = std::fs::read_link(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
    let ours = std::fs::read_link("/proc/self/ns/net");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// Waits until there is something to read; whether there is.
fn wait(fd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
