//! Job specs, in Jobs and in the templates of cron jobs.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::path::Path;
use crate::read::Read;
use crate::types::pod_template;

/// Validates a job spec except its selector.
pub fn validate(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::non_negative_field(spec, field, path, causes);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        causes.needed(&path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    let manager = spec.text("managedBy");
    if !manager.is_empty() {
        match manager.split_once('/') {
            Some((domain, rest)) if !rest.is_empty() => {
                causes.each(&path.field("managedBy"), manager, crate::names::subdomain_errors(domain))
            }
            _ => causes.bad(&path.field("managedBy"), manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        }
    }
    let indexed = spec.text("completionMode") == "Indexed";
    causes.one_of(spec, "completionMode", path, &["NonIndexed", "Indexed"]);
    if indexed && !spec.has("completions") {
        causes.needed(&path.field("completions"), "when completion mode is Indexed");
    }
    if indexed && spec.int("parallelism").unwrap_or(0) > 100_000 {
        causes.bad(
            &path.field("parallelism"),
            spec.int("parallelism"),
            "must be less than or equal to 100000 when completion mode is Indexed",
        );
    }
    if !indexed {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec.some(field) {
                causes.bad(&path.field(field), value.clone(), "requires indexed completion mode");
            }
        }
    } else if let Some(failed) = spec.int("maxFailedIndexes").filter(|failed| *failed > spec.int("completions").unwrap_or(0)) {
        causes.bad(&path.field("maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
    if let Some(policy) = spec.object("podFailurePolicy") {
        validate_failure_policy(policy, indexed, &path.field("podFailurePolicy"), causes);
    }
    match spec.some("successPolicy") {
        Some(policy) if !indexed => {
            causes.bad_struct(&path.field("successPolicy"), "batch.SuccessPolicy", policy, "requires indexed completion mode")
        }
        Some(_) => validate_success_policy(spec.map("successPolicy"), &path.field("successPolicy"), causes),
        None => {}
    }
    let replacements: &[&str] = if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    causes.one_of(spec, "podReplacementPolicy", path, replacements);
    validate_template(spec, path, causes);
}

fn validate_template(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let template = path.field("template");
    pod_template::validate(spec.map("template"), &template, causes);
    let restart = spec.map("template").map("spec").text("restartPolicy");
    let at = template.field("spec");
    let at = at.field("restartPolicy");
    match restart {
        "Always" => causes.needed(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            causes.bad(&at, restart, "only \"Never\" is supported when podFailurePolicy is specified")
        }
        "OnFailure" | "Never" | "" => {}
        other => causes.unsupported(&at, other, &["OnFailure", "Never"]),
    }
}

fn validate_failure_policy(policy: &Map<String, Value>, indexed: bool, path: &Path, causes: &mut Causes) {
    let list = path.field("rules");
    if policy.list("rules").len() > 20 {
        causes.too_many(&list.text(), policy.list("rules").len(), 20);
    }
    for (index, rule) in policy.maps("rules").enumerate() {
        let at = list.index(index);
        let supported = ["Count", "FailIndex", "FailJob", "Ignore"];
        if rule.text("action").is_empty() {
            causes.needed(&at.field("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]");
        } else {
            causes.one_of(rule, "action", &at, &supported);
        }
        if rule.text("action") == "FailIndex" && !indexed {
            causes.bad(&at.field("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        if let Some(codes) = rule.object("onExitCodes") {
            validate_exit_codes(codes, &at.field("onExitCodes"), causes);
        }
        match (rule.object("onExitCodes"), rule.list("onPodConditions").is_empty()) {
            (Some(_), false) => causes.bad_without_value(&at, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (None, true) => causes.bad_without_value(&at, "specifying one of OnExitCodes and OnPodConditions is required"),
            (Some(_), true) => {}
            (None, false) => {
                let list = at.field("onPodConditions");
                for (index, condition) in rule.maps("onPodConditions").enumerate() {
                    let at = list.index(index);
                    causes.each(&at.field("type"), condition.text("type"), crate::names::qualified_name_errors(condition.text("type")));
                    causes.need_one_of(condition, "status", &at, &["False", "True", "Unknown"]);
                }
            }
        }
    }
}

fn validate_exit_codes(codes: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    causes.need_one_of(codes, "operator", path, &["In", "NotIn"]);
    let values = path.field("values");
    if codes.list("values").is_empty() {
        causes.bad(&values, Value::Array(Vec::new()), "at least one value is required");
    }
    for (index, code) in codes.list("values").iter().enumerate() {
        if codes.text("operator") == "In" && code.as_i64() == Some(0) {
            causes.bad(&values.index(index), 0, "must not be 0 for the In operator");
        }
    }
}

fn validate_success_policy(policy: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let list = path.field("rules");
    if policy.list("rules").is_empty() {
        causes.needed(&list, "at least one rules must be specified when the successPolicy is specified");
    }
    if policy.list("rules").len() > 20 {
        causes.too_many(&list.text(), policy.list("rules").len(), 20);
    }
    for (index, rule) in policy.maps("rules").enumerate() {
        let at = list.index(index);
        if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
            causes.needed(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        check::non_negative_field(rule, "succeededCount", &at, causes);
    }
}
