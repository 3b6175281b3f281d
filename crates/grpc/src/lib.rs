//! gRPC over HTTP/2: frames, statuses, messages as tables, one client and one server, for every protocol of ours.
//!
//! ```text
//! etcd, plugins of the API server, probes, container runtimes, volume and device drivers
//!        <-- client (sockets, TCP, TLS; unary, answers as they come, both ways as they come) -- us
//!        --> server (sockets; unary, answers as they come) --> us
//! ```
//!
//! Nothing is compressed. No generated code and no compiler for it is needed: [`messages!`] makes types of tables.

mod authority;
pub mod client;
pub mod server;
pub mod wire;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest message taken where nobody says otherwise, as the Go kubelet has it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Makes the enum of codes and the list of their numbers of one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// gRPC's status codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name = $number),* }

        const CODES: &[Code] = &[$(Code::$name),*];
    };
}

codes! {
    /// The caller has gone.
    Cancelled = 1,
    /// Nobody said why.
    Unknown = 2,
    /// What was asked makes no sense.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// It does not exist.
    NotFound = 5,
    /// It exists already.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// There is no more of it.
    ResourceExhausted = 8,
    /// It is not in a state for this.
    FailedPrecondition = 9,
    /// Another one was at it.
    Aborted = 10,
    /// Beyond what there is.
    OutOfRange = 11,
    /// The method does not exist here.
    Unimplemented = 12,
    /// Something went wrong.
    Internal = 13,
    /// Nobody answers.
    Unavailable = 14,
    /// It is gone or broken.
    DataLoss = 15,
    /// Nobody knows the caller.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    fn of(number: u32) -> Code {
        CODES.iter().copied().find(|known| known.number() == number).unwrap_or(Code::Unknown)
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Of which kind.
    pub code: Code,
    /// In words.
    pub message: String,
    /// Whether the other side may have carried it out.
    pub sent: bool,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), sent: true }
    }

    /// A call that has never left.
    pub fn unsent(error: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Unavailable, message: error.to_string(), sent: false }
    }

    /// A call whose answer never came.
    pub fn unanswered(error: impl std::fmt::Display) -> Failure {
        Failure::new(Code::Unavailable, error.to_string())
    }

    /// An error with its causes in one line.
    pub fn internal(error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Failure::new(Code::Unknown, text)
    }
}

/// A message as it is sent: not compressed, its length before it.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("messages are far smaller"));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Takes the next whole message out of what has come. One that is too large is refused by its head.
fn unframed(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Failure> {
    let Some(head) = buffer.get(..5) else { return Ok(None) };
    let (compressed, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
    if compressed != 0 {
        return Err(Failure::new(Code::Unimplemented, "compressed messages are not understood"));
    }
    if length > max {
        return Err(Failure::new(Code::ResourceExhausted, format!("message of {length} bytes is larger than {max}")));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// `grpc-message` is percent-encoded.
fn encode(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' { text.push(char::from(byte)) } else { text.push_str(&format!("%{byte:02X}")) }
    }
    text
}

fn decode(message: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(message.len());
    let mut rest = message;
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = escaped.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_failures_survive_their_header() {
        for text in ["plain", "100 % of\nit", "größer", "%zz%4"] {
            assert_eq!(decode(encode(text).as_bytes()), text);
        }
        assert_eq!(decode(b"a%zzb%4"), "a%zzb%4");
    }

    #[test]
    fn messages_come_whole_or_not_at_all() {
        let whole = [framed(b"first"), framed(b"")].concat();
        for cut in 0..5 + 5 {
            assert_eq!(unframed(&mut BytesMut::from(&whole[..cut]), MAX_MESSAGE), Ok(None));
        }
        let mut buffer = BytesMut::from(&whole[..]);
        assert_eq!(unframed(&mut buffer, MAX_MESSAGE), Ok(Some(Bytes::from_static(b"first"))));
        assert_eq!(unframed(&mut buffer, MAX_MESSAGE), Ok(Some(Bytes::new())));
        assert!(unframed(&mut BytesMut::from(&[1, 0, 0, 0, 0][..]), MAX_MESSAGE).is_err());
        assert!(unframed(&mut BytesMut::from(&[0, 255, 0, 0, 0][..]), MAX_MESSAGE).is_err());
    }
}
