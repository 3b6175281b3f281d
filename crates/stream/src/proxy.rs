//! Hands an upgraded connection through to another server, byte by byte.
//!
//! The API server does this for exec, attach, port-forward and the pod, service and node proxies. Bytes are copied only
//! after the other side answered 101; every other answer is relayed as a plain response and the caller's connection
//! stays HTTP, so that a backend cannot make the caller's further bytes reach it as requests.

use crate::Body;
use crate::negotiate::{full_body, items};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Whether the request asks for an upgrade (`Connection: upgrade` with an `Upgrade` header).
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = items(headers, header::CONNECTION);
    connection.iter().any(|item| item.eq_ignore_ascii_case("upgrade")) && headers.contains_key(header::UPGRADE)
}

/// Sends the request over `target` (connected, TLS done) and relays the answer. URI (path and query), `Host` and
/// authentication headers must already be the target's; hop-by-hop headers of the upgrade are kept.
/// The request's body is relayed too, so that this also serves plain requests.
pub async fn proxy_upgrade<B, T>(mut request: Request<B>, target: T) -> Result<Response<Body>, ProxyError>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    // The caller may have come by HTTP/2 or with a full URI; the target is spoken to in HTTP/1.1 and by path.
    *request.version_mut() = http::Version::HTTP_11;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(http::Uri::from).unwrap_or_default();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(target)).await.map_err(ProxyError::Backend)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    let mut response = sender.send_request(request).await.map_err(ProxyError::Backend)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(BodyExt::boxed));
    }
    let Some(from_caller) = upgrade else {
        // Nobody asked for it: relaying it would leave the two sides with different ideas of the connection.
        let mut answer = Response::new(full_body("the backend switched protocols without being asked\n"));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        return Ok(answer);
    };
    let from_target = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (caller, target) = match tokio::try_join!(from_caller, from_target) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade failed on one side");
                return;
            }
        };
        let (mut caller, mut target) = (TokioIo::new(caller), TokioIo::new(target));
        if let Err(error) = tokio::io::copy_bidirectional(&mut caller, &mut target).await {
            tracing::debug!(%error, "upgraded connection ended");
        }
    });
    Ok(response.map(|_| full_body(Bytes::new())))
}

/// Why the request could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The target did not answer as HTTP/1.1.
    #[error("error dialing backend")]
    Backend(#[source] hyper::Error),
}
