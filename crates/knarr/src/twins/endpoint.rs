//! The port at which a component says how it is: health for everybody, numbers for those who may read them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use client::Client;
use client::metrics::Sources;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use pki::{Authority, ClientAuthorities, HotCert, IssueRequest, Issued, San, Subject, Usage};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::flags::Values;
use crate::listen::listen;

/// One such port.
pub struct Endpoint {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
}

struct Shared {
    authorities: Option<ClientAuthorities>,
    tokens: Client,
    rights: Client,
    metrics: Sources,
    parts: &'static [&'static str],
}

impl Endpoint {
    /// Takes the port that the flags name; `None` where they name port 0.
    ///
    /// # Errors
    /// The port is taken, or a file cannot be used.
    pub async fn open(flags: &Values, port: u16, name: &str, client: &Client, metrics: Sources) -> Result<Option<Endpoint>> {
        let port = flags.parsed("secure-port", port)?;
        if port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::new(flags.parsed("bind-address", IpAddr::from([0, 0, 0, 0]))?, port);
        let listener = listen(address).await.with_context(|| format!("failed to listen on {address}"))?;
        let tls = pki::server_config(&certificate(flags, name)?, true, &["h2", "http/1.1"])?;
        let asking = |flag: &str| -> Result<Client> {
            match flags.text(flag) {
                Some(file) => Access::open(Path::new(file))?.client(),
                None => Ok(client.clone()),
            }
        };
        let authorities = match flags.text("client-ca-file") {
            Some(file) => Some(ClientAuthorities::from_pem(&[&read(file)?]).with_context(|| format!("--client-ca-file {file}"))?),
            None => None,
        };
        // Who loses its lease ends, so that this part is well as long as anybody answers.
        let parts: &[&str] = if flags.is("leader-elect", true) { &["leaderElection"] } else { &["ping"] };
        let (tokens, rights) = (asking("authentication-kubeconfig")?, asking("authorization-kubeconfig")?);
        let shared = Shared { authorities, tokens, rights, metrics, parts };
        Ok(Some(Endpoint { listener, acceptor: TlsAcceptor::from(Arc::new(tls)), shared: Arc::new(shared) }))
    }

