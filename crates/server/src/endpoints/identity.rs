//! What proves the cluster to others: token keys, their discovery document, and the authority of the server itself.

use http::{HeaderValue, StatusCode};

use crate::request::{Reply, reply};
use crate::server::Server;

/// The keys that service account tokens are verified with.
pub fn keys(server: &Server) -> Reply {
    cached(reply(StatusCode::OK, "application/jwk-set+json", server.tokens.jwks_document()))
}

/// The OpenID discovery document.
pub fn configuration(server: &Server) -> Reply {
    cached(reply(StatusCode::OK, "application/json", server.tokens.discovery_document(None)))
}

/// The authority of the serving certificate, for nodes that join with a token that pins it.
pub fn authorities(server: &Server) -> Reply {
    reply(StatusCode::OK, "text/plain", server.deps.pki.server_ca.cert_pem().to_owned())
}

fn cached(mut answer: Reply) -> Reply {
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    crate::failure::no_sniffing(&mut answer);
    answer
}
