//! Pairs of SPDY streams that belong to one request.

use super::{PortForward, PortForwardError, PortForwardOptions};
use crate::StreamError;
use crate::spdy::{Connection, Stream};
use std::collections::HashMap;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Pairs of which only one stream has come.
const MOST_HALVES: usize = 256;

/// The pairs of one SPDY connection.
pub(super) struct Pairs {
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

impl Pairs {
    pub(super) fn new(connection: Connection, streams: mpsc::Receiver<Stream>, options: PortForwardOptions) -> Self {
        Self { connection, streams, halves: HashMap::new(), options }
    }

    pub(super) async fn next(&mut self) -> Option<PortForward> {
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
        let (data, error) = if kind == "data" { (stream, half.stream) } else { (half.stream, stream) };
        if error.headers.get("streamtype") != Some("error") || data.headers.get("streamtype") != Some("data") {
            return None;
        }
        let mut error = PortForwardError { writer: error.writer, _held: None };
        match data.headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0) {
            Some(port) => Some(PortForward { port, reader: data.reader, writer: data.writer, error }),
            None => {
                let text = format!("unable to parse {:?} as a port", data.headers.get("port").unwrap_or_default());
                // The connection is gone if this fails, which the next `recv` tells.
                let _ = error.writer.write_all(text.as_bytes()).await;
                None
            }
        }
    }

    pub(super) async fn close(self) -> Result<(), StreamError> {
        self.connection.close().await
    }
}
