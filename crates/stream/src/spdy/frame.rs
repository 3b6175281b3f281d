//! Frames to and from bytes, without any input or output of its own.
//!
//! Limits come before allocation: a control frame may have 64 KiB, and data is handed on in chunks as it arrives,
//! however long its frame claims to be.

use super::headers::{HeaderError, HeaderList, HeaderReader, HeaderWriter};
use bytes::{Buf, Bytes, BytesMut};

const VERSION: u16 = 3;
const HEADER: usize = 8;
const LARGEST_CONTROL: usize = 64 * 1024;
/// The largest piece of data that is handed on at once.
const LARGEST_CHUNK: usize = 32 * 1024;
const FLAG_FIN: u8 = 1;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// A control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Id of the new stream.
        stream: u32,
        /// The sender will send no data.
        fin: bool,
        /// Its headers.
        headers: HeaderList,
    },
    /// Accepts a stream.
    SynReply {
        /// Which.
        stream: u32,
        /// The sender will send no data.
        fin: bool,
        /// Headers of the reply.
        headers: HeaderList,
    },
    /// Ends a stream at once in both directions.
    RstStream {
        /// Which.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// Asks for an echo.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// No new streams from now on.
    GoAway {
        /// The last stream that was served.
        last_stream: u32,
    },
    /// More headers for a stream; of no use to Kubernetes.
    Headers {
        /// Which.
        stream: u32,
        /// The sender will send no more.
        fin: bool,
        /// The headers.
        headers: HeaderList,
    },
    /// SETTINGS, WINDOW_UPDATE and anything unknown: passed over.
    Ignored {
        /// The frame's type.
        kind: u16,
    },
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A control frame.
    Control(Frame),
    /// A piece of a data frame.
    Data {
        /// Its stream.
        stream: u32,
        /// The bytes, possibly none.
        bytes: Bytes,
        /// The last data of the stream.
        fin: bool,
    },
}

/// Turns bytes into events.
#[derive(Default)]
pub struct Decoder {
    headers: HeaderReader,
    data: Option<OpenData>,
}

/// A data frame of which a part is still to come.
struct OpenData {
    stream: u32,
    fin: bool,
    rest: usize,
}

impl Decoder {
    /// Takes the next event off the buffer; `None` means that more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        if let Some(data) = &mut self.data {
            if buffer.is_empty() {
                return Ok(None);
            }
            let size = data.rest.min(buffer.len()).min(LARGEST_CHUNK);
            data.rest -= size;
            let done = data.rest == 0;
            let event = Event::Data { stream: data.stream, bytes: buffer.split_to(size).freeze(), fin: data.fin && done };
            if done {
                self.data = None;
            }
            return Ok(Some(event));
        }
        let Some(head) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (first, flags) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), head[4]);
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if first & !STREAM_MASK == 0 {
            buffer.advance(HEADER);
            let (stream, fin) = (first, flags & FLAG_FIN != 0);
            if length == 0 {
                return Ok(Some(Event::Data { stream, bytes: Bytes::new(), fin }));
            }
            self.data = Some(OpenData { stream, fin, rest: length });
            return self.decode(buffer);
        }
        let (version, kind) = ((first >> 16 & 0x7fff) as u16, (first & 0xffff) as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > LARGEST_CONTROL {
            return Err(FrameError::TooLarge(length));
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        let mut frame = buffer.split_to(HEADER + length).freeze();
        frame.advance(HEADER);
        self.control(kind, flags, frame).map(|frame| Some(Event::Control(frame)))
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FLAG_FIN != 0;
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| FrameError::Short(kind));
        Ok(match kind {
            1 => {
                let stream = number(&mut payload)? & STREAM_MASK;
                let _associated = number(&mut payload)?;
                let _priority_and_slot = payload.try_get_u16().map_err(|_| FrameError::Short(kind))?;
                Frame::SynStream { stream, fin, headers: self.headers.read(&payload)? }
            }
            2 => {
                let stream = number(&mut payload)? & STREAM_MASK;
                Frame::SynReply { stream, fin, headers: self.headers.read(&payload)? }
            }
            3 => {
                let stream = number(&mut payload)? & STREAM_MASK;
                Frame::RstStream { stream, status: number(&mut payload)? }
            }
            6 => Frame::Ping { id: number(&mut payload)? },
            7 => Frame::GoAway { last_stream: number(&mut payload)? & STREAM_MASK },
            8 => {
                let stream = number(&mut payload)? & STREAM_MASK;
                Frame::Headers { stream, fin, headers: self.headers.read(&payload)? }
            }
            kind => Frame::Ignored { kind },
        })
    }
}

/// Writes a control frame. `Ignored` frames cannot be written and leave no bytes.
pub fn encode_frame(frame: &Frame, headers: &mut HeaderWriter, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    let put = |payload: &mut Vec<u8>, number: u32| payload.extend_from_slice(&number.to_be_bytes());
    let (kind, fin): (u16, bool) = match frame {
        Frame::SynStream { stream, fin, headers: list } => {
            put(&mut payload, *stream);
            put(&mut payload, 0);
            payload.extend_from_slice(&[0, 0]);
            payload.extend_from_slice(&headers.write(list));
            (1, *fin)
        }
        Frame::SynReply { stream, fin, headers: list } => {
            put(&mut payload, *stream);
            payload.extend_from_slice(&headers.write(list));
            (2, *fin)
        }
        Frame::RstStream { stream, status } => {
            put(&mut payload, *stream);
            put(&mut payload, *status);
            (3, false)
        }
        Frame::Ping { id } => {
            put(&mut payload, *id);
            (6, false)
        }
        Frame::GoAway { last_stream } => {
            put(&mut payload, *last_stream);
            put(&mut payload, 0);
            (7, false)
        }
        Frame::Headers { stream, fin, headers: list } => {
            put(&mut payload, *stream);
            payload.extend_from_slice(&headers.write(list));
            (8, *fin)
        }
        Frame::Ignored { .. } => return,
    };
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    put_flags_and_length(out, fin, payload.len());
    out.extend_from_slice(&payload);
}

/// Writes a data frame; `bytes` must be shorter than 16 MiB.
pub fn encode_data(stream: u32, bytes: &[u8], fin: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&(stream & STREAM_MASK).to_be_bytes());
    put_flags_and_length(out, fin, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_flags_and_length(out: &mut Vec<u8>, fin: bool, length: usize) {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24).expect("frames of ours are short");
    out.push(u8::from(fin) * FLAG_FIN);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
}

/// Why the bytes are no frames. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// Beyond our limit.
    #[error("control frame of {0} bytes")]
    TooLarge(usize),
    /// The payload ends early.
    #[error("control frame of type {0} is too short")]
    Short(u16),
    /// The headers.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}
