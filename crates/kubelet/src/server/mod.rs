//! The kubelet's own API on port 10250: logs, exec, attach, port-forward, statistics and health.
//!
//! Callers show a client certificate or a token; what they may do the API server decides (webhook authorization with
//! `nodes/<subresource>`), as with the real kubelet.

mod access;
mod attach;
mod cadvisor;
mod configz;
mod exec;
mod links;
mod logs;
mod measure;
mod metrics;
pub(crate) mod pace;
mod port_forward;
mod route;
mod summary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use stream::{Body, full_body};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::Kubelet;
use access::{Access, Attributes};

/// How long a caller may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves until the future is dropped.
///
/// # Errors
/// The port cannot be bound, or the client authority is unusable.
pub async fn run(kubelet: Arc<Kubelet>, tls: Arc<rustls::ServerConfig>) -> Result<()> {
    let listen = kubelet.config.listen;
    let mut listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let access = Arc::new(Access::new(kubelet.client.clone(), &kubelet.client_ca, &kubelet.config.node_name)?);
    let acceptor = TlsAcceptor::from(tls);
    let mut addresses = kubelet.addresses.subscribe();
    let follows = kubelet.config.node_ips.first() == Some(&listen.ip());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = addresses.changed(), if follows => {
                let now = addresses.borrow_and_update().first().map(|ip| SocketAddr::new(*ip, listen.port()));
                if let Some(now) = now {
                    listener = rebind(listener, now).await;
                }
                continue;
            }
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, usually: others need a moment to finish.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (kubelet, access, acceptor) = (kubelet.clone(), access.clone(), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, kubelet, access, acceptor).await {
                tracing::debug!("connection to the kubelet ended: {error:#}");
            }
        });
    }
}

/// Listens at another address; the old socket stays where the new one cannot be bound.
async fn rebind(old: TcpListener, address: SocketAddr) -> TcpListener {
    if old.local_addr().is_ok_and(|local| local == address) {
        return old;
    }
    match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "the kubelet's API cannot be served at the node's new address");
            old
        }
    }
}

async fn connection(stream: TcpStream, kubelet: Arc<Kubelet>, access: Arc<Access>, acceptor: TlsAcceptor) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.context("TLS handshake took too long")??;
    let chain: Vec<_> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned()).collect();
    let caller = Arc::new(access.by_certificate(&chain));
    let service = service_fn(move |request| {
        let (kubelet, access, caller) = (kubelet.clone(), access.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(kubelet, access, caller, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(120))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(Into::into)
}

async fn answer(
    kubelet: Arc<Kubelet>,
    access: Arc<Access>,
    caller: Arc<Option<access::Caller>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(route) = route::find(request.method(), request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let caller = caller.as_ref().as_ref();
    if let Err((code, message)) = access.allow(caller, &request, route.attributes()).await {
        let all = Attributes { subresource: "proxy", ..route.attributes() };
        let also = code == StatusCode::FORBIDDEN && route.also_by_proxy() && access.allow(caller, &request, all).await.is_ok();
        if !also {
            return text(code, &message);
        }
    }
    route::serve(kubelet, route, request).await
}

/// A plain text answer.
fn text(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(full_body(Bytes::copy_from_slice(message.as_bytes())));
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON answer.
fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full_body(Bytes::from(value.to_string())));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
