//! `/healthz`, `/livez` and `/readyz` with the parts of the API server.

use api::{Reason, Status};
use http::StatusCode;

use crate::failure;
use crate::query::Query;
use crate::request::Reply;
use crate::server::{Readiness, Server};

/// One part: its name and how it is.
type Check = (&'static str, fn(&Server) -> Result<(), String>);

const ALWAYS: &[Check] = &[
    ("ping", |_| Ok(())),
    ("log", |_| Ok(())),
    ("etcd", store_answers),
    ("poststarthook/start-apiextensions-controllers", is_started),
    ("poststarthook/rbac/bootstrap-roles", is_started),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", is_started),
    ("poststarthook/priority-and-fairness-config-producer", is_started),
    ("poststarthook/start-service-ip-repair-controllers", is_started),
];

const READY: &[Check] = &[("informer-sync", is_started), ("shutdown", is_not_stopping)];

fn store_answers(server: &Server) -> Result<(), String> {
    if let Some(why) = server.store.failure() {
        return Err(why);
    }
    let revision = server.store.mvcc().revision();
    if revision.0 > 0 { Ok(()) } else { Err("the store is empty".into()) }
}

fn is_started(server: &Server) -> Result<(), String> {
    if *server.readiness().borrow() == Readiness::Starting { Err("not finished".into()) } else { Ok(()) }
}

fn is_not_stopping(server: &Server) -> Result<(), String> {
    if *server.readiness().borrow() == Readiness::Stopping { Err("process is shutting down".into()) } else { Ok(()) }
}

/// The paths of all parts.
pub fn paths() -> impl Iterator<Item = String> {
    let parts = |kind: &'static str, checks: &'static [Check]| checks.iter().map(move |(name, _)| format!("/{kind}/{name}"));
    ["healthz", "livez", "readyz"].into_iter().flat_map(move |kind| parts(kind, ALWAYS)).chain(parts("readyz", READY))
}

/// Answers a health path.
///
/// # Errors
/// 404 for a part that does not exist.
pub fn serve(server: &Server, path: &str, query: &Query) -> Result<Reply, Status> {
    let path = path.trim_start_matches('/');
    let (kind, part) = path.split_once('/').unwrap_or((path, ""));
    let mut checks: Vec<&Check> = ALWAYS.iter().collect();
    if kind == "readyz" {
        checks.extend(READY);
    }
    if !part.is_empty() {
        let Some((name, check)) = checks.iter().find(|(name, _)| *name == part) else { return Ok(failure::no_such_path()) };
        return match check(server) {
            Ok(()) => {
                let mut answer = text(StatusCode::OK, "ok".into());
                answer.headers_mut().remove(http::header::X_CONTENT_TYPE_OPTIONS);
                Ok(answer)
            }
            Err(why) => Err(Status::new(Reason::InternalError, format!("{name} check failed: {why}"))),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let is_well = |name: &str| checks.iter().find(|(known, _)| *known == name).is_some_and(|(_, check)| check(server).is_ok());
    let answer = server.checks.ask(kind, checks.iter().map(|(name, _)| *name), is_well, &excluded, query.flag("verbose"));
    Ok(text(if answer.is_well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, answer.text))
}

fn text(code: StatusCode, body: String) -> Reply {
    let mut answer = failure::plain(code, body);
    answer.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    answer
}
