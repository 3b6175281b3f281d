//! Paths that are no resources: discovery, health, version, OpenAPI, keys, metrics.

pub mod aggregated;
pub mod discovery;
pub mod health;
pub mod identity;
pub mod openapi;

use std::sync::Arc;

use api::Status;
use http::{HeaderValue, Method, StatusCode};

use crate::failure;
use crate::query::Query;
use crate::request::{Call, Reply, header, reply};
use crate::server::Server;
use crate::steps::authorize::Allowed;

/// Serves a path that is no resource.
///
/// # Errors
/// 404 for paths that lead nowhere.
pub async fn serve(server: &Arc<Server>, call: Call, query: Query, allowed: &Allowed) -> Result<Reply, Status> {
    let path = allowed.attributes().path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    // Checks, groups and the list of paths are told whatever the method.
    let any_method = matches!(parts.as_slice(), [] | ["apis"] | ["apis", _] | ["healthz" | "livez" | "readyz", ..]);
    if !any_method && !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(failure::method_not_allowed());
    }
    match parts.as_slice() {
        [] => discovery::paths(server),
        ["version"] => discovery::version(),
        ["api"] | ["apis"] | ["api", _] | ["apis", _] | ["apis", _, _] => discovery::serve(server, &call, path).await,
        ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", ..] => health::serve(server, path, &query),
        ["openapi", ..] => openapi::serve(server, &call, path).await,
        ["openid", "v1", "jwks"] => Ok(identity::keys(server)),
        [".well-known", "openid-configuration"] => Ok(identity::configuration(server)),
        ["cacerts"] => Ok(identity::authorities(server)),
        ["metrics"] => Ok(metrics(server)),
        ["metrics", "slis"] => Ok(indicators(server)),
        ["debug", "api_priority_and_fairness", what] => {
            let text = server.fairness.dump(what).ok_or_else(failure::no_such_resource)?;
            Ok(reply(StatusCode::OK, "text/plain; charset=utf-8", text))
        }
        _ => Ok(failure::no_such_path()),
    }
}

fn metrics(server: &Server) -> Reply {
    let mut text = String::new();
    server.metrics.render(&mut text);
    server.fairness.render(&mut text);
    server.reloads.render(&mut text);
    if let Some(audit) = &server.audit {
        audit.render(&mut text);
    }
    crate::metrics::objects(&server.catalog(), &*server.store, &mut text);
    crate::metrics::store(&*server.store, &mut text);
    server.metric_sources.render(&mut text);
    reply(StatusCode::OK, client::metrics::CONTENT_TYPE, text)
}

fn indicators(server: &Server) -> Reply {
    let mut text = String::new();
    server.checks.render(&mut text);
    reply(StatusCode::OK, client::metrics::CONTENT_TYPE, text)
}

/// Whether a client has a document already.
pub(crate) fn is_unchanged(call: &Call, etag: &str) -> bool {
    header(&call.parts, "if-none-match").split(',').any(|one| one.trim().trim_matches('"') == etag)
}

/// Adds the validator of a document.
pub(crate) fn tagged(mut answer: Reply, etag: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        answer.headers_mut().insert(http::header::ETAG, value);
    }
    answer
}
