//! Port forwarding: pairs of data and error stream, over SPDY or SPDY tunnelled in WebSocket.

use crate::negotiate::{Agreed, agree_spdy, agree_websocket, is_websocket, upgraded, websocket};
use crate::spdy::{Connection, Role, Stream};
use crate::ws::Tunnel;
use crate::{Body, ByteReader, ByteWriter, Pending, Rejection, StreamError};
use http::{Request, Response};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The inner protocol.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// Its tunnelled form.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Pairs of which only one stream has come.
const MOST_HALVES: usize = 256;

/// Limits of a forwarding connection.
#[derive(Clone, Debug)]
pub struct PortForwardOptions {
    /// How long the second stream of a pair may take.
    pub creation_timeout: Duration,
}

/// A caller that forwards ports.
pub struct PortForwardSession {
    /// Cancelled when the caller's connection is gone.
    pub closed: CancellationToken,
    connection: Connection,
    streams: mpsc::Receiver<Stream>,
    halves: HashMap<String, Half>,
    options: PortForwardOptions,
}

/// The stream of a pair that came first.
struct Half {
    stream: Stream,
    deadline: Instant,
}

impl PortForwardSession {
    fn new(
        connection: Connection,
        streams: mpsc::Receiver<Stream>,
        options: PortForwardOptions,
    ) -> Self {
        Self {
            closed: connection.closed(),
            connection,
            streams,
            halves: HashMap::new(),
            options,
        }
    }

    /// The next forwarded connection; `None` when the caller is gone. Serve each on a task of its own.
    pub async fn next(&mut self) -> Option<PortForward> {
        loop {
            let earliest = self.halves.values().map(|half| half.deadline).min();
            let stream = match earliest {
                None => self.streams.recv().await?,
                Some(deadline) => {
                    match tokio::time::timeout_at(deadline, self.streams.recv()).await {
                        Ok(stream) => stream?,
                        Err(_) => {
                            // Dropping a lonely stream ends it.
                            self.halves.retain(|_, half| half.deadline > deadline);
                            continue;
                        }
                    }
                }
            };
            if let Some(pair) = self.pair(stream).await {
                return Some(pair);
            }
        }
    }

    async fn pair(&mut self, stream: Stream) -> Option<PortForward> {
        let kind = stream.headers.get("streamtype")?.to_owned();
        if kind != "data" && kind != "error" {
            return None;
        }
        // Callers of long ago sent no ids: their error stream comes first and the data stream's id is the next one.
        let request = match stream.headers.get("requestid") {
            Some(request) => request.to_owned(),
            None if kind == "error" => format!("#{}", stream.id),
            None => format!("#{}", stream.id.wrapping_sub(2)),
        };
        let Some(half) = self.halves.remove(&request) else {
            if self.halves.len() < MOST_HALVES {
                let deadline = Instant::now() + self.options.creation_timeout;
                self.halves.insert(request, Half { stream, deadline });
            }
            return None;
        };
        let (data, error) = if kind == "data" {
            (stream, half.stream)
        } else {
            (half.stream, stream)
        };
        if error.headers.get("streamtype") != Some("error")
            || data.headers.get("streamtype") != Some("data")
        {
            return None;
        }
        let mut error = PortForwardError {
            writer: error.writer,
        };
        match data
            .headers
            .get("port")
            .and_then(|port| port.parse().ok())
            .filter(|port| *port > 0)
        {
            Some(port) => Some(PortForward {
                port,
                reader: data.reader,
                writer: data.writer,
                error,
            }),
            None => {
                let text = format!(
                    "unable to parse {:?} as a port",
                    data.headers.get("port").unwrap_or_default()
                );
                // The connection is gone if this fails, which the next `recv` tells.
                let _ = error.writer.write_all(text.as_bytes()).await;
                None
            }
        }
    }

    /// Ends the connection to the caller after everything written.
    pub async fn close(self) -> Result<(), StreamError> {
        self.connection.close().await
    }
}

/// One forwarded connection.
pub struct PortForward {
    /// Port inside the pod.
    pub port: u16,
    /// Bytes from the caller.
    pub reader: ByteReader,
    /// Bytes to the caller; shut down when the pod's side ends.
    pub writer: ByteWriter,
    /// Where a failure is told. Drop it after the data ended well.
    pub error: PortForwardError,
}

/// The error stream of a pair. Dropping it tells the caller that all went well.
pub struct PortForwardError {
    writer: ByteWriter,
}

impl PortForwardError {
    /// Tells a failure and ends the pair.
    pub async fn fail(mut self, message: &str) -> Result<(), StreamError> {
        self.writer.write_all(message.as_bytes()).await?;
        Ok(self.writer.shutdown().await?)
    }
}

/// Negotiates SPDY/3.1 with `portforward.k8s.io`, plain or tunnelled in WebSocket.
pub fn accept_port_forward<B>(
    request: Request<B>,
    options: PortForwardOptions,
) -> Result<(Response<Body>, Pending<PortForwardSession>), Rejection> {
    if is_websocket(&request) {
        let Agreed {
            response,
            upgrade,
            protocol: (),
        } = agree_websocket(request, &[(TUNNEL, ())], None)?;
        let pending = async move {
            let socket = websocket(
                upgraded(upgrade).await?,
                tokio_tungstenite::tungstenite::protocol::Role::Server,
            );
            let (connection, streams) = Connection::start(Tunnel::new(socket.await), Role::Server);
            Ok(PortForwardSession::new(connection, streams, options))
        };
        return Ok((response, Box::pin(pending)));
    }
    let Agreed {
        response, upgrade, ..
    } = agree_spdy(request, &[PROTOCOL])?;
    let pending = async move {
        let (connection, streams) = Connection::start(upgraded(upgrade).await?, Role::Server);
        Ok(PortForwardSession::new(connection, streams, options))
    };
    Ok((response, Box::pin(pending)))
}
