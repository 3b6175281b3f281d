//! The calling side: one connection to a Unix socket, made anew when it breaks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::{Code, Failure, decode, framed, unframed};
use crate::wire::Message;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);

/// A server behind a socket.
#[derive(Debug)]
pub struct Channel {
    socket: PathBuf,
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
    /// Held while a connection is made, so that only one is.
    connecting: tokio::sync::Mutex<()>,
}

impl Channel {
    /// The server behind this socket; connected with the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Channel {
        Channel { socket: socket.into(), sender: Mutex::new(None), connecting: tokio::sync::Mutex::new(()) }
    }

    /// Where the server listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One request, one answer, within this time if one is given.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub async fn call<M: Message>(&self, method: &str, request: &impl Message, within: Option<Duration>) -> Result<M, Failure> {
        let answer = async {
            let mut answers = self.send(method, request).await?;
            let answer = answers.next::<M>().await?.ok_or_else(|| unavailable("no answer"))?;
            // The status comes behind the answer.
            answers.next::<M>().await?;
            Ok(answer)
        };
        match within {
            Some(within) => tokio::time::timeout(within, answer)
                .await
                .unwrap_or_else(|_| Err(Failure::new(Code::DeadlineExceeded, format!("{method}: no answer within {within:?}")))),
            None => answer.await,
        }
    }

    /// One request, answers as they come.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub async fn send(&self, method: &str, request: &impl Message) -> Result<Answers, Failure> {
        let mut sender = self.connection().await?;
        let request = Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed(&request.to_bytes())))
            .map_err(|error| unavailable(error))?;
        let response = sender.send_request(request).await.map_err(|error| {
            *self.sender.lock() = None;
            unavailable(error)
        })?;
        if !response.status().is_success() {
            return Err(unavailable(format!("http status {}", response.status())));
        }
        let (head, body) = response.into_parts();
        // A call that fails at once has its status where the headers are.
        status(&head.headers)?;
        Ok(Answers { body, buffer: BytesMut::new() })
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _one = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let attempt = tokio::time::timeout(CONNECT, self.connect()).await;
        let sender = attempt.unwrap_or_else(|_| Err(unavailable("no connection in time")))?;
        *self.sender.lock() = Some(sender.clone());
        Ok(sender)
    }

    fn open(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.sender.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let named = |error: &dyn std::fmt::Display| unavailable(format!("connect to {}: {error}", self.socket.display()));
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| named(&error))?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| named(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the container runtime ended");
            }
        });
        Ok(sender)
    }
}

fn unavailable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Unavailable, error.to_string())
}

/// gRPC's status in headers or trailers; nothing means that the call goes on.
fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(code) = headers.get("grpc-status") else {
        return Ok(());
    };
    match code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2) {
        0 => Ok(()),
        code => {
            let message = headers.get("grpc-message").map_or_else(|| "no message".to_owned(), |text| decode(text.as_bytes()));
            Err(Failure::new(Code::of(code), message))
        }
    }
}

/// The answers to a call.
#[derive(Debug)]
pub struct Answers {
    body: Incoming,
    buffer: BytesMut,
}

impl Answers {
    /// The next one; `None` when the call has ended well.
    ///
    /// # Errors
    /// The call has failed.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Failure> {
        loop {
            if let Some(message) = unframed(&mut self.buffer)? {
                return M::read(message).map(Some).map_err(|error| Failure::internal(&error));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            match frame.map_err(unavailable)?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        status(trailers)?;
                    }
                }
            }
        }
    }
}
