//! Answers to load balancers: `healthCheckNodePort` of services with local traffic policy, and the
//! proxy's own `/healthz`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::tracker::ServiceKey;

/// What a load balancer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    /// How many endpoints are ready here.
    pub(crate) local: usize,
}

impl Health {
    fn answer(&self) -> Response<Full<Bytes>> {
        let code = if self.local > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "service": {"namespace": self.namespace, "name": self.name},
            "localEndpoints": self.local,
            "serviceProxyHealthy": true,
        });
        let mut response = answer(code, &body);
        response.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", self.local.into());
        response
    }
}

/// The open health check ports.
#[derive(Default)]
pub(crate) struct HealthPorts {
    open: BTreeMap<ServiceKey, Open>,
}

struct Open {
    port: u16,
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl HealthPorts {
    /// Opens, changes or closes the port of a service.
    pub(crate) fn set(&mut self, key: &ServiceKey, wanted: Option<(u16, Health)>) {
        match (self.open.get(key), wanted) {
            (Some(open), Some((port, health))) if open.port == port => {
                open.health.send_replace(health);
            }
            (_, wanted) => {
                if let Some(open) = self.open.remove(key) {
                    open.task.abort();
                }
                if let Some((port, health)) = wanted {
                    self.open.insert(key.clone(), Open::new(port, health));
                }
            }
        }
    }
}

impl Open {
    fn new(port: u16, health: Health) -> Self {
        let (health, told) = watch::channel(health);
        let task = tokio::spawn(async move {
            match listen(port).await {
                Ok(listener) => serve(listener, move |_| told.borrow().answer()).await,
                Err(error) => {
                    tracing::error!(port, %error, "cannot answer health checks of a service")
                }
            }
        });
        Self { port, health, task }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// On all addresses of both families, or of v4 where there is no v6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// The proxy's own health.
pub(crate) struct Healthz {
    state: Arc<Mutex<Synced>>,
    task: JoinHandle<()>,
}

struct Synced {
    healthy: bool,
    at: jiff::Timestamp,
}

impl Healthz {
    /// Answers on an address.
    pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let state = Arc::new(Mutex::new(Synced { healthy: true, at: jiff::Timestamp::now() }));
        let told = state.clone();
        let task = tokio::spawn(serve(listener, move |request: &Request<Incoming>| match request.uri().path() {
            "/healthz" | "/livez" => {
                let now = jiff::Timestamp::now();
                let state = told.lock();
                let code = if state.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                let updated = if state.healthy { now } else { state.at };
                let body = json!({
                    "lastUpdated": updated.to_string(), "currentTime": now.to_string(), "nodeEligible": true,
                });
                answer(code, &body)
            }
            _ => answer(StatusCode::NOT_FOUND, &json!({})),
        }));
        Ok(Self { state, task })
    }

    /// Notes how the last change went.
    pub(crate) fn synced(&self, healthy: bool) {
        let mut state = self.state.lock();
        if healthy {
            state.at = jiff::Timestamp::now();
        }
        state.healthy = healthy;
    }
}

impl Drop for Healthz {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(code: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

async fn serve<F>(listener: TcpListener, answer: F)
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those who hold some need time.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
