//! A one-way stream in WebSocket messages: how browsers read the logs of a container and follow a watch.
//!
//! Upstream's readers agree on `binary.k8s.io` (bytes as they are), `base64.binary.k8s.io` (text) or no name (bytes), and
//! begin with an empty message, so that a client learns at once that the stream is open.

use crate::negotiate::{self, Body, Rejection};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http::{Request, Response};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long the peer may take to answer our close.
const LINGER: Duration = Duration::from_secs(5);

/// How a message carries its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A binary message.
    Binary,
    /// A text message of base64.
    Base64,
    /// A text message of what is text anyway.
    Text,
}

impl Framing {
    fn message(self, bytes: Bytes) -> Message {
        match self {
            Framing::Binary => Message::Binary(bytes),
            Framing::Base64 => Message::text(STANDARD.encode(&bytes)),
            Framing::Text => Message::text(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// The answer, and the work that sends the messages once the connection has changed hands.
pub type Sending<W> = (Response<Body>, W);

/// Answers a WebSocket request with the bytes of a reader (a log).
///
/// # Errors
/// The answer for a request that cannot be upgraded or names only unknown protocols.
pub fn send_bytes<B, S>(request: Request<B>, source: S) -> Result<Sending<impl Future<Output = ()> + Send>, Rejection>
where
    S: Stream<Item = Bytes> + Send + Unpin + 'static,
{
    let known = [("binary.k8s.io", Framing::Binary), ("base64.binary.k8s.io", Framing::Base64)];
    let agreed = negotiate::agree_websocket(request, &known, Some(Framing::Binary))?;
    let work = run(agreed.upgrade, agreed.protocol, true, source);
    Ok((agreed.response, work))
}

/// Answers a WebSocket request with one message for each item (the events of a watch).
///
/// # Errors
/// The answer for a request that cannot be upgraded.
pub fn send_items<B, S>(request: Request<B>, framing: Framing, source: S) -> Result<Sending<impl Future<Output = ()> + Send>, Rejection>
where
    S: Stream<Item = Bytes> + Send + Unpin + 'static,
{
    let agreed = negotiate::agree_websocket(request, &[], Some(framing))?;
    let work = run(agreed.upgrade, framing, false, source);
    Ok((agreed.response, work))
}

async fn run<S>(upgrade: hyper::upgrade::OnUpgrade, framing: Framing, greet: bool, mut source: S)
where
    S: Stream<Item = Bytes> + Send + Unpin + 'static,
{
    let io = match negotiate::upgraded(upgrade).await {
        Ok(io) => io,
        Err(error) => return tracing::debug!(%error, "a WebSocket was not opened"),
    };
    let (mut sink, mut messages) = negotiate::websocket(io, Role::Server).await.split();
    let sending = async {
        if greet {
            sink.send(framing.message(Bytes::new())).await?;
        }
        while let Some(bytes) = source.next().await {
            sink.send(framing.message(bytes)).await?;
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(goodbye))).await?;
        Ok::<(), Error>(())
    };
    // What the client says means nothing; that it goes does.
    let mut hearing = pin!(async { while let Some(Ok(_)) = messages.next().await {} });
    let outcome = tokio::select! {
        outcome = sending => outcome,
        () = &mut hearing => return,
    };
    match outcome {
        Ok(()) => drop(tokio::time::timeout(LINGER, hearing).await),
        Err(error) => tracing::debug!(%error, "a WebSocket cannot be written"),
    }
}
