//! One remote command, whatever protocol carries it.

use crate::negotiate::{Agreed, agree_spdy, agree_websocket, channel_protocols, is_websocket, upgraded, websocket};
use crate::spdy::{self, Connection, Stream};
use crate::ws::{ChannelProtocol, Channels, Side};
use crate::{Body, ExitStatus, Rejection, RemoteCommandOptions, TerminalSize};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// Versions of the inner protocol over SPDY, best first.
const SPDY_VERSIONS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Terminal sizes that may wait; a caller that nobody listens to loses the rest.
const SIZES: usize = 64;
/// Longest JSON of a terminal size.
const LONGEST_SIZE: usize = 1024;

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
pub struct StatusSink {
    way: Option<Way>,
}

enum Way {
    Spdy { connection: Connection, error: ByteWriter, status_object: bool },
    WebSocket { channels: Channels, protocol: ChannelProtocol },
}

impl StatusSink {
    /// Sends the outcome in the words of the negotiated protocol after all written output, then closes the connection
    /// properly and waits until everything is flushed.
    pub async fn finish(mut self, status: ExitStatus) -> Result<(), StreamError> {
        let Some(way) = self.way.take() else {
            return Ok(());
        };
        match way {
            Way::Spdy { connection, mut error, status_object } => {
                if let Some(text) = wording(&status, status_object) {
                    error.write_all(text.as_bytes()).await?;
                }
                error.shutdown().await?;
                connection.close().await
            }
            Way::WebSocket { channels, protocol } => {
                if let Some(text) = wording(&status, protocol.status_object) {
                    channels.send(ERROR, text)?;
                }
                channels.close().await;
                Ok(())
            }
        }
    }
}

impl Drop for StatusSink {
    fn drop(&mut self) {
        if let Some(Way::Spdy { connection, .. }) = &self.way {
            connection.hang_up();
        }
    }
}

fn wording(status: &ExitStatus, status_object: bool) -> Option<String> {
    if status_object { Some(status.to_json()) } else { status.to_legacy_text() }
}

/// Becomes the command once the connection is upgraded and the caller has opened its streams. Spawn it.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send>>;

/// Negotiates WebSocket (`v5`, `v4`, older channel protocols) or SPDY/3.1 (`v4` to `v1`).
/// Send the answer, then await the rest on a task of its own.
pub fn accept_remote_command<B>(
    request: Request<B>,
    options: RemoteCommandOptions,
) -> Result<(Response<Body>, Pending<RemoteCommand>), Rejection> {
    if is_websocket(&request) {
        let agreed = agree_websocket(request, &channel_protocols(), Some(ChannelProtocol::UNNAMED))?;
        let Agreed { response, upgrade, protocol } = agreed;
        let pending = async move {
            let socket = websocket(upgraded(upgrade).await?, Role::Server).await;
            over_websocket(socket, protocol, &options)
        };
        return Ok((response, Box::pin(pending)));
    }
    let Agreed { response, upgrade, protocol } = agree_spdy(request, &SPDY_VERSIONS)?;
    let pending = async move {
        let io = upgraded(upgrade).await?;
        let (connection, streams) = Connection::start(io, spdy::Role::Server);
        let collecting = over_spdy(connection.clone(), streams, protocol, &options);
        match tokio::time::timeout(options.creation_timeout, collecting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                connection.hang_up();
                Err(StreamError::CreationTimeout)
            }
        }
    };
    Ok((response, Box::pin(pending)))
}

fn over_websocket<T>(
    socket: tokio_tungstenite::WebSocketStream<T>,
    protocol: ChannelProtocol,
    options: &RemoteCommandOptions,
) -> Result<RemoteCommand, StreamError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut readable = vec![RESIZE];
    if options.stdin {
        readable.push(STDIN);
    }
    let (channels, mut readers) = Channels::start(socket, protocol, Side::Server, &readable);
    let resize = readers.remove(&RESIZE).map(read_sizes);
    // An empty message on the lowest channel tells the caller that the command is connected.
    let greeting = match (options.stdout, options.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    channels.send(greeting, "")?;
    Ok(RemoteCommand {
        stdin: readers.remove(&STDIN),
        stdout: options.stdout.then(|| channels.writer(STDOUT)),
        stderr: options.stderr.then(|| channels.writer(STDERR)),
        resize: resize.expect("the channel was asked for"),
        closed: channels.closed.clone(),
        status: StatusSink { way: Some(Way::WebSocket { channels, protocol }) },
    })
}

async fn over_spdy(
    connection: Connection,
    mut streams: mpsc::Receiver<Stream>,
    version: &'static str,
    options: &RemoteCommandOptions,
) -> Result<RemoteCommand, StreamError> {
    let with_resize = options.tty && matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let wanted = [true, options.stdin, options.stdout, options.stderr, with_resize];
    let mut missing = wanted.iter().filter(|wanted| **wanted).count();
    while missing > 0 {
        let stream = streams.recv().await.ok_or(StreamError::Closed)?;
        let place = match stream.headers.get("streamtype") {
            Some("error") => &mut error,
            Some("stdin") if options.stdin => &mut stdin,
            Some("stdout") if options.stdout => &mut stdout,
            Some("stderr") if options.stderr => &mut stderr,
            Some("resize") if with_resize => &mut resize,
            // Nobody reads or writes an unexpected stream; dropping it ends our side.
            _ => continue,
        };
        if place.is_none() {
            missing -= 1;
        }
        *place = Some(stream);
    }
    let error = error.expect("counted above").writer;
    // A version without sizes has a channel that ends at once.
    let resize = match resize {
        Some(stream) => {
            hold_open(stream.writer, connection.closed());
            read_sizes(stream.reader)
        }
        None => mpsc::channel(1).1,
    };
    let stdin = stdin.map(|stream: Stream| {
        hold_open(stream.writer, connection.closed());
        stream.reader
    });
    Ok(RemoteCommand {
        stdin,
        stdout: stdout.map(|stream| stream.writer),
        stderr: stderr.map(|stream| stream.writer),
        resize,
        closed: connection.closed(),
        status: StatusSink { way: Some(Way::Spdy { connection, error, status_object: version == "v4.channel.k8s.io" }) },
    })
}

/// Keeps our side of a stream open that only the caller writes: ending it would look like the end of the whole stream.
fn hold_open(writer: ByteWriter, closed: CancellationToken) {
    tokio::spawn(async move {
        closed.cancelled().await;
        drop(writer);
    });
}

/// Terminal sizes out of a stream of JSON objects.
fn read_sizes(mut reader: ByteReader) -> mpsc::Receiver<TerminalSize> {
    let (sender, sizes) = mpsc::channel(SIZES);
    tokio::spawn(async move {
        let mut buffer = Vec::new();
        loop {
            let mut values = serde_json::Deserializer::from_slice(&buffer).into_iter::<TerminalSize>();
            let mut used = 0;
            while let Some(Ok(size)) = values.next() {
                used = values.byte_offset();
                // A full queue means that nobody listens.
                let _ = sender.try_send(size);
            }
            buffer.drain(..used);
            if buffer.len() > LONGEST_SIZE || !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    });
    sizes
}

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
