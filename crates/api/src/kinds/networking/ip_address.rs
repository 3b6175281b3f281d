//! IP addresses: which Service holds which cluster address.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, NameRule, Selectable};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::IpAddress,
        validate,
        validate_update: |new, old, causes| {
            validate(new, causes);
            check::immutable_field(new.map("spec"), old.map("spec"), "parentRef", &SPEC, causes);
        },
        selectable: &[Selectable { field: "spec.parentRef.name", value: |object| object.text_at(&["spec", "parentRef", "name"]).into() }],
        columns: Some(columns),
        ..Kind::plain("networking.k8s.io", "IPAddress")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let at = SPEC.field("parentRef");
    match object.map("spec").object("parentRef") {
        Some(parent) => {
            if !parent.text("group").is_empty() {
                causes.each(&at.field("group"), parent.text("group"), crate::names::subdomain_errors(parent.text("group")));
            }
            for field in ["resource", "name"] {
                if causes.need_text(parent, field, &at) {
                    causes.each(&at.field(field), parent.text(field), crate::names::path_segment_errors(parent.text(field)));
                }
            }
            causes.each(&at.field("namespace"), parent.text("namespace"), crate::names::path_segment_errors(parent.text("namespace")));
        }
        None => causes.needed(&at, ""),
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let parent = object.map("spec").object("parentRef").map(|parent| {
        let resource = crate::status::qualified(parent.text("resource"), parent.text("group")).to_lowercase();
        let namespace = parent.text("namespace");
        let place = if namespace.is_empty() { resource } else { format!("{resource}/{namespace}") };
        format!("{place}/{}", parent.text("name"))
    });
    vec![object.name().into(), parent.unwrap_or_else(|| "<none>".into()).into(), print::age(object, clock)]
}
