//! Port forwarding: pairs of data and error stream, over SPDY, SPDY tunnelled in WebSocket, or WebSocket channels.
//!
//! The last form is the oldest: the query names the ports, port number i has the channels 2i (data) and 2i+1 (errors),
//! and each channel starts with the port in two bytes, low byte first.

mod channels;
mod pairs;

use crate::negotiate::{Agreed, agree_spdy, agree_websocket, is_websocket, reject, upgraded, websocket};
use crate::spdy::{Connection, Role};
use crate::ws::{ChannelProtocol, Channels, Side, Tunnel};
use crate::{Body, ByteReader, ByteWriter, Pending, Rejection, StreamError};
use channels::PortChannels;
use http::{Request, Response, StatusCode};
use pairs::Pairs;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role as SocketRole;
use tokio_util::sync::CancellationToken;

/// The inner protocol.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// Its tunnelled form.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

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
    form: Form,
}

enum Form {
    Pairs(Pairs),
    Channels(PortChannels),
}

impl PortForwardSession {
    fn over_spdy<T>(io: T, options: PortForwardOptions) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let (connection, streams) = Connection::start(io, Role::Server);
        let closed = connection.closed();
        Self { closed, form: Form::Pairs(Pairs::new(connection, streams, options)) }
    }

    /// The next forwarded connection; `None` when the caller is gone or all is done. Serve each on a task of its own.
    pub async fn next(&mut self) -> Option<PortForward> {
        match &mut self.form {
            Form::Pairs(pairs) => pairs.next().await,
            Form::Channels(channels) => channels.next().await,
        }
    }

    /// Ends the connection to the caller after everything written.
    pub async fn close(self) -> Result<(), StreamError> {
        match self.form {
            Form::Pairs(pairs) => pairs.close().await,
            Form::Channels(channels) => {
                channels.close().await;
                Ok(())
            }
        }
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
    /// Where a failure is told. Drop it after the data ended well, and not before.
    pub error: PortForwardError,
}

/// The error stream of a pair. Dropping it tells the caller that all went well.
pub struct PortForwardError {
    writer: ByteWriter,
    /// The connection lives as long as somebody holds this.
    _held: Option<mpsc::Sender<()>>,
}

impl PortForwardError {
    /// Tells a failure and ends the pair.
    pub async fn fail(mut self, message: &str) -> Result<(), StreamError> {
        self.writer.write_all(message.as_bytes()).await?;
        Ok(self.writer.shutdown().await?)
    }
}

/// How a WebSocket carries forwarded ports.
#[derive(Clone, Copy)]
enum Carriage {
    Tunnel,
    Channels(ChannelProtocol),
}

/// Negotiates SPDY/3.1 with `portforward.k8s.io`, plain or tunnelled in WebSocket, or the channels of WebSocket.
pub fn accept_port_forward<B>(
    request: Request<B>,
    options: PortForwardOptions,
) -> Result<(Response<Body>, Pending<PortForwardSession>), Rejection> {
    if !is_websocket(&request) {
        let Agreed { response, upgrade, .. } = agree_spdy(request, &[PROTOCOL])?;
        let pending = async move { Ok(PortForwardSession::over_spdy(upgraded(upgrade).await?, options)) };
        return Ok((response, Box::pin(pending)));
    }
    let ports = channels::ports(request.uri().query());
    let by_name = |name: &'static str| {
        let protocol = ChannelProtocol::ALL.into_iter().find(|known| known.name == name);
        (name, Carriage::Channels(protocol.expect("one of ours")))
    };
    let known = [(TUNNEL, Carriage::Tunnel), by_name("v4.channel.k8s.io"), by_name("v4.base64.channel.k8s.io")];
    let Agreed { response, upgrade, protocol } = agree_websocket(request, &known, None)?;
    let ports = match (protocol, ports) {
        (Carriage::Tunnel, _) => Vec::new(),
        (Carriage::Channels(_), Some(ports)) => ports,
        (Carriage::Channels(_), None) => {
            return Err(reject(StatusCode::BAD_REQUEST, "query parameter \"port\" is required"));
        }
    };
    let pending = async move {
        let socket = websocket(upgraded(upgrade).await?, SocketRole::Server).await;
        let Carriage::Channels(protocol) = protocol else {
            return Ok(PortForwardSession::over_spdy(Tunnel::new(socket), options));
        };
        let readable: Vec<u8> = (0u8..).step_by(2).take(ports.len()).collect();
        let (channels, readers) = Channels::start(socket, protocol, Side::Server, &readable);
        let closed = channels.closed.clone();
        let channels = PortChannels::new(channels, readers, &ports);
        Ok(PortForwardSession { closed, form: Form::Channels(channels) })
    };
    Ok((response, Box::pin(pending)))
}
