//! Connections to registries: dialled when needed, reused within one pull, given up when they stall.
//!
//! A transport belongs to one pull, so that idle connections never outlive it and nothing has to be swept by a timer.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::proxy::{Proxy, ProxySettings};
use super::{FetchError, proxy, tls};
use crate::registries::TlsSettings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const AGENT: &str = concat!("knarr/", env!("CARGO_PKG_VERSION"));

/// Scheme and authority.
type Origin = (bool, String);

pub(crate) struct Transport {
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Full<Bytes>>>>>,
    tls: Mutex<HashMap<TlsSettings, Arc<ClientConfig>>>,
    stall_timeout: Duration,
    proxies: ProxySettings,
}

/// An answer whose body is not read yet.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

/// A body that gives its connection back when it was read to the end.
pub(crate) struct Body {
    incoming: Incoming,
    connection: Option<(Origin, SendRequest<Full<Bytes>>)>,
    transport: Arc<Transport>,
    method: &'static str,
    url: String,
}

impl Transport {
    pub(crate) fn new(stall_timeout: Duration, proxies: ProxySettings) -> Arc<Transport> {
        Arc::new(Transport { idle: Mutex::default(), tls: Mutex::default(), stall_timeout, proxies })
    }

    /// Sends one request, over an idle connection if there is one.
    pub(super) async fn send(
        self: &Arc<Self>,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        content: &Bytes,
        settings: &TlsSettings,
    ) -> Result<Answer, FetchError> {
        let name = method_name(method);
        let unreachable = |reason: String| FetchError::Unreachable { method: name, url: uri.to_string(), reason };
        let origin = origin(uri).ok_or_else(|| FetchError::Refused(format!("{uri} is no http or https URL")))?;
        loop {
            let idle = self.take_idle(&origin);
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(&origin, uri, settings).await.map_err(&unreachable)?,
            };
            let proxy = self.proxies.choose(uri).map_err(&unreachable)?.filter(|_| !origin.0);
            let request = build(method, uri, headers, content, proxy.as_ref()).map_err(|error| FetchError::Refused(error.to_string()))?;
            match timeout(self.stall_timeout, connection.send_request(request)).await {
                Err(_) => return Err(unreachable("no answer in time".into())),
                // The other side may close an idle connection at any time; a fresh one gives the true answer.
                Ok(Err(_)) if reused => {}
                Ok(Err(error)) => return Err(unreachable(chain(&error))),
                Ok(Ok(response)) => {
                    let (head, incoming) = response.into_parts();
                    let body = Body {
                        incoming,
                        connection: Some((origin, connection)),
                        transport: self.clone(),
                        method: name,
                        url: uri.to_string(),
                    };
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
            }
        }
    }

    fn take_idle(&self, origin: &Origin) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        let connections = idle.get_mut(origin)?;
        connections.retain(|connection| !connection.is_closed());
        let ready = connections.iter().position(SendRequest::is_ready)?;
        Some(connections.swap_remove(ready))
    }

    async fn connect(&self, origin: &Origin, uri: &Uri, settings: &TlsSettings) -> Result<SendRequest<Full<Bytes>>, String> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_string();
        let port = uri.port_u16().unwrap_or(if origin.0 { 443 } else { 80 });
        let proxy = self.proxies.choose(uri)?;
        let dial = async {
            let (dialled, dialled_port) = match &proxy {
                Some(proxy) => (proxy.host.as_str(), proxy.port),
                None => (host.as_str(), port),
            };
            let mut stream =
                TcpStream::connect((dialled, dialled_port)).await.map_err(|error| dial_error(dialled, dialled_port, &error))?;
            let _only_latency = stream.set_nodelay(true);
            if let (true, Some(proxy)) = (origin.0, &proxy) {
                proxy::tunnel(&mut stream, proxy, &host, port).await?;
            }
            if !origin.0 {
                return handshake(stream).await;
            }
            let config = self.tls_config(settings)?;
            let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(config).connect(name, stream).await;
            handshake(stream.map_err(|error| format!("tls: {error}"))?).await
        };
        match timeout(CONNECT_TIMEOUT, dial).await {
            Ok(result) => result,
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        }
    }

    fn tls_config(&self, settings: &TlsSettings) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.lock().get(settings) {
            return Ok(config.clone());
        }
        let config = Arc::new(tls::client_config(settings)?);
        self.tls.lock().insert(settings.clone(), config.clone());
        Ok(config)
    }
}

impl Body {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = match timeout(self.transport.stall_timeout, self.incoming.frame()).await {
                Err(_) => return Err(self.broken("the connection stalls".into())),
                Ok(Some(Err(error))) => return Err(self.broken(chain(&error))),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    if let Some((origin, connection)) = self.connection.take() {
                        self.transport.idle.lock().entry(origin).or_default().push(connection);
                    }
                    return Ok(None);
                }
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, refused without reading if it says that it is larger than `limit`.
    pub(crate) async fn read(&mut self, limit: u64) -> Result<Bytes, FetchError> {
        let too_large = || FetchError::Refused(format!("{} is larger than {limit} bytes", self.url));
        if self.incoming.size_hint().lower() > limit {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        while let Some(data) = self.next().await? {
            if (bytes.len() + data.len()) as u64 > limit {
                return Err(FetchError::Refused(format!("{} is larger than {limit} bytes", self.url)));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }

    /// Reads what is left of an unimportant body, so that the connection can be used again.
    pub(super) async fn discard(mut self) {
        let _unimportant = self.read(1 << 16).await;
    }

    fn broken(&self, reason: String) -> FetchError {
        FetchError::Unreachable { method: self.method, url: self.url.clone(), reason }
    }
}

/// `None` unless http or https with a host.
pub(super) fn origin(uri: &Uri) -> Option<Origin> {
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    // A user name in a URL would hide which host is meant.
    (!authority.contains('@')).then(|| (tls, authority.to_ascii_lowercase()))
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::Builder::new().max_buf_size(256 << 10).handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    // Ends when the sender is dropped; what breaks shows at the sender or in the body.
    tokio::spawn(connection);
    Ok(sender)
}

fn build(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    content: &Bytes,
    proxy: Option<&Proxy>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    // A proxy for plain http wants the whole URL; everybody else knows who he is.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = if proxy.is_some() { uri.clone() } else { path.parse()? };
    let mut request = Request::builder().method(method).uri(target).body(Full::new(content.clone()))?;
    *request.headers_mut() = headers.clone();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority)?);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, HeaderValue::from_str(authorization)?);
    }
    Ok(request)
}

/// In the words that users know from other runtimes and search for.
fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {host}:{port}: connect: connection refused")
        }
        io::ErrorKind::HostUnreachable => {
            format!("dial tcp {host}:{port}: connect: no route to host")
        }
        io::ErrorKind::NetworkUnreachable => {
            format!("dial tcp {host}:{port}: connect: network is unreachable")
        }
        _ if text.contains("Name or service not known") => {
            format!("dial tcp: lookup {host}: no such host")
        }
        _ => format!("dial tcp {host}:{port}: {text}"),
    }
}

/// As Go programs print it in the errors that users search for.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        _ => "Get",
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
