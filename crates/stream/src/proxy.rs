//! Hands an upgraded connection through to another server, byte by byte.
//!
//! The API server does this for exec, attach, port-forward and the pod, service and node proxies. Bytes are copied only
//! after the other side answered 101; every other answer is relayed as a plain response and the caller's connection
//! stays HTTP, so that a backend cannot make the caller's further bytes reach it as requests.

use crate::Body;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

/// Whether the request asks for an upgrade (`Connection: upgrade` with an `Upgrade` header).
pub fn wants_upgrade(headers: &http::HeaderMap) -> bool { todo!() }

/// Sends the request over `target` (connected, TLS done) and relays the answer. URI (path and query), `Host` and
/// authentication headers must already be the target's; hop-by-hop headers of the upgrade are kept.
/// The request's body is relayed too, so that this also serves plain requests.
pub async fn proxy_upgrade<B, T>(request: Request<B>, target: T) -> Result<Response<Body>, ProxyError>
where
    B: http_body_util::BodyExt + hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{ todo!() }

/// Why the request could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The target did not answer as HTTP/1.1.
    #[error("error dialing backend")]
    Backend(#[source] hyper::Error),
}
