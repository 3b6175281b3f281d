//! Calls to etcd: gRPC over HTTP/2, over one connection to whichever endpoint answers.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::proto::Message;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);

/// gRPC's code for a server that does not answer.
const UNAVAILABLE: u32 = 14;

type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// A call that did not get what it wanted.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// gRPC's status code.
    pub(super) code: u32,
    pub(super) message: String,
    /// Whether etcd may have carried it out.
    pub(super) sent: bool,
}

impl Failure {
    fn unsent(error: impl fmt::Display) -> Failure {
        Failure { code: UNAVAILABLE, message: error.to_string(), sent: false }
    }

    fn sent(error: impl fmt::Display) -> Failure {
        Failure { code: UNAVAILABLE, message: error.to_string(), sent: true }
    }

    /// Whether another endpoint, or this one later, may do better.
    pub(super) fn passes(&self) -> bool {
        self.code == UNAVAILABLE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

/// The endpoints of one etcd cluster.
pub(super) struct Channel {
    endpoints: Vec<Uri>,
    tls: Option<TlsConnector>,
    connection: Mutex<Current>,
    /// Held while a connection is made, so that only one is.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    /// Index of the endpoint, for the next to be another one.
    endpoint: usize,
    sender: Option<SendRequest<Outgoing>>,
}

impl Channel {
    pub(super) fn new(endpoints: Vec<Uri>, tls: Option<Arc<rustls::ClientConfig>>) -> Channel {
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        Channel { endpoints, tls, connection: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// One request, one answer.
    pub(super) async fn call(&self, method: &str, request: Message) -> Result<Bytes, Failure> {
        let answer = async {
            let body = Full::new(framed(request)).boxed_unsync();
            let mut answers = self.send(method, body).await?;
            let answer = answers.next().await?.ok_or_else(|| Failure::sent("no answer"))?;
            // The status comes behind the answer.
            answers.next().await?;
            Ok(answer)
        };
        let timed_out = |_| Err(Failure::sent("no answer in time"));
        tokio::time::timeout(CALL, answer).await.unwrap_or_else(timed_out)
    }

    /// The same, repeated as long as it may help and can do no harm: for reads.
    pub(super) async fn ask(&self, method: &str, request: Message) -> Result<Bytes, Failure> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.call(method, request.clone()).await {
                Err(failure) if failure.passes() && pause < Duration::from_secs(2) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    /// Requests as they come, answers as they come.
    pub(super) async fn stream(&self, method: &str, requests: mpsc::UnboundedReceiver<Message>) -> Result<Answers, Failure> {
        let requests = stream::unfold(requests, |mut requests| async move {
            let request = requests.recv().await?;
            Some((Ok(Frame::data(framed(request))), requests))
        });
        self.send(method, StreamBody::new(requests.boxed()).boxed_unsync()).await
    }

    async fn send(&self, method: &str, body: Outgoing) -> Result<Answers, Failure> {
        let (mut sender, endpoint) = self.connection().await?;
        let target = &self.endpoints[endpoint];
        let request = Request::post(format!("{}://{}{method}", scheme(target), authority(target)))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .map_err(Failure::unsent)?;
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            self.connection.lock().sender = None;
            let never_left = error.take_message().is_some();
            let failure = if never_left { Failure::unsent } else { Failure::sent };
            failure(error.into_error())
        })?;
        if !response.status().is_success() {
            return Err(Failure::sent(format!("http status {}", response.status())));
        }
        let (head, body) = response.into_parts();
        // A call that fails at once has its status where the headers are.
        status(&head.headers)?;
        Ok(Answers { body, buffer: BytesMut::new() })
    }

    async fn connection(&self) -> Result<(SendRequest<Outgoing>, usize), Failure> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _one = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let first = self.connection.lock().endpoint;
        let mut last = Failure::unsent("no endpoint");
        for place in 0..self.endpoints.len() {
            let endpoint = (first + place) % self.endpoints.len();
            let attempt = tokio::time::timeout(CONNECT, self.connect(&self.endpoints[endpoint])).await;
            match attempt.unwrap_or_else(|_| Err(Failure::unsent("no connection in time"))) {
                Ok(sender) => {
                    *self.connection.lock() = Current { endpoint, sender: Some(sender.clone()) };
                    return Ok((sender, endpoint));
                }
                Err(failure) => last = Failure::unsent(format!("{}: {}", self.endpoints[endpoint], failure.message)),
            }
        }
        Err(last)
    }

    fn open(&self) -> Option<(SendRequest<Outgoing>, usize)> {
        let current = self.connection.lock();
        let sender = current.sender.as_ref().filter(|sender| !sender.is_closed())?;
        Some((sender.clone(), current.endpoint))
    }

    /// Gives up on the present connection: the next call tries the next endpoint.
    pub(super) fn turn_away(&self) {
        let mut current = self.connection.lock();
        current.endpoint = (current.endpoint + 1) % self.endpoints.len().max(1);
        current.sender = None;
    }

    async fn connect(&self, endpoint: &Uri) -> Result<SendRequest<Outgoing>, Failure> {
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, endpoint.port_u16().unwrap_or(2379))).await;
        let stream = stream.map_err(Failure::unsent)?;
        stream.set_nodelay(true).map_err(Failure::unsent)?;
        match &self.tls {
            Some(tls) if scheme(endpoint) == "https" => {
                let name = ServerName::try_from(host.to_owned()).map_err(Failure::unsent)?;
                shake_hands(tls.connect(name, stream).await.map_err(Failure::unsent)?).await
            }
            _ if scheme(endpoint) == "https" => Err(Failure::unsent("https, but no certificates are configured")),
            _ => shake_hands(stream).await,
        }
    }
}

async fn shake_hands(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<SendRequest<Outgoing>, Failure> {
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        // A watch has to notice that the other side is gone.
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::unsent)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to etcd ended: {error}");
        }
    });
    Ok(sender)
}

fn scheme(endpoint: &Uri) -> &str {
    endpoint.scheme_str().unwrap_or("http")
}

fn authority(endpoint: &Uri) -> &str {
    endpoint.authority().map_or("", |authority| authority.as_str())
}

/// A message as it is sent: not compressed, its length before it.
fn framed(message: Message) -> Bytes {
    let message = message.into_bytes();
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("values are far smaller"));
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// gRPC's status in headers or trailers; nothing means that the call goes on.
fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(code) = headers.get("grpc-status") else {
        return Ok(());
    };
    let code = code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2);
    if code == 0 {
        return Ok(());
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or("no message");
    Err(Failure { code, message: message.to_owned(), sent: true })
}

/// The answers to a call.
pub(super) struct Answers {
    body: Incoming,
    buffer: BytesMut,
}

impl Answers {
    /// The next one; `None` when the call has ended well.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.buffered() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            match frame.map_err(Failure::sent)?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        status(trailers)?;
                    }
                }
            }
        }
    }

    fn buffered(&mut self) -> Option<Bytes> {
        let head = self.buffer.get(..5)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.buffer.len() < 5 + length {
            self.buffer.reserve(5 + length - self.buffer.len());
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(length).freeze())
    }
}
