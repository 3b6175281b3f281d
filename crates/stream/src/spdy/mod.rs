//! SPDY/3.1 as Kubernetes clients use it: streams with headers over one connection, no flow control.
//!
//! ```text
//! control  |1| version 3 (15) | type (16) | flags (8) | length (24) | payload
//! data     |0| stream id (31)             | flags (8) | length (24) | payload
//! ```
//!
//! The clients (Go's spdystream) neither keep nor send flow-control windows, so neither do we; a stream that nobody
//! reads fills its bounded buffer and then holds up its connection.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Role, Stream};
pub use frame::{Decoder, Event, Frame, FrameError, encode_data, encode_frame};
pub use headers::{HeaderError, HeaderList, HeaderReader, HeaderWriter};
