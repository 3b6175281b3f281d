//! Bodies: what comes in is read once and bounded, what goes out is bytes that are there, a list that is
//! joined as it is sent, or a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::{Reason, Status};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use store::Entry;

/// Largest request body.
pub const MAX_REQUEST: usize = 3 << 20;

/// How much of a list is put into one frame.
const FRAME: usize = 64 << 10;

/// Whatever went wrong while a body was read or written.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub enum RequestBody {
    /// In process: all of it.
    Ready(Bytes),
    /// Over the network.
    Network(Incoming),
}

impl RequestBody {
    /// All bytes.
    ///
    /// # Errors
    /// 413 above the limit, 400 when the caller breaks off.
    pub async fn collect(self) -> Result<Bytes, Status> {
        match self {
            RequestBody::Ready(bytes) if bytes.len() <= MAX_REQUEST => Ok(bytes),
            RequestBody::Ready(_) => Err(too_large()),
            RequestBody::Network(incoming) => {
                if incoming.size_hint().lower() > MAX_REQUEST as u64 {
                    return Err(too_large());
                }
                match Limited::new(incoming, MAX_REQUEST).collect().await {
                    Ok(collected) => Ok(collected.to_bytes()),
                    Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
                    Err(error) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
                }
            }
        }
    }
}

fn too_large() -> Status {
    Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {MAX_REQUEST}"))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            RequestBody::Ready(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Ready(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Network(incoming) => Pin::new(incoming).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Ready(bytes) => bytes.is_empty(),
            RequestBody::Network(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Ready(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Network(incoming) => incoming.size_hint(),
        }
    }
}

/// The body of an answer.
pub enum ResponseBody {
    /// All of it.
    Full(Bytes),
    /// A list of entries, joined by commas between a head and a tail; never in memory as a whole.
    List(ListBody),
    /// Whatever a stream brings.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
    /// The answer of another server.
    Relayed(stream::Body),
}

impl ResponseBody {
    /// Bytes if they are there without waiting.
    pub fn into_ready(self) -> Result<Bytes, ResponseBody> {
        match self {
            ResponseBody::Full(bytes) => Ok(bytes),
            ResponseBody::List(mut list) => {
                let mut all = BytesMut::with_capacity(list.length() as usize);
                while let Some(frame) = list.next_frame() {
                    all.put_slice(&frame);
                }
                Ok(all.freeze())
            }
            other => Err(other),
        }
    }
}

/// A JSON list made of entries.
pub struct ListBody {
    head: Option<Bytes>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    tail: Bytes,
    first: bool,
    done: bool,
    length: u64,
}

impl ListBody {
    /// Head such as `{"kind":...,"items":[`, entries, tail `]}`.
    pub fn new(head: Bytes, entries: Vec<Arc<Entry>>, tail: Bytes) -> ListBody {
        let items: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        let length = head.len() + items + entries.len().saturating_sub(1) + tail.len();
        ListBody { head: Some(head), entries: entries.into_iter(), tail, first: true, done: false, length: length as u64 }
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut frame = BytesMut::with_capacity(FRAME.min(self.length as usize));
        if let Some(head) = self.head.take() {
            frame.put_slice(&head);
        }
        while frame.len() < FRAME {
            let Some(entry) = self.entries.next() else {
                frame.put_slice(&self.tail);
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                frame.put_u8(b',');
            }
            frame.put_slice(&entry.bytes);
        }
        Some(frame.freeze())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResponseBody::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            ResponseBody::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ResponseBody::List(list) => Poll::Ready(list.next_frame().map(|frame| Ok(Frame::data(frame)))),
            ResponseBody::Stream(stream) => stream.as_mut().poll_next(context).map(|item| item.map(|item| item.map(Frame::data))),
            ResponseBody::Relayed(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Full(bytes) => bytes.is_empty(),
            ResponseBody::List(list) => list.done,
            ResponseBody::Stream(_) => false,
            ResponseBody::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::List(list) if list.first => SizeHint::with_exact(list.length),
            ResponseBody::List(_) | ResponseBody::Stream(_) => SizeHint::default(),
            ResponseBody::Relayed(body) => body.size_hint(),
        }
    }
}
