//! The calling side: one connection, to a socket or to whichever of several addresses answers, made anew when it breaks.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::{Code, Failure, MAX_MESSAGE, decode, framed, unframed};
use crate::wire::Message;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);

type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Where servers listen.
enum Place {
    /// A Unix socket; one whose name starts with `@` is abstract.
    Socket(PathBuf),
    /// `http://` or `https://` addresses of servers that are as good as each other.
    Endpoints(Vec<Uri>, Option<TlsConnector>),
}

/// What differs between the protocols.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Largest message that is read.
    pub max_message: usize,
    /// How much may be under way, for one call and for all.
    pub windows: (u32, u32),
    /// How often a silent server is asked whether it is there; a long stream has to notice that it is not.
    pub keep_alive: Option<Duration>,
    /// What the calls say of themselves.
    pub user_agent: Option<&'static str>,
}

impl Manner {
    /// That of calls on this machine.
    pub const LOCAL: Manner = Manner { max_message: MAX_MESSAGE, windows: (4 << 20, 16 << 20), keep_alive: None, user_agent: None };
}

/// A server, or several that are as good as each other.
pub struct Channel {
    place: Place,
    manner: Manner,
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

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Socket(socket) => write!(f, "Channel({})", socket.display()),
            Place::Endpoints(endpoints, _) => write!(f, "Channel({endpoints:?})"),
        }
    }
}

