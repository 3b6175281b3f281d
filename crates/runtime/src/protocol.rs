//! What we and a keeper say to each other: one message per packet of a `SOCK_SEQPACKET` socket, descriptors beside it.
//!
//! ```text
//! 0     4        6      8            12          16
//! | KNRT | version | flags | request id | body size | body (JSON) |
//! ```
//!
//! Requests carry an id that the reply repeats; events carry 0. A body above [`INLINE`] travels in a sealed memory file
//! that is the first descriptor, because packets are bounded by the socket's buffer. A keeper may be older than the
//! program that finds it, so fields are only ever added, with defaults.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, User};
use crate::status::{ContainerStatus, ExitStatus};

/// Version of the messages. A keeper of a newer one is refused.
pub(crate) const VERSION: u16 = 1;
/// Largest body that travels in the packet itself.
pub(crate) const INLINE: usize = 32 << 10;
/// Largest body at all.
const LARGEST: usize = 16 << 20;
/// Most descriptors beside one message.
pub(crate) const MOST_FDS: usize = 64;
const MAGIC: [u8; 4] = *b"KNRT";
const HEADER: usize = 16;
const BODY_IN_FD: u16 = 1;

/// From us to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Everything known; also makes the sender hear of events.
    List,
    /// The description lies in the container's folder. Descriptors: those of `Source::Passed`.
    Create {
        id: ContainerId,
    },
    /// The hooks on the node have run; what was paused goes on.
    Proceed {
        id: ContainerId,
    },
    Start {
        id: ContainerId,
    },
    /// To the first process, or to every process of the container.
    Kill {
        id: ContainerId,
        signal: i32,
        all: bool,
    },
    Remove {
        id: ContainerId,
    },
    /// Descriptors: input, output, error output as far as flagged.
    Exec(Box<ExecRequest>),
    ExecKill {
        exec: u64,
        signal: i32,
    },
    /// Descriptors: output, error output as far as flagged. The reply has the input's descriptor.
    Attach {
        id: ContainerId,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Detach {
        attach: u64,
    },
    Resize {
        id: ContainerId,
        columns: u16,
        rows: u16,
    },
    ReopenLog {
        id: ContainerId,
    },
    /// A stream socket of the pod's network; the reply has its descriptor.
    Socket {
        v6: bool,
    },
    /// Kill everything, end, leave nothing.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub id: ContainerId,
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<User>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// From the keeper to us, once per request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Container(Box<ContainerStatus>),
    /// It is made so far that the hooks on the node can run; this is its first process.
    Paused {
        pid: i32,
    },
    List {
        keeper: i32,
        containers: Vec<ContainerStatus>,
    },
    Exec {
        exec: u64,
        pid: i32,
    },
    Attach {
        attach: u64,
    },
    Socket,
    Failed(Failure),
}

/// Why a request was not done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Exists,
    NotFound,
    WrongState(String),
    Invalid(String),
    Failed(String),
    /// The program could not be executed.
    Exec(String),
}

impl Failure {
    /// The reason as text.
    pub(crate) fn text(self) -> String {
        match self {
            Failure::Exists => "it exists already".into(),
            Failure::NotFound => "there is no such container".into(),
            Failure::WrongState(text) | Failure::Invalid(text) | Failure::Failed(text) | Failure::Exec(text) => text,
        }
    }
}

/// From the keeper to everyone connected.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    Started(Box<ContainerStatus>),
    Exited(Box<ContainerStatus>),
    ExecExited { exec: u64, exit: ExitStatus },
    AttachEnded { attach: u64, exit: ExitStatus },
}

/// Everything that can stand in a body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Request(Request),
    Reply(Reply),
    Notice(Notice),
}

/// A message as read, with what came beside it.
pub(crate) struct Packet {
    pub id: u32,
    /// A message of a later program may be of a kind that this one does not know; the conversation goes on.
    pub body: Result<Message, serde_json::Error>,
    pub fds: Vec<OwnedFd>,
}

/// A message as bytes, with the memory file of a large body.
pub(crate) struct Encoded {
    pub bytes: Vec<u8>,
    pub body_fd: Option<OwnedFd>,
}

/// Makes the bytes of a message.
pub(crate) fn encode<T: Serialize>(id: u32, body: &T) -> io::Result<Encoded> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, body)?;
    let size = bytes.len() - HEADER;
    let mut flags = 0;
    let mut body_fd = None;
    if size > INLINE {
        let memory = crate::sys::memfd::sealed("knarr-message", &bytes[HEADER..])?;
        body_fd = Some(memory);
        flags |= BODY_IN_FD;
        bytes.truncate(HEADER);
    }
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&flags.to_le_bytes());
    bytes[8..12].copy_from_slice(&id.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    Ok(Encoded { bytes, body_fd })
}

/// Sends a message; `WouldBlock` when the other side is behind.
pub(crate) fn send(socket: BorrowedFd<'_>, encoded: &Encoded, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut all: Vec<BorrowedFd<'_>> = Vec::with_capacity(fds.len() + 1);
    all.extend(encoded.body_fd.as_ref().map(AsFd::as_fd));
    all.extend_from_slice(fds);
    crate::sys::socket::send(socket, &encoded.bytes, &all)
}

/// Receives a message; none at the end of the conversation, `WouldBlock` when there is none yet.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
    let (size, mut fds) = crate::sys::socket::receive(socket, buffer)?;
    if size == 0 && fds.is_empty() {
        return Ok(None);
    }
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let packet = &buffer[..size];
    if size < HEADER || packet[..4] != MAGIC {
        return Err(invalid("not a message of this protocol"));
    }
    let word = |at: usize| u16::from_le_bytes([packet[at], packet[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    if word(4) > VERSION {
        return Err(invalid("message of a newer version of this protocol"));
    }
    let (id, length) = (long(8), long(12) as usize);
    let body = if word(6) & BODY_IN_FD != 0 {
        if fds.is_empty() || length > LARGEST {
            return Err(invalid("body of the message is missing or too large"));
        }
        let memory = fds.remove(0);
        let mut body = vec![0; length];
        let mut done = 0;
        while done < length {
            match rustix::io::pread(&memory, &mut body[done..], done as u64)? {
                0 => return Err(invalid("body of the message is short")),
                n => done += n,
            }
        }
        serde_json::from_slice(&body)
    } else {
        serde_json::from_slice(&packet[HEADER..])
    };
    Ok(Some(Packet { id, body, fds }))
}
