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
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(failure::method_not_allowed());
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => discovery::paths(server),
        ["version"] => discovery::version(),
        ["api"] | ["apis"] | ["api", "v1"] | ["apis", _] | ["apis", _, _] => discovery::serve(server, &call, path).await,
        ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", ..] => health::serve(server, path, &query),
        ["openapi", ..] => openapi::serve(server, &call, path).await,
        ["openid", "v1", "jwks"] => Ok(identity::keys(server)),
        [".well-known", "openid-configuration"] => Ok(identity::configuration(server)),
        ["cacerts"] => Ok(identity::authorities(server)),
        ["metrics"] => Ok(metrics(server)),
        _ => Err(failure::no_such_resource()),
    }
}

fn metrics(server: &Server) -> Reply {
    let mut text = String::new();
    server.metrics.render(&mut text);
    server.reloads.render(&mut text);
    if let Some(audit) = &server.audit {
        audit.render(&mut text);
    }
    store_metrics(server, &mut text);
    reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// What the store counts about itself.
fn store_metrics(server: &Server, out: &mut String) {
    use std::fmt::Write;
    let store = server.store.metrics();
    for (name, histogram) in [("commit_duration", &store.commit), ("sync_duration", &store.sync), ("batch_size", &store.batch)] {
        let values = histogram.values();
        let scale = if name == "batch_size" { 1.0 } else { 1e-6 };
        let unit = if name == "batch_size" { "" } else { "_seconds" };
        writeln!(out, "# TYPE knarr_store_{name}{unit} histogram").expect("a string takes all text");
        for (bound, count) in &values.buckets {
            writeln!(out, "knarr_store_{name}{unit}_bucket{{le=\"{}\"}} {count}", *bound as f64 * scale).expect("a string takes all text");
        }
        writeln!(out, "knarr_store_{name}{unit}_bucket{{le=\"+Inf\"}} {}", values.count).expect("a string takes all text");
        writeln!(out, "knarr_store_{name}{unit}_sum {}", values.sum as f64 * scale).expect("a string takes all text");
        writeln!(out, "knarr_store_{name}{unit}_count {}", values.count).expect("a string takes all text");
    }
    for (name, value) in [
        ("committed_total", store.committed.get()),
        ("lost_total", store.lost.get()),
        ("failed_total", store.failed.get()),
        ("expired_total", store.expired.get()),
        ("snapshots_total", store.snapshots.get()),
        ("log_bytes", store.log_bytes.get()),
        ("revision", store.revision.get()),
        ("objects", store.objects.get()),
        ("live_bytes", store.live_bytes.get()),
        ("history_floor", store.history_floor.get()),
        ("history_events", store.history_events.get()),
        ("history_bytes", store.history_bytes.get()),
        ("watchers", store.watchers.get()),
        ("derived_bytes", server.store.derived().used() as u64),
    ] {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        writeln!(out, "# TYPE knarr_store_{name} {kind}\nknarr_store_{name} {value}").expect("a string takes all text");
    }
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
