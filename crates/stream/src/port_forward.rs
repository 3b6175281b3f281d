//! Port forwarding: pairs of data and error stream, over SPDY or SPDY tunnelled in WebSocket.

use crate::{Body, ByteReader, ByteWriter, Pending, Rejection, StreamError};
use http::{Request, Response};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
}

impl PortForwardSession {
    /// The next forwarded connection; `None` when the caller is gone. Serve each on a task of its own.
    pub async fn next(&mut self) -> Option<PortForward> { todo!() }
    /// Ends the connection to the caller after everything written.
    pub async fn close(self) -> Result<(), StreamError> { todo!() }
}

/// One forwarded connection.
pub struct PortForward {
    /// Port inside the pod.
    pub port: u16,
    /// Bytes from the caller.
    pub reader: ByteReader,
    /// Bytes to the caller; shut down when the pod's side ends.
    pub writer: ByteWriter,
    /// Where a failure is told. Drop it (or `finish`) after the data ended well.
    pub error: PortForwardError,
}

/// The error stream of a pair.
pub struct PortForwardError {}

impl PortForwardError {
    /// Tells a failure and ends the pair.
    pub async fn fail(self, message: &str) -> Result<(), StreamError> { todo!() }
}

/// Negotiates SPDY/3.1 with `portforward.k8s.io`, plain or tunnelled in WebSocket.
pub fn accept_port_forward<B>(request: Request<B>, options: PortForwardOptions)
-> Result<(Response<Body>, Pending<PortForwardSession>), Rejection> { todo!() }
