//! What Go programs call the host of a socket, made acceptable to our HTTP/2 library.
//!
//! A client of grpc-go that dials a path by itself, as most device plugins and older versions of crictl do, names the path as
//! the host: `:authority: %2Frun%2Fknarr%2Fcri.sock`. RFC 3986 section 3.2.2 allows that; the `http` crate does not, and h2
//! resets the stream before anybody can answer it. On sockets the host means nothing, so its percent signs and slashes become
//! hyphens on the way in. All three take one byte plain and six bits in the code of RFC 7541 appendix B: no length changes, and
//! the tables of both ends stay the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends before its first frame (RFC 9113 section 3.4), in bytes.
const PREFACE: usize = 24;
/// Length, type, flags and stream of a frame, in bytes.
const HEAD: usize = 9;
/// Largest frame that is looked into: the most that a peer takes unless it says otherwise.
const LARGEST: usize = 16 << 10;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The place of `:authority` in the static table (RFC 7541 appendix A).
const AUTHORITY: u64 = 1;

/// The server's end of a connection.
pub(crate) struct Lenient<T> {
    inner: T,
    /// Read and not yet handed on.
    buffer: BytesMut,
    /// How much of the buffer's begin has been looked at.
    done: usize,
    /// How much of what comes next needs no look.
    plain: usize,
}

impl<T> Lenient<T> {
    pub(crate) fn new(inner: T) -> Lenient<T> {
        Lenient { inner, buffer: BytesMut::new(), done: 0, plain: PREFACE }
    }

