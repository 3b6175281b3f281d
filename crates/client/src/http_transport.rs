//! Calls over TLS: one HTTP/2 connection to the server, made when first needed and again when it broke, and further ones
//! for many watches, since a server allows only so many streams of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::Status;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use store::{Entry, Revision};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio_rustls::TlsConnector;

use crate::calls::query_escape;
use crate::severable::Severable;
use crate::{Change, ListWatch, ResourceId, Selection, Transport, header};

/// The largest answer that is read into memory.
const MAX_ANSWER: usize = 512 << 20;
/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Watches of one connection; servers allow a hundred streams and more, and calls need room beside them.
const WATCHES: usize = 60;
/// Objects a page of a list.
const PAGE: u32 = 500;

/// A token that may be renewed while we run.
pub type Token = Arc<dyn Fn() -> String + Send + Sync>;

/// Where and how to connect.
#[derive(Clone)]
pub struct Connect {
    /// `https://host:port`.
    pub server: String,
    /// Trust and client certificate; ALPN must offer `h2`.
    pub tls: Arc<rustls::ClientConfig>,
    /// Bearer token, asked for before each request.
    pub token: Option<Token>,
}

/// Carries calls over TLS.
pub struct HttpTransport {
    shared: Arc<Shared>,
}

struct Shared {
    connect: Connect,
    authority: String,
    host: ServerName<'static>,
    lanes: Mutex<Vec<Lane>>,
    stale: AtomicBool,
    /// Connections end when it changes.
    abandoned: watch::Sender<()>,
    /// Changes with the client certificate.
    renewed: Option<watch::Receiver<u64>>,
    /// What that was when it was last looked at.
    seen: AtomicU64,
}

/// One connection. The first carries calls, and watches until it is full of them.
#[derive(Clone)]
struct Lane {
    sender: SendRequest<Full<Bytes>>,
    /// Every watch on this connection holds one.
    watches: Arc<()>,
}

impl Lane {
    fn new(sender: SendRequest<Full<Bytes>>) -> Lane {
        Lane { sender, watches: Arc::default() }
    }

    fn has_room(&self) -> bool {
        Arc::strong_count(&self.watches) <= WATCHES
    }
}

impl HttpTransport {
    /// A transport that connects on its first call.
    ///
    /// # Errors
    /// The address is no `https://host[:port]`.
    pub fn new(connect: Connect) -> Result<HttpTransport, Status> {
        let bad = |why: String| Status::bad_request(format!("server address {:?}: {why}", connect.server));
        let uri: Uri = connect.server.parse().map_err(|error| bad(format!("{error}")))?;
        let host = uri.host().ok_or_else(|| bad("no host".into()))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("only https is spoken".into()));
        }
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = ServerName::try_from(bare).map_err(|error| bad(format!("{error}")))?;
        let (lanes, stale, abandoned) = (Mutex::default(), AtomicBool::new(false), watch::Sender::new(()));
        Ok(HttpTransport {
            shared: Arc::new(Shared { connect, authority, host, lanes, stale, abandoned, renewed: None, seen: AtomicU64::new(0) }),
        })
    }

    /// Has every change make the next call use a new connection, as [`HttpTransport::reconnect`] does: for the client certificate.
    ///
    /// # Panics
    /// A call was made already.
    #[must_use]
    pub fn renewed_by(mut self, changes: watch::Receiver<u64>) -> HttpTransport {
        Arc::get_mut(&mut self.shared).expect("only calls share it").renewed = Some(changes);
        self
    }

    /// Makes the next call use a new connection, which shows the client certificate of that moment. What runs goes on
    /// over the old one.
    pub fn reconnect(&self) {
        self.shared.stale.store(true, Ordering::Release);
    }

    /// Ends every connection with all that runs over it, as when the address that they were made from is gone: nothing would come
    /// over them any more, and nobody would tell for a while. Watches go on over new ones.
    pub fn abandon(&self) {
        self.reconnect();
        self.shared.abandoned.send_replace(());
    }
}

impl Shared {
    /// Whether the client certificate is another than at the last look.
    fn seen_renewal(&self) -> bool {
        let Some(renewed) = &self.renewed else { return false };
        let now = *renewed.borrow();
        self.seen.swap(now, Ordering::AcqRel) != now
    }

