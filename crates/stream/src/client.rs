//! The caller's side: exec and attach over WebSocket v5, port-forward over tunnelled SPDY.

use crate::negotiate::{Raw, channel_protocols, items, upgraded, websocket};
use crate::port_forward::TUNNEL;
use crate::remote_command::{ERROR, RESIZE, STDERR, STDIN, STDOUT};
use crate::spdy::{Connection, HeaderList, Role};
use crate::ws::{Channels, Side, Tunnel};
use crate::{ByteReader, ByteWriter, ExitStatus, RemoteCommandOptions, StreamError, TerminalSize};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How much of a refusal's body is kept.
const REFUSAL: usize = 16 * 1024;
/// Longest outcome that is read.
const LONGEST_STATUS: u64 = 64 * 1024;

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
pub struct RemoteControl {
    channels: Channels,
    error: ByteReader,
    status_object: bool,
}

impl RemoteControl {
    /// Tells the terminal's size.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), StreamError> {
        let text = serde_json::to_string(&size).expect("two numbers");
        self.channels.send(RESIZE, text)
    }

    /// Waits for the outcome. Read the outputs meanwhile.
    pub async fn wait(mut self) -> Result<ExitStatus, StreamError> {
        let mut text = Vec::new();
        (&mut self.error).take(LONGEST_STATUS).read_to_end(&mut text).await?;
        match ExitStatus::from_json(&text) {
            Some(status) => Ok(status),
            None if text.is_empty() && !self.status_object => Ok(ExitStatus::Success),
            None if text.is_empty() => Err(StreamError::Closed),
            None => Ok(ExitStatus::internal(String::from_utf8_lossy(&text))),
        }
    }
}

/// Runs exec or attach over a connected stream (TLS done). `request` has method GET, path with query, Host and
/// authentication; the upgrade headers are added.
pub async fn remote_command<T>(io: T, request: Request<()>, options: &RemoteCommandOptions) -> Result<RemoteProcess, ClientError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, name) = open_websocket(io, request, "v5.channel.k8s.io, v4.channel.k8s.io").await?;
    let (_, protocol) = channel_protocols()
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| ClientError::Stream(StreamError::Protocol(format!("the server chose the protocol {name:?}"))))?;
    let socket = websocket(io, tokio_tungstenite::tungstenite::protocol::Role::Client).await;
    let mut readable = vec![ERROR];
    readable.extend(options.stdout.then_some(STDOUT));
    readable.extend((options.stderr && !options.tty).then_some(STDERR));
    let (channels, mut readers) = Channels::start(socket, protocol, Side::Client, &readable);
    Ok(RemoteProcess {
        stdin: options.stdin.then(|| channels.writer(STDIN)),
        stdout: readers.remove(&STDOUT),
        stderr: readers.remove(&STDERR),
        control: RemoteControl {
            error: readers.remove(&ERROR).expect("the channel was asked for"),
            status_object: protocol.status_object,
            channels,
        },
    })
}

/// A port-forward connection to one pod.
pub struct PortForwarder {
    connection: Connection,
    next: AtomicU32,
}

impl PortForwarder {
    /// Opens the connection, as `remote_command` does.
    pub async fn connect<T>(io: T, request: Request<()>) -> Result<Self, ClientError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (io, _) = open_websocket(io, request, TUNNEL).await?;
        let socket = websocket(io, tokio_tungstenite::tungstenite::protocol::Role::Client).await;
        let (connection, _) = Connection::start(Tunnel::new(socket), Role::Client);
        Ok(Self { connection, next: AtomicU32::new(0) })
    }

    /// Opens one connection to a port of the pod.
    pub async fn open(&self, port: u16) -> Result<ForwardedPort, ClientError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let port = port.to_string();
        let headers = |kind| HeaderList::new(&[("streamtype", kind), ("port", &port), ("requestid", &id)]);
        let error = self.connection.open(headers("error"))?;
        let data = self.connection.open(headers("data"))?;
        // Our side of the error stream has nothing to say: dropping its writer ends it.
        Ok(ForwardedPort { reader: data.reader, writer: data.writer, error: error.reader })
    }

    /// Ends the connection.
    pub async fn close(self) -> Result<(), StreamError> {
        self.connection.close().await
    }
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

/// Upgrades a connection to WebSocket; the second result is the protocol that the server chose.
async fn open_websocket<T>(io: T, request: Request<()>, protocols: &'static str) -> Result<(Raw, String), ClientError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let key = generate_key();
    let mut request = request.map(|()| Empty::<Bytes>::new());
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is a header value"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection ended");
        }
    });
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), REFUSAL).collect().await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return Err(ClientError::Refused { code, body });
    }
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| *accept != derive_accept_key(key.as_bytes())) {
        return Err(StreamError::Protocol("the server did not answer as a WebSocket server".into()).into());
    }
    let chosen = items(response.headers(), header::SEC_WEBSOCKET_PROTOCOL).into_iter().next().unwrap_or_default();
    Ok((upgraded(hyper::upgrade::on(&mut response)).await?, chosen))
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