impl Channel {
    /// The server behind this socket; connected with the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Channel {
        Channel::at(Place::Socket(socket.into()), Manner::LOCAL)
    }

    /// The server behind this socket, spoken to in this manner.
    pub fn socket_with(socket: impl Into<PathBuf>, manner: Manner) -> Channel {
        Channel::at(Place::Socket(socket.into()), manner)
    }

    /// The servers at these addresses. Certificates are for `https`.
    pub fn endpoints(endpoints: Vec<Uri>, tls: Option<Arc<rustls::ClientConfig>>, manner: Manner) -> Channel {
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        Channel::at(Place::Endpoints(endpoints, tls), manner)
    }

    fn at(place: Place, manner: Manner) -> Channel {
        Channel { place, manner, connection: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// The socket, if it is one.
    pub fn socket(&self) -> &Path {
        match &self.place {
            Place::Socket(socket) => socket,
            Place::Endpoints(..) => Path::new(""),
        }
    }

    /// One request, one answer, within this time if one is given.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub async fn call<M: Message>(&self, method: &str, request: &impl Message, within: Option<Duration>) -> Result<M, Failure> {
        let answer = async {
            let body = Full::new(framed(&request.to_bytes())).boxed_unsync();
            let mut answers = self.dispatch(method, body, within).await?;
            let answer = answers.next::<M>().await?.ok_or_else(|| Failure::unanswered("no answer"))?;
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
        self.dispatch(method, Full::new(framed(&request.to_bytes())).boxed_unsync(), None).await
    }

    /// Requests as they come, answers as they come.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub async fn stream<R: Message>(&self, method: &str, requests: mpsc::UnboundedReceiver<R>) -> Result<Answers, Failure> {
        let requests = stream::unfold(requests, |mut requests| async move {
            let request = requests.recv().await?;
            Some((Ok(Frame::data(framed(&request.to_bytes()))), requests))
        });
        self.dispatch(method, StreamBody::new(requests.boxed()).boxed_unsync(), None).await
    }

    /// Gives up on the present connection: the next call tries the next endpoint.
    pub fn turn_away(&self) {
        let mut current = self.connection.lock();
        current.endpoint = current.endpoint.wrapping_add(1);
        current.sender = None;
    }

    async fn dispatch(&self, method: &str, body: Outgoing, within: Option<Duration>) -> Result<Answers, Failure> {
        let (mut sender, endpoint) = self.connection().await?;
        let request = self.request(method, endpoint, within).body(body).map_err(Failure::unsent)?;
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            self.connection.lock().sender = None;
            let never_left = error.take_message().is_some();
            let error = error.into_error();
            if never_left { Failure::unsent(error) } else { Failure::unanswered(error) }
        })?;
        if !response.status().is_success() {
            return Err(Failure::unanswered(format!("http status {}", response.status())));
        }
        let (head, body) = response.into_parts();
        // A call that fails at once has its status where the headers are.
        status(&head.headers)?;
        Ok(Answers { body, buffer: BytesMut::new(), max: self.manner.max_message })
    }

    fn request(&self, method: &str, endpoint: usize, within: Option<Duration>) -> http::request::Builder {
        let target = match &self.place {
            Place::Socket(_) => format!("http://localhost{method}"),
            Place::Endpoints(endpoints, _) => format!("{}://{}{method}", scheme(&endpoints[endpoint]), authority(&endpoints[endpoint])),
        };
        let mut request = Request::post(target).header("content-type", "application/grpc").header("te", "trailers");
        if let Some(agent) = self.manner.user_agent {
            request = request.header("user-agent", agent);
        }
        if let Some(within) = within {
            // At most eight digits, so milliseconds reach for a day.
            request = request.header("grpc-timeout", format!("{}m", within.as_millis().clamp(1, 99_999_999)));
        }
        request
    }

    async fn connection(&self) -> Result<(SendRequest<Outgoing>, usize), Failure> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _one = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let count = match &self.place {
            Place::Socket(_) => 1,
            Place::Endpoints(endpoints, _) => endpoints.len(),
        };
        let first = self.connection.lock().endpoint;
        let mut last = Failure::unsent("no endpoint");
        for place in 0..count {
            let endpoint = first.wrapping_add(place) % count;
            let attempt = tokio::time::timeout(CONNECT, self.connect(endpoint)).await;
            match attempt.unwrap_or_else(|_| Err(Failure::unsent("no connection in time"))) {
                Ok(sender) => {
                    *self.connection.lock() = Current { endpoint, sender: Some(sender.clone()) };
                    return Ok((sender, endpoint));
                }
                Err(failure) => last = Failure::unsent(format!("connect to {}: {}", self.name(endpoint), failure.message)),
            }
        }
        Err(last)
    }

    fn name(&self, endpoint: usize) -> String {
        match &self.place {
            Place::Socket(socket) => socket.display().to_string(),
            Place::Endpoints(endpoints, _) => endpoints[endpoint].to_string(),
        }
    }

    fn open(&self) -> Option<(SendRequest<Outgoing>, usize)> {
        let current = self.connection.lock();
        let sender = current.sender.as_ref().filter(|sender| !sender.is_closed())?;
        Some((sender.clone(), current.endpoint))
    }

    async fn connect(&self, endpoint: usize) -> Result<SendRequest<Outgoing>, Failure> {
        let (endpoints, tls) = match &self.place {
            Place::Socket(socket) => {
                let stream = match socket.to_str().and_then(|path| path.strip_prefix('@')) {
                    Some(name) => UnixStream::connect(format!("\0{name}")).await,
                    None => UnixStream::connect(socket).await,
                };
                return self.shake_hands(stream.map_err(Failure::unsent)?).await;
            }
            Place::Endpoints(endpoints, tls) => (endpoints, tls),
        };
        let endpoint = &endpoints[endpoint];
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = endpoint.port_u16().ok_or_else(|| Failure::unsent("an address needs a port"))?;
        let stream = TcpStream::connect((host, port)).await.map_err(Failure::unsent)?;
        stream.set_nodelay(true).map_err(Failure::unsent)?;
        match tls {
            Some(tls) if scheme(endpoint) == "https" => {
                let name = ServerName::try_from(host.to_owned()).map_err(Failure::unsent)?;
                self.shake_hands(tls.connect(name, stream).await.map_err(Failure::unsent)?).await
            }
            _ if scheme(endpoint) == "https" => Err(Failure::unsent("https, but no certificates are configured")),
            _ => self.shake_hands(stream).await,
        }
    }

    async fn shake_hands(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<SendRequest<Outgoing>, Failure> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.initial_stream_window_size(self.manner.windows.0).initial_connection_window_size(self.manner.windows.1);
        if let Some(every) = self.manner.keep_alive {
            builder.keep_alive_interval(every).keep_alive_timeout(every).keep_alive_while_idle(true);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Failure::unsent)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a gRPC connection ended");
            }
        });
        Ok(sender)
    }
}

fn scheme(endpoint: &Uri) -> &str {
    endpoint.scheme_str().unwrap_or("http")
}

fn authority(endpoint: &Uri) -> &str {
    endpoint.authority().map_or("", |authority| authority.as_str())
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
    max: usize,
}

impl Answers {
    /// The next one; `None` when the call has ended well.
    ///
    /// # Errors
    /// The call has failed.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Failure> {
        loop {
            if let Some(message) = unframed(&mut self.buffer, self.max)? {
                return M::read(message).map(Some).map_err(|error| Failure::new(Code::Internal, error.to_string()));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            match frame.map_err(Failure::unanswered)?.into_data() {
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
