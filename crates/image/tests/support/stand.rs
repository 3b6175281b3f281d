//! A registry in the test's own process that can be told to misbehave, and that writes down what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{config, digest, gzip, manifest};

/// What the stand holds and how it behaves. Paths are whole URL paths.
#[derive(Default)]
pub struct Behaviour {
    pub content: HashMap<String, (String, Vec<u8>)>,
    /// The bodies of blobs break off after so many bytes, once per blob and offset.
    pub break_after: Option<usize>,
    /// Ranges are ignored.
    pub no_ranges: bool,
    /// Blobs are answered by a redirect to this origin.
    pub redirect_blobs: Option<String>,
    /// `Bearer <token>` or `Basic <...>` that must come with every request.
    pub wanted: Option<String>,
    /// The challenge sent when it does not.
    pub challenge: String,
    /// Path, query and authorization of every request.
    pub seen: Vec<(String, String)>,
    broken: Vec<String>,
}

pub struct Stand {
    pub address: SocketAddr,
    pub behaviour: Arc<Mutex<Behaviour>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stand {
    pub async fn start() -> Stand {
        Stand::listen(None).await
    }

    pub async fn start_tls(acceptor: TlsAcceptor) -> Stand {
        Stand::listen(Some(acceptor)).await
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> Stand {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let shared = behaviour.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(answer(&shared, &request)) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                let _broken = server.serve_connection(TokioIo::new(stream), service).await;
                            }
                        }
                        None => {
                            let _broken = server.serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Stand { address, behaviour, task }
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().expect("not poisoned"));
    }

    pub fn seen(&self) -> Vec<(String, String)> {
        self.behaviour.lock().expect("not poisoned").seen.clone()
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|(path, _)| path.contains(part)).count()
    }

    /// Adds an image and returns the digest of its manifest.
    pub fn add(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> String {
        let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
        let config = config(layers, serde_json::json!({"Cmd": ["/run"]}));
        let manifest = manifest(&config, &blobs);
        self.add_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", manifest.clone());
        self.set(|behaviour| {
            for blob in blobs.into_iter().chain([config]) {
                let path = format!("/v2/{repository}/blobs/{}", digest(&blob));
                behaviour.content.insert(path, ("application/octet-stream".into(), blob));
            }
        });
        digest(&manifest)
    }

    pub fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: Vec<u8>) {
        self.set(|behaviour| {
            for name in [tag, &digest(&manifest)] {
                let path = format!("/v2/{repository}/manifests/{name}");
                behaviour.content.insert(path, (media_type.into(), manifest.clone()));
            }
        });
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn answer(shared: &Mutex<Behaviour>, request: &Request<Incoming>) -> Response<Body> {
    let mut behaviour = shared.lock().expect("not poisoned");
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = request.uri().path().to_string();
    let whole = request.uri().to_string();
    behaviour.seen.push((whole, header("authorization").to_string()));
    let status = |status: StatusCode| Response::builder().status(status);
    let is_token = path == "/token";
    if let Some(wanted) = behaviour.wanted.as_ref().filter(|wanted| !is_token && *wanted != header("authorization")) {
        let _wanted = wanted;
        return status(StatusCode::UNAUTHORIZED)
            .header("www-authenticate", &behaviour.challenge)
            .body(full(r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#))
            .expect("a response");
    }
    let is_blob = path.contains("/blobs/");
    if is_blob && let Some(origin) = &behaviour.redirect_blobs {
        return status(StatusCode::TEMPORARY_REDIRECT).header("location", format!("{origin}{path}")).body(full("")).expect("a response");
    }
    let Some((media_type, content)) = behaviour.content.get(&path).cloned() else {
        return status(StatusCode::NOT_FOUND).body(full("")).expect("a response");
    };
    let offset = header("range").strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
    let offset: usize = offset.filter(|_| !behaviour.no_ranges).unwrap_or(0);
    let mut response = if offset > 0 {
        let range = format!("bytes {offset}-{}/{}", content.len() - 1, content.len());
        status(StatusCode::PARTIAL_CONTENT).header("content-range", range)
    } else {
        status(StatusCode::OK)
    };
    response = response.header("content-type", media_type);
    if path.contains("/manifests/") {
        response = response.header("docker-content-digest", digest(&content));
    }
    let body = content[offset..].to_vec();
    let key = format!("{path} {offset}");
    if let Some(length) = behaviour.break_after.filter(|length| is_blob && *length < body.len() && !behaviour.broken.contains(&key)) {
        behaviour.broken.push(key);
        let first = Ok(Frame::data(Bytes::copy_from_slice(&body[..length])));
        let fault = futures_util::stream::once(async {
            // The server sends what it has while the body has nothing more, and only then hears of the fault.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            Err(std::io::Error::other("broken on purpose"))
        });
        let pieces = futures_util::StreamExt::chain(futures_util::stream::iter([first]), fault);
        let body = BodyExt::boxed(StreamBody::new(pieces));
        return response.header("content-length", content.len() - offset).body(body).expect("a response");
    }
    if request.method() == http::Method::HEAD {
        return response.body(full("")).expect("a response");
    }
    response.body(full(body)).expect("a response")
}
