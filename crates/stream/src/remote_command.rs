//! One remote command, whatever protocol carries it.

use crate::{Body, ExitStatus, Rejection, RemoteCommandOptions, TerminalSize};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes from the caller. End of file means that the caller closed its input.
pub type ByteReader = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes to the caller. `shutdown` ends this stream only.
pub type ByteWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// The command's streams. Drop or shut down `stdout` and `stderr` before `status.finish`.
pub struct RemoteCommand {
    /// Present when asked for.
    pub stdin: Option<ByteReader>,
    /// Present when asked for.
    pub stdout: Option<ByteWriter>,
    /// Present when asked for and no terminal.
    pub stderr: Option<ByteWriter>,
    /// Terminal sizes; ends when the caller goes.
    pub resize: mpsc::Receiver<TerminalSize>,
    /// Must be finished exactly once; dropping it ends the connection without a status.
    pub status: StatusSink,
    /// Cancelled when the caller's connection is gone.
    pub closed: CancellationToken,
}

/// Where the outcome goes.
pub struct StatusSink {}

impl StatusSink {
    /// Sends the outcome in the words of the negotiated protocol after all written output, then closes the connection
    /// properly and waits until everything is flushed.
    pub async fn finish(self, status: ExitStatus) -> Result<(), StreamError> { todo!() }
}

/// Becomes the command once the connection is upgraded and the caller has opened its streams. Spawn it.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send>>;

/// Negotiates WebSocket (`v5`, `v4`, older channel protocols) or SPDY/3.1 (`v4` to `v1`).
/// Send the answer, then await the rest on a task of its own.
pub fn accept_remote_command<B>(request: Request<B>, options: RemoteCommandOptions)
-> Result<(Response<Body>, Pending<RemoteCommand>), Rejection> { todo!() }

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The upgrade did not happen.
    #[error("the connection was not upgraded")]
    Upgrade(#[source] hyper::Error),
    /// The caller did not open its streams in time.
    #[error("timed out waiting for client to create streams")]
    CreationTimeout,
    /// The caller broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
    /// Input or output failed.
    #[error("connection")]
    Io(#[from] std::io::Error),
}