    /// A connection for a call, or for a watch.
    async fn lane(&self, watch: bool) -> Result<Lane, Status> {
        let mut lanes = self.lanes.lock().await;
        if self.stale.swap(false, Ordering::AcqRel) | self.seen_renewal() {
            lanes.clear();
        }
        lanes.retain(|lane| !lane.sender.is_closed());
        if let Some(lane) = lanes.iter().find(|lane| !watch || lane.has_room()) {
            return Ok(lane.clone());
        }
        let dialled = tokio::time::timeout(PATIENCE, self.dial()).await;
        let sender = dialled.unwrap_or_else(|_| Err(unavailable(format!("connect to {}: no answer in {PATIENCE:?}", self.authority))))?;
        let lane = Lane::new(sender);
        lanes.push(lane.clone());
        Ok(lane)
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, Status> {
        let abandoned = self.abandoned.subscribe();
        let failed = |what: &str, error: &dyn std::fmt::Display| unavailable(format!("{what} {}: {error}", self.authority));
        let tcp = TcpStream::connect(&self.authority).await.map_err(|error| failed("connect to", &error))?;
        tcp.set_nodelay(true).map_err(|error| failed("set up", &error))?;
        let tls = TlsConnector::from(self.connect.tls.clone());
        let tls = tls.connect(self.host.clone(), tcp).await.map_err(|error| failed("TLS with", &error))?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .handshake(TokioIo::new(Severable::new(tls, abandoned)))
            .await
            .map_err(|error| failed("HTTP/2 with", &error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        Ok(sender)
    }

    /// Sends a request. What comes with the answer is held for as long as a watch runs.
    async fn send(&self, request: Request<Bytes>, watch: bool) -> Result<(Response<Incoming>, Arc<()>), Status> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri =
            format!("https://{}{path}", self.authority).parse().map_err(|error| Status::bad_request(format!("path {path:?}: {error}")))?;
        if let Some(token) = &self.connect.token {
            let value = format!("Bearer {}", token()).parse().map_err(|_| Status::bad_request("the token is no header value"))?;
            parts.headers.insert(AUTHORIZATION, value);
        }
        let (mut request, mut attempts) = (Request::from_parts(parts, Full::new(body)), 0);
        loop {
            // A connection that ended since its last use gives back what it never sent; that goes over a new one.
            let Lane { mut sender, watches } = self.lane(watch).await?;
            let mut failed = match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, watches)),
                Err(failed) => failed,
            };
            attempts += 1;
            match failed.take_message() {
                Some(unsent) if attempts < 3 => request = unsent,
                _ => return Err(unavailable(format!("call to {}: {}", self.authority, failed.error()))),
            }
        }
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let (response, watches) = self.send(request, false).await?;
        drop(watches);
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| unavailable(format!("answer of {}: {error}", self.authority)))?;
        let bytes = body.to_bytes();
        if parts.status.is_success() {
            return Ok(Response::from_parts(parts, bytes));
        }
        Err(status_of(parts.status.as_u16(), &bytes))
    }

    async fn get(&self, path: String) -> Result<Bytes, Status> {
        let request = Request::builder().method(Method::GET).uri(path).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(self.answer(request).await?.into_body())
    }

    async fn list(&self, selection: &Selection) -> Result<(Vec<Arc<Entry>>, Revision), Status> {
        let (mut entries, mut token, mut revision) = (Vec::new(), String::new(), Revision(0));
        loop {
            let path = format!("{}limit={PAGE}&continue={}", query(selection), query_escape(&token));
            let bytes = self.get(path).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|error| Status::internal(format!("list cannot be decoded: {error}")))?;
            let (kind, version) = (page.kind.strip_suffix("List").unwrap_or("").to_owned(), page.api_version.to_owned());
            for item in &page.items {
                entries.push(Arc::new(entry(&selection.resource, complete(item, &kind, &version))?));
            }
            revision = page.metadata.resource_version.parse().map(Revision).unwrap_or(revision);
            token = page.metadata.next.unwrap_or_default();
            if token.is_empty() {
                return Ok((entries, revision));
            }
        }
    }

    async fn watch(&self, selection: &Selection, after: Revision) -> Result<(Incoming, Arc<()>), Status> {
        let path = format!("{}watch=1&allowWatchBookmarks=true&resourceVersion={after}", query(selection));
        let request = Request::builder().method(Method::GET).uri(path).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|error| Status::bad_request(error.to_string()))?;
        let (response, watches) = self.send(request, true).await?;
        let code = response.status();
        if code.is_success() {
            return Ok((response.into_body(), watches));
        }
        let body = Limited::new(response.into_body(), 1 << 20).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(status_of(code.as_u16(), &body))
    }
}

