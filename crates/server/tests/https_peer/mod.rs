//! A server over real TLS that a test makes: it notes what it is asked and answers with JSON.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pki::{Authority, HotCert, IssueRequest, San, Subject, Usage};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is answered to a path and body: code and JSON.
pub type Answer = dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync;

/// The server.
#[allow(dead_code, reason = "not every test uses all of it")]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its authority as PEM.
    pub authority: String,
    /// Paths and bodies so far.
    pub asked: Arc<Mutex<Vec<(String, Value)>>>,
}

#[allow(dead_code, reason = "not every test uses all of it")]
impl Peer {
    /// Starts one.
    pub async fn start(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Peer {
        pki::install_provider();
        let authority = Authority::create("peer", DAY).unwrap();
        let request = IssueRequest {
            subject: Subject::new("peer", &[]),
            sans: vec![San::parse("127.0.0.1")],
            usages: vec![Usage::DigitalSignature, Usage::ServerAuth],
            lifetime: DAY,
        };
        let cert = HotCert::new(authority.issue(&request).unwrap()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(pki::server_config(&cert, false, &["http/1.1"]).unwrap()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (answer, noted): (Arc<Answer>, _) = (Arc::new(answer), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, noted) = (acceptor.clone(), answer.clone(), noted.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (answer, noted) = (answer.clone(), noted.clone());
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                            let (code, value) = answer(&path, &body);
                            noted.lock().unwrap().push((path, body));
                            let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
                            *response.status_mut() = code.try_into().unwrap();
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Peer { address, authority: authority.cert_pem().to_owned(), asked }
    }

    /// Writes a kubeconfig that leads to a path of it.
    pub fn kubeconfig(&self, file: &Path, path: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "peer",
            "clusters": [{"name": "peer", "cluster": {
                "server": format!("https://{}{path}", self.address), "certificate-authority-data": STANDARD.encode(&self.authority)}}],
            "contexts": [{"name": "peer", "context": {"cluster": "peer", "user": "us"}}],
            "users": [{"name": "us", "user": {"token": "shared"}}],
        });
        std::fs::write(file, config.to_string()).unwrap();
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Waits until a condition holds.
#[allow(dead_code, reason = "not every test uses all of it")]
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
