//! Probes and lifecycle hooks: exactly one way to act, with times that make sense.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::path::Path;
use crate::read::{Read, as_map};

/// Which of the three probes is validated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decides on a restart.
    Liveness,
    /// Decides on traffic.
    Readiness,
    /// Holds the others back.
    Startup,
}

/// Validates a probe.
pub fn validate_probe(probe: &Map<String, Value>, role: Role, path: &Path, causes: &mut Causes) {
    validate_action(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, causes);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check::non_negative_field(probe, field, path, causes);
    }
    let grace = probe.int("terminationGracePeriodSeconds");
    if grace.is_some_and(|grace| grace <= 0) {
        causes.bad(&path.field("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
    let successes = probe.int("successThreshold").unwrap_or(0);
    if role != Role::Readiness && successes != 1 {
        causes.bad(&path.field("successThreshold"), successes, "must be 1");
    }
    if role == Role::Readiness && grace.is_some() {
        causes.bad(&path.field("terminationGracePeriodSeconds"), grace, "must not be set for readinessProbes");
    }
}

/// Validates `postStart` or `preStop`.
pub fn validate_hook(hook: &Map<String, Value>, grace: i64, path: &Path, causes: &mut Causes) {
    validate_action(hook, &["exec", "httpGet", "tcpSocket", "sleep"], path, causes);
    if let Some(sleep) = hook.object("sleep") {
        let seconds = sleep.int("seconds").unwrap_or(0);
        if seconds < 0 || seconds > grace {
            let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            causes.bad(&path.field("sleep"), seconds, &text);
        }
    }
}

fn validate_action(handler: &Map<String, Value>, kinds: &[&str], path: &Path, causes: &mut Causes) {
    let mut count = 0;
    for kind in kinds {
        let Some(action) = handler.some(kind) else { continue };
        let at = path.field(kind);
        count += 1;
        if count > 1 {
            causes.refused(&at, "may not specify more than 1 handler type");
            continue;
        }
        let action = as_map(action);
        match *kind {
            "exec" if action.list("command").is_empty() => causes.needed(&at.field("command"), ""),
            "httpGet" => validate_http(action, &at, causes),
            "tcpSocket" => check::port_or_name(action.some("port").unwrap_or(&Value::Null), &at.field("port"), causes),
            "grpc" => check::port(action.int("port").unwrap_or(0), &at.field("port"), causes),
            _ => {}
        }
    }
    if count == 0 {
        causes.needed(path, "must specify a handler type");
    }
}

fn validate_http(action: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    causes.need_text(action, "path", path);
    check::port_or_name(action.some("port").unwrap_or(&Value::Null), &path.field("port"), causes);
    if !matches!(action.text("scheme"), "HTTP" | "HTTPS") {
        causes.unsupported(&path.field("scheme"), action.text("scheme"), &["HTTP", "HTTPS"]);
    }
    for header in action.maps("httpHeaders") {
        let name = header.text("name");
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            causes.bad(&path.field("httpHeaders"), name, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')");
        }
    }
}