    /// Goes through what has been read as far as it can.
    fn look(&mut self) {
        loop {
            let left = self.buffer.len() - self.done;
            let pass = self.plain.min(left);
            self.done += pass;
            self.plain -= pass;
            let frame = &mut self.buffer[self.done..];
            if self.plain > 0 || frame.len() < HEAD {
                return;
            }
            let length = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
            if frame[3] == HEADERS && length <= LARGEST {
                if frame.len() < HEAD + length {
                    return;
                }
                let flags = frame[4];
                let block = &mut frame[HEAD..HEAD + length];
                let skip = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
                let padding = if flags & PADDED != 0 { block.first().map_or(0, |padding| usize::from(*padding)) } else { 0 };
                let end = block.len().saturating_sub(padding);
                if let Some(fields) = block.get_mut(skip..end) {
                    // What is no list of fields is for the library to refuse.
                    let _refused_later = rename(fields);
                }
            }
            self.plain = HEAD + length;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lenient<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.done == 0 {
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // The end; a frame that is not whole goes with it.
                this.done = this.buffer.len();
                break;
            }
            this.buffer.extend_from_slice(read.filled());
            this.look();
        }
        let give = this.done.min(out.remaining());
        out.put_slice(&this.buffer[..give]);
        this.buffer.advance(give);
        this.done -= give;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lenient<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

/// Renames the authority in a block of fields (RFC 7541 section 6); nothing where the block makes no sense.
fn rename(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name = number(block, &mut at, bits)?;
        if !literal {
            continue;
        }
        if name == 0 {
            text(block, &mut at)?;
        }
        let (value, coded) = text(block, &mut at)?;
        if name == AUTHORITY {
            let value = &mut block[value];
            if coded { soften_code(value) } else { soften(value) }
        }
    }
    Some(())
}

/// An integer of so many bits in its first byte (RFC 7541 section 5.1).
fn number(block: &[u8], at: &mut usize, bits: u32) -> Option<u64> {
    let most = (1_u64 << bits) - 1;
    let mut value = u64::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where the bytes of a string are, and whether they are coded (RFC 7541 section 5.2).
fn text(block: &[u8], at: &mut usize) -> Option<(std::ops::Range<usize>, bool)> {
    let coded = *block.get(*at)? & 0x80 != 0;
    let length = usize::try_from(number(block, at, 7)?).ok()?;
    let range = *at..at.checked_add(length)?;
    block.get(range.clone())?;
    *at = range.end;
    Some((range, coded))
}

fn soften(value: &mut [u8]) {
    value.iter_mut().filter(|byte| matches!(byte, b'%' | b'/')).for_each(|byte| *byte = b'-');
}

/// The same in the code of RFC 7541 appendix B. Its words are in order within a length, so that the first bits tell the length;
/// words of more than eight bits are no letters of paths, and end the search.
fn soften_code(value: &mut [u8]) {
    const PERCENT: u16 = 0b01_0101;
    const SLASH: u16 = 0b01_1000;
    const HYPHEN: u16 = 0b01_0110;
    let total = value.len() * 8;
    let mut at = 0;
    let peek = |value: &[u8], at: usize, bits: usize| {
        (at..at + bits).fold(0_u16, |word, bit| word << 1 | u16::from(value[bit / 8] >> (7 - bit % 8) & 1))
    };
    // The length of words, and the last of that length.
    let lengths = [(5, 0b0_1001), (6, 0b10_1101), (7, 0b111_1011), (8, 0b1111_1101)];
    while let Some((bits, word)) = lengths
        .iter()
        .filter(|(bits, _)| at + bits <= total)
        .map(|(bits, last)| (*bits, peek(value, at, *bits), *last))
        .find(|(_, word, last)| word <= last)
        .map(|(bits, word, _)| (bits, word))
    {
        if bits == 6 && (word == PERCENT || word == SLASH) {
            for (place, bit) in (at..at + bits).enumerate() {
                let mask = 1 << (7 - bit % 8);
                if HYPHEN >> (bits - 1 - place) & 1 == 1 { value[bit / 8] |= mask } else { value[bit / 8] &= !mask }
            }
        }
        at += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Fields around an authority of these bytes, plain or coded.
    fn block(authority: &[u8], coded: bool) -> Vec<u8> {
        // `:method: POST`, `:path` with indexing, `:authority`, `te: trailers` by a literal name.
        let mut block = vec![0x83, 0x44, 3, b'/', b'%', b'a', 0x41, authority.len() as u8 | if coded { 0x80 } else { 0 }];
        block.extend_from_slice(authority);
        block.extend_from_slice(&[0x40, 2, b't', b'e', 2, b'/', b'%']);
        block
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn the_authority_alone_is_renamed() {
        let check = |authority: &[u8], coded: bool, expected: &[u8]| {
            let mut bytes = block(authority, coded);
            rename(&mut bytes).expect("a list of fields");
            assert_eq!(bytes, block(expected, coded), "{authority:?}");
        };
        check(b"localhost:80", false, b"localhost:80");
        check(b"%2Frun%2Fa.sock", false, b"-2Frun-2Fa.sock");
        check(b"/run/a.sock", false, b"-run-a.sock");
        // "%2F/a.sock" and "-2F-a.sock" as a Go program codes them.
        check(
            &[0b0101_0100, 0b0101_1000, 0b0101_1000, 0b0001_1010, 0b1110_1000, 0b0011_1001, 0b0011_1010, 0b1111_1111],
            true,
            &[0b0101_1000, 0b0101_1000, 0b0101_0110, 0b0001_1010, 0b1110_1000, 0b0011_1001, 0b0011_1010, 0b1111_1111],
        );
    }

    #[test]
    fn nonsense_is_left_alone() {
        for bytes in [&[0x41][..], &[0x41, 0x7f], &[0x41, 5, b'%'], &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x40, 0x85, 1]] {
            let mut changed = bytes.to_vec();
            assert_eq!(rename(&mut changed), None, "{bytes:?}");
            assert_eq!(changed, bytes);
        }
    }

    #[tokio::test]
    async fn frames_come_through_whole_however_they_are_read() {
        let authority = b"%2Frun%2Fa.sock";
        let stream = |authority: &[u8]| {
            let mut padded = vec![2, 0, 0, 0, 0, 0];
            padded.extend(block(authority, false));
            padded.extend_from_slice(b"\0\0");
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(4, 0, b""));
            bytes.extend(frame(HEADERS, 4, &block(authority, false)));
            bytes.extend(frame(0, 0, b"%/%2F\x41\x03%/%"));
            bytes.extend(frame(HEADERS, 4 | PADDED | PRIORITY, &padded));
            bytes.extend_from_slice(&[0, 0, 9, HEADERS]);
            bytes
        };
        for step in [1, 7, 4096] {
            let (mut near, far) = tokio::io::duplex(step);
            let sent = stream(authority);
            let sender = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut near, &sent).await });
            let mut read = Vec::new();
            Lenient::new(far).read_to_end(&mut read).await.expect("all of it");
            sender.await.expect("a task").expect("sent");
            assert_eq!(read, stream(b"-2Frun-2Fa.sock"), "{step} bytes at a time");
        }
    }
}
