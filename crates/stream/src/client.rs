//! The caller's side: exec and attach over WebSocket v5, port-forward over tunnelled SPDY.

use crate::{ByteReader, ByteWriter, ExitStatus, RemoteCommandOptions, StreamError, TerminalSize};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

/// A running remote command, seen by the caller.
pub struct RemoteProcess {
    /// Input; `shutdown` closes it.
    pub stdin: Option<ByteWriter>,
    /// Output.
    pub stdout: Option<ByteReader>,
    /// Error output.
    pub stderr: Option<ByteReader>,
    /// Its outcome and its terminal.
    pub control: RemoteControl,
}

/// Outcome and terminal of a remote process.
pub struct RemoteControl {}

impl RemoteControl {
    /// Tells the terminal's size.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), StreamError> { todo!() }
    /// Waits for the outcome. Read the outputs meanwhile.
    pub async fn wait(self) -> Result<ExitStatus, StreamError> { todo!() }
}

/// Runs exec or attach over a connected stream (TLS done). `request` has method GET, path with query, Host and
/// authentication; the upgrade headers are added.
pub async fn remote_command<T>(io: T, request: Request<()>, options: &RemoteCommandOptions) -> Result<RemoteProcess, ClientError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{ todo!() }

/// A port-forward connection to one pod.
pub struct PortForwarder {}

impl PortForwarder {
    /// Opens the connection, as `remote_command` does.
    pub async fn connect<T>(io: T, request: Request<()>) -> Result<Self, ClientError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    { todo!() }
    /// Opens one connection to a port of the pod.
    pub async fn open(&self, port: u16) -> Result<ForwardedPort, ClientError> { todo!() }
}

/// One connection to a port.
pub struct ForwardedPort {
    /// From the pod.
    pub reader: ByteReader,
    /// To the pod.
    pub writer: ByteWriter,
    /// The error text if forwarding fails; ends empty when all is well.
    pub error: ByteReader,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered something else than 101.
    #[error("the server answered {code}: {body}")]
    Refused {
        /// HTTP code.
        code: u16,
        /// Start of the body.
        body: String,
    },
    /// HTTP failed.
    #[error("http")]
    Http(#[from] hyper::Error),
    /// The stream failed.
    #[error("stream")]
    Stream(#[from] StreamError),
}
