//! Options of writes in the query: dry run, field validation, field manager.

use api::{Causes, Status};
use codec::Strictness;
use serde_json::Value;

use crate::query::Query;
use crate::request::Request;

/// How a write is to be done.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Everything but the commit.
    pub dry_run: bool,
    /// What to do with unknown fields.
    pub strictness: Strictness,
    /// Who owns the fields that are written.
    pub manager: String,
    /// `force` of an apply.
    pub force: bool,
    /// RFC 3339 time of the request.
    pub now: String,
}

impl WriteOptions {
    /// Reads the query.
    ///
    /// # Errors
    /// 422 for values that are none.
    pub fn read(request: &Request, kind: &str) -> Result<WriteOptions, Status> {
        let query = &request.query;
        let mut causes = Causes::default();
        let dry_run = dry_run(query.all("dryRun"), &mut causes);
        let strictness = match query.text("fieldValidation") {
            "" | "Warn" => Strictness::Warn,
            "Ignore" => Strictness::Ignore,
            "Strict" => Strictness::Strict,
            other => {
                causes.not_supported("fieldValidation", &Value::from(other), &["", "Ignore", "Strict", "Warn"]);
                Strictness::Warn
            }
        };
        let given = query.text("fieldManager");
        if given.len() > 128 {
            causes.too_long("fieldManager", 128);
        }
        if given.chars().any(|char| char.is_control()) {
            causes.invalid("fieldManager", &Value::from(given), "should only contain printable characters");
        }
        if !causes.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &causes));
        }
        let manager = if given.is_empty() { manager_from_agent(request.header("user-agent")) } else { given.to_owned() };
        Ok(WriteOptions { dry_run, strictness, manager, force: force(query), now: now() })
    }
}

fn force(query: &Query) -> bool {
    query.flag("force")
}

/// Reads `dryRun` values: none or `All`.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Causes) -> bool {
    let mut dry_run = false;
    for value in values {
        match value {
            "All" => dry_run = true,
            other => causes.not_supported("dryRun", &Value::from(vec![other]), &["All"]),
        }
    }
    dry_run
}

/// The part of a user agent in front of the first slash.
pub fn manager_from_agent(agent: &str) -> String {
    let first = agent.split('/').next().unwrap_or("");
    if first.is_empty() { "unknown".to_owned() } else { first.chars().filter(|char| !char.is_control()).take(128).collect() }
}

/// The time in seconds, as objects have it.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now().as_second())
}

/// Seconds since the epoch as RFC 3339.
pub fn timestamp(seconds: i64) -> String {
    api::time::seconds_text(seconds)
}
