//! `/healthz`, `/livez` and `/readyz` with their parts, and how often each was asked and well: `/metrics/slis`.

use std::collections::BTreeMap;

use api::{Reason, Status};
use client::metrics::{escape, head, sample};
use http::StatusCode;
use parking_lot::Mutex;

use crate::failure;
use crate::query::Query;
use crate::request::Reply;
use crate::server::{Readiness, Server};

/// One part: its name and how it is.
type Check = (&'static str, fn(&Server) -> Result<(), String>);

/// How the parts were whenever somebody asked for all of them, by part and path.
#[derive(Default)]
pub struct Asked(Mutex<BTreeMap<(&'static str, Box<str>), Outcomes>>);

#[derive(Default)]
struct Outcomes {
    well: u64,
    failed: u64,
    is_well: bool,
}

impl Asked {
    fn note(&self, name: &'static str, kind: &str, is_well: bool) {
        let mut all = self.0.lock();
        let outcomes = all.entry((name, kind.into())).or_default();
        outcomes.is_well = is_well;
        *(if is_well { &mut outcomes.well } else { &mut outcomes.failed }) += 1;
    }

    /// Writes them under upstream's names.
    pub fn render(&self, out: &mut String) {
        let all = self.0.lock();
        let (gauge, counter) = ("kubernetes_healthcheck", "kubernetes_healthchecks_total");
        head(out, gauge, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
        for ((name, kind), outcomes) in all.iter() {
            sample(out, gauge, &format!("name=\"{}\",type=\"{}\"", escape(name), escape(kind)), u8::from(outcomes.is_well));
        }
        head(out, counter, "counter", "[STABLE] This metric records the results of all healthcheck.");
        for ((name, kind), outcomes) in all.iter() {
            for (status, count) in [("error", outcomes.failed), ("success", outcomes.well)] {
                if count > 0 {
                    let labels = format!("name=\"{}\",status=\"{status}\",type=\"{}\"", escape(name), escape(kind));
                    sample(out, counter, &labels, count);
                }
            }
        }
    }
}

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
    let mut lines = String::new();
    let mut failed = false;
    for (name, check) in checks {
        if excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        let outcome = check(server);
        server.asked.note(name, kind, outcome.is_ok());
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(_) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if failed {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{kind} check failed\n")));
    }
    if query.flag("verbose") {
        Ok(text(StatusCode::OK, format!("{lines}{kind} check passed\n")))
    } else {
        Ok(text(StatusCode::OK, "ok".into()))
    }
}

fn text(code: StatusCode, body: String) -> Reply {
    let mut answer = failure::plain(code, body);
    answer.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    answer
}
