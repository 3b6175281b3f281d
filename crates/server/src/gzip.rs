//! Large answers are compressed for callers on other machines; on the same machine bytes are cheaper than work.

use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::Stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue};
use http_body::Body;

use crate::body::{BoxError, ResponseBody};
use crate::request::Reply;

/// Answers below this are sent as they are.
const SMALLEST: u64 = 128 << 10;

/// Whether the caller takes gzip.
pub fn accepts(headers: &HeaderMap) -> bool {
    let value = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    value
        .split(',')
        .any(|one| one.split(';').next().is_some_and(|name| name.trim() == "gzip") && !one.contains("q=0,") && !one.ends_with("q=0"))
}

/// Whether the caller is on another machine.
pub fn pays_off(peer: SocketAddr) -> bool {
    !peer.ip().is_loopback()
}

/// The answer, compressed as it is sent if it is large.
pub fn compressed(reply: Reply) -> Reply {
    let large = match reply.body() {
        ResponseBody::Full(bytes) => bytes.len() as u64 >= SMALLEST,
        ResponseBody::List(list) => list.length() >= SMALLEST,
        ResponseBody::Stream(_) | ResponseBody::Relayed(_) => false,
    };
    if !large || reply.headers().contains_key(CONTENT_ENCODING) {
        return reply;
    }
    let (mut parts, body) = reply.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let stream = Compressed { body, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) };
    Reply::from_parts(parts, ResponseBody::Stream(Box::pin(stream)))
}

struct Compressed {
    body: ResponseBody,
    /// Gone when everything was written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Stream for Compressed {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    if !encoder.get_ref().is_empty() {
                        return Poll::Ready(Some(Ok(std::mem::take(encoder.get_mut()).into())));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    let encoder = this.encoder.take().expect("it was just there");
                    return Poll::Ready(Some(encoder.finish().map(Bytes::from).map_err(Into::into)));
                }
            }
        }
    }
}
