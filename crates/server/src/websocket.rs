//! Logs and watches for those who read them through a WebSocket: browsers cannot read a body as it grows.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream as streams};
use http::request::Parts;
use http::{HeaderName, Method, Request, header};
use http_body_util::BodyExt;
use stream::Rejection;
use stream::ws::{Framing, Sending};

use crate::body::{BoxError, ResponseBody};
use crate::request::Reply;
use crate::server::Server;
use crate::steps::encode::Media;

/// A request to open a WebSocket, without its body.
pub struct Socket(Request<()>);

/// Headers of the opening, which nobody behind this server may see.
const OPENING: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Takes the wish for a WebSocket out of a request, if there is one.
pub fn take(parts: &mut Parts) -> Option<Socket> {
    let named = parts.headers.get(header::UPGRADE)?.to_str().ok()?;
    if parts.method != Method::GET || !named.eq_ignore_ascii_case("websocket") || !stream::wants_upgrade(&parts.headers) {
        return None;
    }
    let socket = Socket(Request::from_parts(parts.clone(), ()));
    parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    for name in OPENING {
        parts.headers.remove(name);
    }
    Some(socket)
}

/// Sends the body of an answer (a log) message by message.
pub fn log(server: &Arc<Server>, socket: Socket, answer: Reply) -> Reply {
    let pieces = streams::unfold(answer.into_body(), |mut body| async move {
        loop {
            let frame = body.frame().await?.ok()?;
            if let Ok(bytes) = frame.into_data() {
                return Some((bytes, body));
            }
        }
    });
    let shutdown = server.shutdown.clone();
    let pieces = pieces.take_until(async move { shutdown.cancelled().await });
    opened(server, stream::ws::send_bytes(socket.0, Box::pin(pieces)))
}

/// Sends each event of a watch as a message of its own.
pub fn watch(
    server: &Arc<Server>,
    socket: Socket,
    media: Media,
    events: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Reply {
    let chunks = events.take_while(|chunk| future::ready(chunk.is_ok())).filter_map(|chunk| future::ready(chunk.ok()));
    let (framing, split): (Framing, fn(Bytes) -> Vec<Bytes>) = match media {
        Media::Protobuf => (Framing::Binary, delimited),
        Media::Json | Media::Yaml => (Framing::Text, lines),
    };
    let items = chunks.flat_map(move |chunk| streams::iter(split(chunk)));
    opened(server, stream::ws::send_items(socket.0, framing, Box::pin(items)))
}

/// Events in JSON stand one on a line.
fn lines(chunk: Bytes) -> Vec<Bytes> {
    chunk.split_inclusive(|byte| *byte == b'\n').map(|line| chunk.slice_ref(line)).collect()
}

/// Events in protobuf follow their length in four bytes, which a message does not need.
fn delimited(mut chunk: Bytes) -> Vec<Bytes> {
    let mut events = Vec::new();
    while let Some(length) = chunk.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) {
        let end = (4 + length).min(chunk.len());
        events.push(chunk.slice(4..end));
        chunk = chunk.slice(end..);
    }
    events
}

fn opened<W: Future<Output = ()> + Send + 'static>(server: &Arc<Server>, sending: Result<Sending<W>, Rejection>) -> Reply {
    match sending {
        Ok((answer, work)) => {
            server.tasks.spawn(work);
            answer.map(ResponseBody::Relayed)
        }
        Err(refused) => refused.map(ResponseBody::Relayed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let json = Bytes::from_static(b"{\"type\":\"A\"}\n{\"type\":\"B\"}\n");
        assert_eq!(lines(json), [&b"{\"type\":\"A\"}\n"[..], b"{\"type\":\"B\"}\n"]);
        let protobuf = Bytes::from_static(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 3]);
        assert_eq!(delimited(protobuf), [&[1, 2][..], &[3]]);
    }
}
