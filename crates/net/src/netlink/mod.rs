//! A small netlink socket of our own: requests with acknowledgement, dumps, batches, multicast.
//!
//! One encoder serves rtnetlink, nftables and conntrack, because all three are the same thing
//! (a header, a fixed struct, nested attributes) and the attribute numbers are kernel facts.

pub mod link;
mod message;
pub mod route;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto, socket_with, sockopt,
};

pub use message::{
    ACK, APPEND, CREATE, DUMP, EXCL, Message, REPLACE, REQUEST, attribute, attributes, read_address, read_be16, read_be32, read_text,
    read_u32,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_CAPPED`: the error holds only the header of the request.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const EXTENDED_TEXT: u16 = 1;
/// Answers of a dump come in pieces of at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 << 10;

/// More answers than this may not fit into the socket's receive buffer.
const EXCHANGE_AT_ONCE: usize = 64;

/// A refusal by the kernel or a broken netlink conversation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {}{detail}", .errno.map(|e| e.to_string()).unwrap_or_else(|| "malformed answer".into()))]
pub struct NetlinkError {
    /// What was tried, for example `create link kn0123456789a`.
    pub what: String,
    /// The error that the kernel gave; none if its answer could not be understood.
    pub errno: Option<Errno>,
    /// The kernel's own words in parentheses, if it had any.
    pub detail: String,
}

impl NetlinkError {
    /// An error without words of the kernel.
    pub fn new(what: impl Into<String>, errno: Errno) -> Self {
        Self { what: what.into(), errno: Some(errno), detail: String::new() }
    }

    fn malformed(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: None, detail: String::new() }
    }
}

/// Which part of the kernel a socket speaks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// What came back for one message of an exchange.
#[derive(Debug, Default)]
pub struct Reply {
    /// The refusal, if it was one that the message tolerates.
    pub tolerated: Option<Errno>,
    /// Answers: message type and payload.
    pub answers: Vec<(u16, Vec<u8>)>,
}

/// A netlink socket. It belongs to the network name space of the thread that opened it, for good.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    send_buffer: usize,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the current name space.
    pub fn open(subsystem: Subsystem) -> Result<Self, NetlinkError> {
        Self::subscribe(subsystem, 0)
    }

    /// Opens a socket that also hears the given multicast groups (a bit each).
    pub fn subscribe(subsystem: Subsystem, groups: u32) -> Result<Self, NetlinkError> {
        let protocol: Option<Protocol> = match subsystem {
            Subsystem::Route => None,
            Subsystem::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = if groups == 0 { SocketFlags::CLOEXEC } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
        let open = || -> Result<OwnedFd, Errno> {
            let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
            bind(&fd, &SocketAddrNetlink::new(0, groups))?;
            // Without these two the answers are less telling but correct, so that a refusal is fine.
            let _ = crate::sys::enable_netlink_option(fd.as_fd(), crate::sys::EXTENDED_ACK);
            let _ = crate::sys::enable_netlink_option(fd.as_fd(), crate::sys::CAPPED_ACK);
            Ok(fd)
        };
        let fd = open().map_err(|errno| NetlinkError::new("open a netlink socket", errno))?;
        Ok(Self { fd, sequence: 0, send_buffer: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Sends all messages at once and collects the answer to each. The first refusal that is not
    /// tolerated is the error; the kernel has then still carried out the other messages.
    pub fn exchange(&mut self, messages: Vec<Message>) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(EXCHANGE_AT_ONCE));
            replies.append(&mut self.exchange_some(rest)?);
            rest = later;
        }
        Ok(replies)
    }

    fn exchange_some(&mut self, messages: Vec<Message>) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut out = Vec::new();
        let mut expected = Vec::with_capacity(messages.len());
        for mut message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence, ACK);
            out.extend_from_slice(&message.buf);
            expected.push((message.what, message.tolerated));
        }
        self.send(&out, || expected.first().map_or_else(String::new, |(what, _)| what.to_string()))?;
        let mut replies: Vec<Reply> = expected.iter().map(|_| Reply::default()).collect();
        let mut open = expected.len();
        let mut refused = None;
        while open > 0 {
            self.receive(|received| {
                let index = received.sequence.wrapping_sub(first) as usize;
                let (Some((what, tolerated)), Some(reply)) = (expected.get(index), replies.get_mut(index)) else {
                    return;
                };
                match received.body {
                    Body::Answer(kind, payload) => reply.answers.push((kind, payload.to_vec())),
                    Body::Done => open -= 1,
                    Body::Acknowledged => open -= 1,
                    Body::Refused(errno, detail) => {
                        open -= 1;
                        if tolerated.contains(&errno) {
                            reply.tolerated = Some(errno);
                        } else if refused.is_none() {
                            refused = Some(NetlinkError { what: what.to_string(), errno: Some(errno), detail });
                        }
                    }
                }
            })?;
        }
        refused.map_or(Ok(replies), Err)
    }

    /// Sends one message and returns its answers.
    pub fn request(&mut self, message: Message) -> Result<Reply, NetlinkError> {
        Ok(self.exchange(vec![message])?.pop().unwrap_or_default())
    }

    /// Asks for all objects of a kind and hands each answer (type and payload) to `each`.
    pub fn dump(&mut self, mut message: Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        message.seal(sequence, DUMP);
        let what = message.what.to_string();
        self.send(&message.buf, || what.clone())?;
        let mut done = None;
        while done.is_none() {
            self.receive(|received| {
                if received.sequence == sequence {
                    match received.body {
                        Body::Answer(kind, payload) => each(kind, payload),
                        Body::Done | Body::Acknowledged => done = Some(Ok(())),
                        Body::Refused(errno, detail) => {
                            done = Some(Err(NetlinkError { what: what.clone(), errno: Some(errno), detail }));
                        }
                    }
                }
            })?;
        }
        done.unwrap_or(Ok(()))
    }

    /// Sends nftables messages as one transaction: all of them hold afterwards, or none.
    ///
    /// The kernel carries out a batch inside the send call and has queued all answers when that
    /// returns, so that nothing is waited for here.
    pub fn transaction(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        let count = messages.len();
        let begin = self.sequence.wrapping_add(1);
        let fixed = [0, 0, 0, crate::nft::SUBSYSTEM];
        let mut out = Vec::with_capacity(messages.iter().map(Message::len).sum::<usize>() + 64);
        let mut tried = HashMap::with_capacity(count);
        let all = std::iter::once(Message::new("begin a transaction", 0x10, 0, &fixed))
            .chain(messages)
            .chain(std::iter::once(Message::new("end a transaction", 0x11, 0, &fixed)));
        for (index, mut message) in all.enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence, if index == count { ACK } else { 0 });
            out.extend_from_slice(&message.buf);
            tried.insert(self.sequence, message.what);
        }
        self.send(&out, || "send a transaction".into())?;
        let last = begin.wrapping_add(count as u32);
        let mut finished = count == 0;
        let mut refused: Option<NetlinkError> = None;
        while !finished {
            self.receive(|received| {
                if let Body::Refused(errno, detail) = &received.body
                    && refused.is_none()
                {
                    let what = tried.get(&received.sequence).map_or_else(String::new, |what| what.to_string());
                    refused = Some(NetlinkError { what, errno: Some(*errno), detail: detail.clone() });
                }
                // A failure of the commit itself is told for the first message only.
                finished |= received.sequence == last || received.sequence == begin;
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Takes whatever multicast messages have arrived; false in the end if some were lost.
    pub fn drain(&mut self, mut each: impl FnMut(u16, &[u8])) -> Result<bool, NetlinkError> {
        loop {
            match self.receive(|received| {
                if let Body::Answer(kind, payload) = received.body {
                    each(kind, payload);
                }
            }) {
                Ok(()) => {}
                Err(error) if error.errno == Some(Errno::AGAIN) => return Ok(true),
                Err(error) if error.errno == Some(Errno::NOBUFS) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], what: impl Fn() -> String) -> Result<(), NetlinkError> {
        // The kernel wants the whole of a batch in one piece, and counts its own overhead too.
        let wanted = bytes.len() * 2 + 4096;
        if wanted > self.send_buffer.max(128 << 10) {
            sockopt::set_socket_send_buffer_size_force(&self.fd, wanted).map_err(|errno| NetlinkError::new(what(), errno))?;
            self.send_buffer = wanted;
        }
        loop {
            match sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::new(what(), errno)),
            }
        }
    }

    fn receive(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<(), NetlinkError> {
        let what = "read a netlink answer";
        let length = loop {
            match recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::new(what, errno)),
            }
        };
        let mut rest = self.buffer.get(..length).ok_or_else(|| NetlinkError::malformed(what))?;
        while rest.len() >= message::HEADER {
            let field16 = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
            let field32 = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let length = field32(0) as usize;
            let (kind, flags, sequence) = (field16(4), field16(6), field32(8));
            let payload = rest.get(message::HEADER..length).ok_or_else(|| NetlinkError::malformed(what))?;
            let body = match kind {
                NLMSG_ERROR => error_body(payload, flags).ok_or_else(|| NetlinkError::malformed(what))?,
                NLMSG_DONE => match payload.get(0..4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
                    Some(error) if error < 0 => Body::Refused(Errno::from_raw_os_error(-error), String::new()),
                    _ => Body::Done,
                },
                kind => Body::Answer(kind, payload),
            };
            each(Received { sequence, body });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.fd)
    }
}

struct Received<'a> {
    sequence: u32,
    body: Body<'a>,
}

enum Body<'a> {
    Answer(u16, &'a [u8]),
    Done,
    Acknowledged,
    Refused(Errno, String),
}

fn error_body(payload: &[u8], flags: u16) -> Option<Body<'static>> {
    let code = i32::from_ne_bytes(payload.get(0..4)?.try_into().ok()?);
    if code == 0 {
        return Some(Body::Acknowledged);
    }
    let mut detail = String::new();
    if flags & ACK_TLVS != 0 {
        let request = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?) as usize;
        let skipped = if flags & CAPPED != 0 { message::HEADER } else { request.next_multiple_of(4) };
        if let Some(text) = payload.get(4 + skipped..).and_then(|rest| attribute(rest, EXTENDED_TEXT)) {
            detail = format!(" ({})", read_text(text));
        }
    }
    Some(Body::Refused(Errno::from_raw_os_error(-code), detail))
}
