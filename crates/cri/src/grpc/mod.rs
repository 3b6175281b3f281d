//! gRPC over a Unix socket: frames, statuses, one server and one client, as small as CRI lets them be.
//!
//! Calls are unary, or one request with many answers; nothing is compressed.

pub mod client;
pub mod server;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest message taken, as the Go kubelet has it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// gRPC's status codes, as far as they occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Nobody said why.
    Unknown,
    /// What was asked makes no sense.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// It does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// It is not in a state for this.
    FailedPrecondition,
    /// The method does not exist here.
    Unimplemented,
    /// Something went wrong.
    Internal,
    /// Nobody answers.
    Unavailable,
}

const CODES: &[(Code, u32)] = &[
    (Code::Unknown, 2),
    (Code::InvalidArgument, 3),
    (Code::DeadlineExceeded, 4),
    (Code::NotFound, 5),
    (Code::AlreadyExists, 6),
    (Code::FailedPrecondition, 9),
    (Code::Unimplemented, 12),
    (Code::Internal, 13),
    (Code::Unavailable, 14),
];

impl Code {
    fn number(self) -> u32 {
        CODES.iter().find(|(code, _)| *code == self).map_or(2, |(_, number)| *number)
    }

    fn of(number: u32) -> Code {
        CODES.iter().find(|(_, known)| *known == number).map_or(Code::Unknown, |(code, _)| *code)
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
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
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

/// Takes the next whole message out of what has come.
fn unframed(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(head) = buffer.get(..5) else { return Ok(None) };
    let (compressed, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
    if compressed != 0 {
        return Err(Failure::new(Code::Unimplemented, "compressed messages are not understood"));
    }
    if length > MAX_MESSAGE {
        return Err(Failure::new(Code::InvalidArgument, format!("message of {length} bytes is larger than {MAX_MESSAGE}")));
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
            assert_eq!(unframed(&mut BytesMut::from(&whole[..cut])), Ok(None));
        }
        let mut buffer = BytesMut::from(&whole[..]);
        assert_eq!(unframed(&mut buffer), Ok(Some(Bytes::from_static(b"first"))));
        assert_eq!(unframed(&mut buffer), Ok(Some(Bytes::new())));
        assert!(unframed(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
        assert!(unframed(&mut BytesMut::from(&[0, 255, 0, 0, 0][..])).is_err());
    }
}
