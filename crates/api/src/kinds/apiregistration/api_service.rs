//! API services: who serves a group and version.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, NameRule, keep_all_but_status, keep_status, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::PathSegment,
        prepare_create: |object| reset_status_of(object, "kube-aggregator.apiregistration.v1.APIService"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        ..Kind::plain("apiregistration.k8s.io", "APIService")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let required = format!("{version}.{group}");
    if object.name() != required {
        let text = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        causes.invalid("metadata.name", &object.name().into(), &text);
    }
    if version.is_empty() {
        causes.needed(&SPEC.field("version"), "");
    } else {
        causes.each(&SPEC.field("version"), version, names::label_1035_errors(version));
    }
    if !group.is_empty() {
        causes.each(&SPEC.field("group"), group, names::subdomain_errors(group));
    }
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let number = spec.int(field).unwrap_or(0);
        if number <= 0 || number > max {
            causes.bad(&SPEC.field(field), number, &format!("must be positive and less than {}", max));
        }
    }
    match spec.object("service") {
        None => {
            if !spec.text("caBundle").is_empty() {
                causes.bad(&SPEC.field("caBundle"), spec.text("caBundle"), "local APIServices may not have a caBundle");
            }
            if spec.flag("insecureSkipTLSVerify") {
                causes.bad(&SPEC.field("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify");
            }
        }
        Some(service) => {
            let at = SPEC.field("service");
            causes.need_text(service, "namespace", &at);
            causes.need_text(service, "name", &at);
            let port = service.int("port").unwrap_or(443);
            for error in check::port_errors(port) {
                causes.bad(&at.field("port"), port, &format!("port is not valid: {error}"));
            }
            if spec.flag("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
                causes.bad(&SPEC.field("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
            }
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let service = object.map("spec").object("service");
    let service = service.map_or_else(|| "Local".to_owned(), |one| format!("{}/{}", one.text("namespace"), one.text("name")));
    let available = object.map("status").maps("conditions").find(|one| one.text("type") == "Available");
    let available = available.map_or_else(
        || "Unknown".to_owned(),
        |one| match (one.text("status"), one.text("reason")) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    );
    vec![object.name().into(), service.into(), available.into(), print::age(object, clock)]
}
