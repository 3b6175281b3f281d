//! One request on its way through the pipeline.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::authenticate::Connection;
use crate::body::{RequestBody, ResponseBody};
use crate::catalog::Served;
use crate::query::Query;
use crate::server::Server;
use crate::steps::authorize::Allowed;
use crate::steps::encode::Negotiated;
use crate::user::User;

/// A request as it arrives.
pub struct Call {
    /// Line and headers.
    pub parts: Parts,
    /// Body, not read yet.
    pub body: RequestBody,
    /// Who brings it.
    pub caller: Caller,
}

/// Who brings a request.
pub enum Caller {
    /// A component of the same process, which is known.
    InProcess(Arc<User>),
    /// Somebody at the other end of a connection.
    Connection(Arc<Connection>),
}

impl Caller {
    /// The address at the other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Caller::InProcess(_) => None,
            Caller::Connection(connection) => Some(connection.peer),
        }
    }
}

/// A request for a resource that may be served: authenticated, classified, admitted and authorized.
pub struct Request {
    /// The server.
    pub server: Arc<Server>,
    /// Proof of authorization, with user and attributes.
    pub allowed: Allowed,
    /// The resource.
    pub served: Arc<Served>,
    /// Query.
    pub query: Query,
    /// Line and headers.
    pub parts: Parts,
    /// Body, not read yet.
    pub body: RequestBody,
    /// How the answer shall look.
    pub negotiated: Negotiated,
    /// The address at the other end, none in process.
    pub peer: Option<SocketAddr>,
}

impl Request {
    /// A header as text, empty if absent.
    pub fn header(&self, name: &str) -> &str {
        header(&self.parts, name)
    }

    /// Takes the body out.
    pub fn take_body(&mut self) -> RequestBody {
        std::mem::replace(&mut self.body, RequestBody::Ready(Bytes::new()))
    }
}

/// A header as text, empty if absent.
pub fn header<'a>(parts: &'a Parts, name: &str) -> &'a str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The answer to a request.
pub type Reply = Response<ResponseBody>;

/// An answer with a content type.
pub fn reply(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(ResponseBody::Full(body.into()));
    *reply.status_mut() = code;
    // Room for what every answer gets on its way.
    *reply.headers_mut() = HeaderMap::with_capacity(8);
    reply.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Adds a `Warning` header in front of those that are there.
pub fn warn_first(reply: &mut Reply, text: &str) {
    let later: Vec<HeaderValue> = reply.headers().get_all(http::header::WARNING).iter().cloned().collect();
    reply.headers_mut().remove(http::header::WARNING);
    warn(reply, text);
    let first = reply.headers().get(http::header::WARNING).cloned();
    for one in later.into_iter().filter(|one| Some(one) != first.as_ref()) {
        reply.headers_mut().append(http::header::WARNING, one);
    }
}

/// Adds a `Warning` header.
pub fn warn(reply: &mut Reply, text: &str) {
    let clean: String = text.chars().filter(|char| !char.is_control()).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        reply.headers_mut().append(http::header::WARNING, value);
    }
}
