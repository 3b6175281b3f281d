//! Upgrade headers: which protocol a caller speaks, and the answers that upstream gives when it speaks none of ours.

use crate::StreamError;
use crate::ws::{self, ChannelProtocol};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The header that carries SPDY's inner protocol.
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The name of SPDY in `Upgrade`.
pub(crate) const SPDY: &str = "SPDY/3.1";

/// The body of the answers made here.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// The answer for a request that cannot be upgraded (400 or 403, plain text as upstream).
pub type Rejection = Response<Body>;

/// A body of known content.
pub fn full_body(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn reject(code: StatusCode, text: &str) -> Rejection {
    let mut response = Response::new(full_body(format!("{text}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The items of a list header, over all its lines.
pub(crate) fn items(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn has_item(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    items(headers, name).iter().any(|item| item.eq_ignore_ascii_case(wanted))
}

/// Whether the request opens a WebSocket.
pub(crate) fn is_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && has_item(request.headers(), header::CONNECTION, "upgrade")
        && has_item(request.headers(), header::UPGRADE, "websocket")
}

/// A 101 answer, and what becomes the connection.
pub(crate) struct Agreed<P> {
    pub(crate) response: Response<Body>,
    pub(crate) upgrade: OnUpgrade,
    pub(crate) protocol: P,
}

/// Picks the first of the caller's WebSocket protocols that is `known`; `unnamed` serves callers that name none.
pub(crate) fn agree_websocket<B, P: Copy>(
    mut request: Request<B>,
    known: &[(&'static str, P)],
    unnamed: Option<P>,
) -> Result<Agreed<P>, Rejection> {
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = reject(StatusCode::BAD_REQUEST, "unsupported WebSocket version");
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(reject(StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key"));
    };
    let accept = derive_accept_key(key.as_bytes());
    let offered = items(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = offered.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer));
    let (name, protocol) = match (chosen, unnamed) {
        (Some((name, protocol)), _) => (Some(*name), *protocol),
        (None, Some(protocol)) if offered.is_empty() => (None, protocol),
        _ => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let text = format!("unable to negotiate protocol: client supports {offered:?}, server accepts {names:?}");
            return Err(reject(StatusCode::FORBIDDEN, &text));
        }
    };
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&accept).expect("base64 is a header value");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = name {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Agreed { response, upgrade: hyper::upgrade::on(&mut request), protocol })
}

/// Picks the first of the caller's inner protocols that is `known` for a SPDY connection.
pub(crate) fn agree_spdy<B>(mut request: Request<B>, known: &[&'static str]) -> Result<Agreed<&'static str>, Rejection> {
    let offered = items(request.headers(), PROTOCOL_VERSION);
    if offered.is_empty() {
        return Err(reject(StatusCode::BAD_REQUEST, "unable to upgrade: \"X-Stream-Protocol-Version\" is required"));
    }
    let Some(chosen) = offered.iter().find_map(|offer| known.iter().find(|name| **name == offer)) else {
        let list = |names: &[&str]| names.join(" ");
        let offers: Vec<&str> = offered.iter().map(String::as_str).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            list(&offers),
            list(known)
        );
        let mut answer = reject(StatusCode::FORBIDDEN, &text);
        for name in known {
            answer.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        return Err(answer);
    };
    let headers = request.headers();
    if !has_item(headers, header::CONNECTION, "upgrade") || !has_item(headers, header::UPGRADE, SPDY) {
        return Err(reject(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request"));
    }
    let mut response = switching(SPDY);
    response.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(chosen));
    Ok(Agreed { response, upgrade: hyper::upgrade::on(&mut request), protocol: chosen })
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full_body(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The names of the channel protocols for `agree_websocket`.
pub(crate) fn channel_protocols() -> Vec<(&'static str, ChannelProtocol)> {
    ChannelProtocol::ALL.iter().map(|protocol| (protocol.name, *protocol)).collect()
}

/// An upgraded connection as a byte stream.
pub(crate) type Raw = TokioIo<Upgraded>;

/// Waits for the upgrade.
pub(crate) async fn upgraded(upgrade: OnUpgrade) -> Result<Raw, StreamError> {
    upgrade.await.map(TokioIo::new).map_err(StreamError::Upgrade)
}

/// Puts WebSocket framing on an upgraded connection.
pub(crate) async fn websocket(io: Raw, role: Role) -> WebSocketStream<Raw> {
    WebSocketStream::from_raw_socket(io, role, Some(ws::config())).await
}
