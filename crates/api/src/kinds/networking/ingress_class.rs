//! Ingress classes.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, old, causes| {
            validate(new, causes);
            check::immutable_field(new.map("spec"), old.map("spec"), "controller", &SPEC, causes);
        },
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("networking.k8s.io", "IngressClass")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let (controller, at) = (spec.text("controller"), SPEC.field("controller"));
    match controller.split_once('/') {
        _ if controller.is_empty() => causes.needed(&at, ""),
        Some((domain, path)) if !path.is_empty() => causes.each(&at, controller, names::subdomain_errors(domain)),
        _ => causes.bad(&at, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if let Some(parameters) = spec.object("parameters") {
        let at = SPEC.field("parameters");
        if !parameters.text("apiGroup").is_empty() {
            causes.each(&at.field("apiGroup"), parameters.text("apiGroup"), names::subdomain_errors(parameters.text("apiGroup")));
        }
        for field in ["kind", "name"] {
            if causes.need_text(parameters, field, &at) {
                causes.each(&at.field(field), parameters.text(field), names::path_segment_errors(parameters.text(field)));
            }
        }
        causes.need_one_of(parameters, "scope", &at, &["Cluster", "Namespace"]);
        match (parameters.text("scope"), parameters.text("namespace").is_empty()) {
            ("Namespace", true) => causes.needed(&at.field("namespace"), "`parameters.scope` is set to 'Namespace'"),
            ("Cluster", false) => causes.refused(&at.field("namespace"), "`parameters.scope` is set to 'Cluster'"),
            _ => {}
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let spec = object.map("spec");
    let parameters = spec.object("parameters").map_or_else(
        || "<none>".to_owned(),
        |one| format!("{}/{}", crate::status::qualified(one.text("kind"), one.text("apiGroup")), one.text("name")),
    );
    vec![object.name().into(), spec.text("controller").into(), parameters.into(), print::age(object, clock)]
}
