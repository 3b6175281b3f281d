//! The channel protocols: each message starts with the number of its channel.
//!
//! 0 stdin, 1 stdout, 2 stderr, 3 outcome, 4 terminal size; 255 (from v5 on) closes the channel named in the next byte.

use crate::outbox::{ChannelFeed, ChannelReader, Outbox, Piece};
use crate::{ByteReader, ByteWriter, StreamError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

/// Closes a channel, from v5 on.
const CLOSE_CHANNEL: u8 = 255;
/// How long the peer may take to answer our close.
const LINGER: Duration = Duration::from_secs(5);

/// A negotiated protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelProtocol {
    /// Its name; empty when the caller named none.
    pub(crate) name: &'static str,
    /// Payloads are base64 in text messages.
    pub(crate) base64: bool,
    /// The outcome is a Status object.
    pub(crate) status_object: bool,
    /// Channels can be closed one by one.
    pub(crate) half_close: bool,
}

impl ChannelProtocol {
    /// What we speak, best first.
    pub(crate) const ALL: [Self; 5] = [
        Self { name: "v5.channel.k8s.io", base64: false, status_object: true, half_close: true },
        Self { name: "v4.channel.k8s.io", base64: false, status_object: true, half_close: false },
        Self { name: "v4.base64.channel.k8s.io", base64: true, status_object: true, half_close: false },
        Self { name: "channel.k8s.io", base64: false, status_object: false, half_close: false },
        Self { name: "base64.channel.k8s.io", base64: true, status_object: false, half_close: false },
    ];

    /// For a caller that names no protocol.
    pub(crate) const UNNAMED: Self = Self { name: "", base64: false, status_object: false, half_close: false };

    fn encode(&self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.extend_from_slice(bytes);
        Message::Binary(message.freeze())
    }

    fn decode(&self, message: Message) -> Result<Option<(u8, Bytes)>, StreamError> {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return Ok(None),
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let channel = bytes.get_u8();
        if !self.base64 {
            return Ok(Some((channel, bytes)));
        }
        let malformed = || StreamError::Protocol("malformed base64 message".into());
        let channel = channel.checked_sub(b'0').filter(|digit| *digit < 10).ok_or_else(malformed)?;
        let bytes = STANDARD.decode(&bytes).map_err(|_| malformed())?;
        Ok(Some((channel, bytes.into())))
    }
}

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The channels of one WebSocket connection.
pub(crate) struct Channels {
    outbox: Outbox<()>,
    /// The peer is gone.
    pub(crate) closed: CancellationToken,
    finished: CancellationToken,
}

impl Channels {
    /// Starts the tasks of a connection; `readable` are the channels that the peer writes.
    pub(crate) fn start<T>(
        socket: WebSocketStream<T>,
        protocol: ChannelProtocol,
        side: Side,
        readable: &[u8],
    ) -> (Self, HashMap<u8, ByteReader>)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (outbox, pieces) = Outbox::new();
        let (closed, finished) = (CancellationToken::new(), CancellationToken::new());
        let (sink, messages) = socket.split();
        let mut feeds = HashMap::new();
        let mut readers: HashMap<u8, ByteReader> = HashMap::new();
        for channel in readable {
            let (feed, reader) = ChannelReader::new();
            feeds.insert(*channel, feed);
            readers.insert(*channel, Box::new(reader));
        }
        let written = CancellationToken::new();
        tokio::spawn(write_all(sink, protocol, side, pieces, written.clone()));
        let reading = Reading { protocol, feeds, closed: closed.clone(), written, finished: finished.clone() };
        tokio::spawn(reading.run(messages, outbox.clone()));
        (Self { outbox, closed, finished }, readers)
    }

    /// A writer of one channel.
    pub(crate) fn writer(&self, channel: u8) -> ByteWriter {
        Box::new(self.outbox.writer(u32::from(channel)))
    }

    /// Sends one message that must not be split, or an empty one.
    pub(crate) fn send(&self, channel: u8, bytes: impl Into<Bytes>) -> Result<(), StreamError> {
        let sent = self.outbox.data(u32::from(channel), bytes.into(), false);
        if sent { Ok(()) } else { Err(StreamError::Closed) }
    }

    /// Sends a close frame after everything written, and waits until the peer answered it or a few seconds passed.
    pub(crate) async fn close(&self) {
        self.outbox.close();
        self.finished.cancelled().await;
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

struct Reading {
    protocol: ChannelProtocol,
    feeds: HashMap<u8, ChannelFeed>,
    closed: CancellationToken,
    written: CancellationToken,
    finished: CancellationToken,
}

impl Reading {
    async fn run<T>(mut self, mut messages: SplitStream<WebSocketStream<T>>, outbox: Outbox<()>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let written = self.written.clone();
        let lingering = async {
            written.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        let outcome = tokio::select! {
            outcome = self.read_all(&mut messages) => outcome,
            () = lingering => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "WebSocket connection ended");
        }
        self.feeds.clear();
        self.closed.cancel();
        outbox.close();
        written.cancelled().await;
        self.finished.cancel();
    }

    async fn read_all<T>(&mut self, messages: &mut SplitStream<WebSocketStream<T>>) -> Result<(), StreamError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| StreamError::Protocol(error.to_string()))?;
            let Some((channel, bytes)) = self.protocol.decode(message)? else {
                continue;
            };
            if channel == CLOSE_CHANNEL && self.protocol.half_close {
                if let Some(channel) = bytes.first() {
                    self.feeds.remove(channel);
                }
                continue;
            }
            let Some(feed) = self.feeds.get(&channel).filter(|_| !bytes.is_empty()) else {
                continue;
            };
            let wanted = tokio::select! {
                sent = feed.send(Ok(bytes)) => sent.is_ok(),
                // We have closed: what still comes is only read to find the peer's close.
                () = self.written.cancelled() => false,
            };
            if !wanted {
                self.feeds.remove(&channel);
            }
        }
        Ok(())
    }
}

async fn write_all<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    protocol: ChannelProtocol,
    side: Side,
    mut pieces: mpsc::UnboundedReceiver<Piece<()>>,
    written: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let writing = async {
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Data { channel, bytes, fin, _permit } => {
                    let channel = u8::try_from(channel).expect("channels of a WebSocket are bytes");
                    if !fin {
                        sink.feed(protocol.encode(channel, &bytes)).await?;
                    } else if side == Side::Client && protocol.half_close {
                        sink.feed(protocol.encode(CLOSE_CHANNEL, &[channel])).await?;
                    }
                }
                Piece::Control(()) => {}
                Piece::Close => break,
            }
            if pieces.is_empty() {
                sink.flush().await?;
            }
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(goodbye))).await?;
        Ok::<(), tokio_tungstenite::tungstenite::Error>(())
    };
    if let Err(error) = writing.await {
        tracing::debug!(%error, "WebSocket connection cannot be written");
    }
    pieces.close();
    written.cancel();
}