impl Transport for HttpTransport {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        Box::pin(self.shared.answer(request))
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        Box::pin(async move {
            let (initial, revision) = self.shared.list(&selection).await?;
            let body = self.shared.watch(&selection, revision).await?;
            let cursor = Cursor { shared: self.shared.clone(), selection, at: revision, body: Some(body), buffer: BytesMut::new() };
            let changes = stream::unfold(Some(cursor), |cursor| async move {
                let mut cursor = cursor?;
                match cursor.next().await {
                    Ok(change) => Some((Ok(change), Some(cursor))),
                    Err(status) => Some((Err(status), None)),
                }
            });
            Ok(ListWatch { initial, revision, changes: Box::pin(changes) })
        })
    }
}

/// A watch that resumes where it was when its connection ends.
struct Cursor {
    shared: Arc<Shared>,
    selection: Selection,
    at: Revision,
    body: Option<(Incoming, Arc<()>)>,
    buffer: BytesMut,
}

impl Cursor {
    async fn next(&mut self) -> Result<Change, Status> {
        let mut attempts = 0u32;
        loop {
            if let Some(line) = self.line() {
                if let Some(change) = self.change(&line)? {
                    return Ok(change);
                }
                continue;
            }
            let Some((body, _)) = &mut self.body else {
                // A server that ends watches at once is not asked in a circle.
                if attempts > 0 {
                    tokio::time::sleep(backoff(attempts)).await;
                }
                attempts += 1;
                match self.shared.watch(&self.selection, self.at).await {
                    Ok(body) => self.body = Some(body),
                    Err(status) if status.is_gone() || attempts > 8 => return Err(status),
                    Err(_) => {}
                }
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) | None => {
                    self.body = None;
                    self.buffer.clear();
                }
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        Some(self.buffer.split_to(end + 1).freeze())
    }

    fn change(&mut self, line: &Bytes) -> Result<Option<Change>, Status> {
        let event: Event =
            serde_json::from_slice(line).map_err(|error| Status::internal(format!("watch event cannot be decoded: {error}")))?;
        if event.kind == "ERROR" {
            let value: Value = serde_json::from_str(event.object.get()).unwrap_or(Value::Null);
            return Err(Status::from_value(500, &value));
        }
        let entry = entry(&self.selection.resource, Bytes::copy_from_slice(event.object.get().as_bytes()))?;
        self.at = entry.revision;
        Ok(match event.kind {
            "ADDED" | "MODIFIED" => Some(Change::Put(Arc::new(entry))),
            "DELETED" => Some(Change::Deleted(Arc::new(entry))),
            "BOOKMARK" => Some(Change::Progress(entry.revision)),
            _ => None,
        })
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(default)]
    kind: &'a str,
    #[serde(default)]
    api_version: &'a str,
    metadata: PageMeta,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

/// Items of a list may lack kind and apiVersion (upstream leaves them out); entries have both.
fn complete(item: &RawValue, kind: &str, api_version: &str) -> Bytes {
    let text = item.get();
    let has_kind = serde_json::from_str::<TypeMeta>(text).is_ok_and(|meta| meta.kind.is_some());
    if has_kind {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    let rest = text[1..].trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    Bytes::from(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\"{comma}{rest}"))
}

#[derive(Deserialize)]
struct TypeMeta<'a> {
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
}

fn entry(resource: &ResourceId, bytes: Bytes) -> Result<Entry, Status> {
    #[derive(Deserialize)]
    struct Versioned {
        metadata: Version,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        #[serde(default)]
        resource_version: String,
    }
    let bad = |error: serde_json::Error| Status::internal(format!("object of {resource} cannot be decoded: {error}"));
    let versioned: Versioned = serde_json::from_slice(&bytes).map_err(bad)?;
    let revision = Revision(versioned.metadata.resource_version.parse().unwrap_or(0));
    let kind = resource.store_kind();
    let header = header::read(&kind.key(""), &bytes).map_err(bad)?;
    let rest = if header.namespace.is_empty() { header.name.to_string() } else { format!("{}/{}", header.namespace, header.name) };
    Ok(Entry::new(kind.key(rest), revision, revision, bytes, header))
}

fn query(selection: &Selection) -> String {
    let path = selection.resource.collection_path(selection.namespace.as_deref().unwrap_or(""));
    let labels = query_escape(&selection.labels);
    let fields = query_escape(&selection.fields);
    format!("{path}?labelSelector={labels}&fieldSelector={fields}&")
}

fn status_of(code: u16, body: &[u8]) -> Status {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value["kind"] == "Status" => Status::from_value(code, &value),
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned();
            Status { code, ..Status::new(api::Reason::Unknown, format!("the server answered {code}: {text}")) }
        }
    }
}

fn unavailable(message: String) -> Status {
    Status::new(api::Reason::ServiceUnavailable, message)
}

/// Waits 50 ms, doubling up to 5 s.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis((50u64 << attempt.min(7)).min(5_000))
}