    /// Answers for ever.
    pub async fn serve(self) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, shared) = (self.acceptor.clone(), self.shared.clone());
            tokio::spawn(async move {
                let handshake = tokio::time::timeout(std::time::Duration::from_secs(10), acceptor.accept(stream)).await;
                let Ok(Ok(stream)) = handshake else { return };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let user = shared.authorities.as_ref().and_then(|known| known.verify(chain).ok()).map(|identity| {
                    let mut groups = identity.groups;
                    groups.push("system:authenticated".to_owned());
                    (identity.user, groups)
                });
                let service = service_fn(move |request| {
                    let (shared, user) = (shared.clone(), user.clone());
                    async move { Ok::<_, Infallible>(shared.answer(user, request).await) }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}

impl Shared {
    async fn answer(&self, user: Option<(String, Vec<String>)>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let reply = |code: StatusCode, text: String| {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = code;
            response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        };
        let path = request.uri().path().to_owned();
        if let Some(text) = health(&self.metrics, self.parts, request.uri()) {
            return reply(StatusCode::OK, text);
        }
        let user = match user {
            Some(user) => Some(user),
            None => self.by_token(&request).await,
        };
        let Some((name, groups)) = user else { return reply(StatusCode::UNAUTHORIZED, "Unauthorized".into()) };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": name, "groups": groups, "nonResourceAttributes": {"path": path, "verb": "get"}},
        });
        let answer = self.rights.call(Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
        if !answer.is_ok_and(|answer| answer["status"]["allowed"] == true) {
            return reply(StatusCode::FORBIDDEN, format!("forbidden: User {name:?} cannot get path {path:?}"));
        }
        match numbers(&self.metrics, &path) {
            Some(text) => reply(StatusCode::OK, text),
            None => reply(StatusCode::NOT_FOUND, "404 page not found".into()),
        }
    }

    async fn by_token(&self, request: &Request<Incoming>) -> Option<(String, Vec<String>)> {
        let token = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.tokens.call(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok()?;
        let user = (answer["status"]["authenticated"] == true).then(|| &answer["status"]["user"])?;
        let groups = user["groups"].as_array().into_iter().flatten().filter_map(|group| group.as_str().map(str::to_owned)).collect();
        Some((user["username"].as_str()?.to_owned(), groups))
    }
}

/// What a health path answers; none for other paths. A component that answers is well.
fn health(sources: &Sources, parts: &[&'static str], uri: &Uri) -> Option<String> {
    let (kind, part) = uri.path().strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, "")))?;
    if !matches!(kind, "healthz" | "livez" | "readyz") {
        return None;
    }
    match part {
        "" => Some(sources.checks().ask_the_living(kind, parts, uri.query().unwrap_or("")).text),
        part => parts.contains(&part).then(|| "ok".to_owned()),
    }
}

/// The numbers behind a path.
fn numbers(sources: &Sources, path: &str) -> Option<String> {
    let mut text = String::new();
    match path {
        "/metrics" => sources.render(&mut text),
        "/metrics/slis" => sources.checks().render(&mut text),
        _ => return None,
    }
    Some(text)
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {file}"))
}

fn certificate(flags: &Values, name: &str) -> Result<Arc<HotCert>> {
    match (flags.text("tls-cert-file"), flags.text("tls-private-key-file")) {
        (Some(cert), Some(key)) => followed(cert, key),
        _ => self_signed(name, &[San::Dns("localhost".into()), San::Ip(IpAddr::from([127, 0, 0, 1]))]),
    }
}

/// A certificate and its key from two files.
///
/// # Errors
/// A file cannot be read, or they do not belong together.
pub fn pair(cert: &str, key: &str) -> Result<Arc<HotCert>> {
    Ok(HotCert::new(Issued::from_pem(&read(cert)?, &read(key)?).with_context(|| format!("certificate {cert}"))?)?)
}

/// The same, and what becomes of the files from then on.
///
/// # Errors
/// As for [`pair`].
pub fn followed(cert: &str, key: &str) -> Result<Arc<HotCert>> {
    let shown = pair(cert, key)?;
    super::access::follow(Path::new(cert), Path::new(key), shown.clone());
    Ok(shown)
}

/// A certificate of an authority that nobody knows, as the real components make one for themselves.
///
/// # Errors
/// A name that is none.
pub fn self_signed(name: &str, sans: &[San]) -> Result<Arc<HotCert>> {
    let life = std::time::Duration::from_secs(365 * 24 * 3600);
    let authority = Authority::create(&format!("{name}-ca"), life)?;
    let usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth];
    Ok(HotCert::new(authority.issue(&IssueRequest { subject: Subject::new(name, &[]), sans: sans.to_vec(), usages, lifetime: life })?)?)
}

/// A port without TLS, as kubelet and proxy have one on the loopback: health and numbers for whoever reaches it.
pub struct Plain {
    listener: TcpListener,
    metrics: Sources,
    also: &'static str,
    ready: Option<watch::Receiver<bool>>,
}

impl Plain {
    /// Takes the port; `None` where the address is empty.
    ///
    /// # Errors
    /// The address is none or taken.
    pub async fn open(address: &str, metrics: Sources) -> Result<Option<Plain>> {
        if address.is_empty() {
            return Ok(None);
        }
        let listener = listen(address).await.with_context(|| format!("failed to listen on {address}"))?;
        Ok(Some(Plain { listener, metrics, also: "", ready: None }))
    }

    /// A further path for "it is well", which may become true only later.
    #[must_use]
    pub fn also(self, path: &'static str, ready: Option<watch::Receiver<bool>>) -> Plain {
        Plain { also: path, ready, ..self }
    }

    /// Answers for ever.
    pub async fn serve(self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let (metrics, also, ready) = (self.metrics.clone(), self.also, self.ready.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let uri = request.uri();
                    let (code, text) = match uri.path() {
                        path if path == also => match ready.as_ref().is_none_or(|ready| *ready.borrow()) {
                            true => (StatusCode::OK, "OK".to_owned()),
                            false => (StatusCode::SERVICE_UNAVAILABLE, "kubernetes".to_owned()),
                        },
                        path => match health(&metrics, &["ping"], uri).or_else(|| numbers(&metrics, path)) {
                            Some(text) => (StatusCode::OK, text),
                            None => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
                        },
                    };
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = code;
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}
