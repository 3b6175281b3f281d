//! `rbac.v1.RoleRef` and the bindings around it: which role a binding gives to whom.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLE: Path<'static> = Path::root("roleRef");

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default: |map| map.default_text("apiGroup", GROUP), ..Rules::of("rbac.v1.RoleRef") }
}

/// Validates a binding.
pub fn validate_binding(binding: &Object, namespaced: bool, causes: &mut Causes) {
    let role = binding.map("roleRef");
    if role.text("apiGroup") != GROUP {
        causes.unsupported(&ROLE.field("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.text("kind")) {
        causes.unsupported(&ROLE.field("kind"), role.text("kind"), kinds);
    }
    if causes.need_text(role, "name", &ROLE) {
        causes.each(&ROLE.field("name"), role.text("name"), names::path_segment_errors(role.text("name")));
    }
    let list = Path::root("subjects");
    for (index, subject) in binding.maps("subjects").enumerate() {
        validate_subject(subject, namespaced, &list.index(index), causes);
    }
}

fn validate_subject(subject: &Map<String, Value>, namespaced: bool, path: &Path, causes: &mut Causes) {
    causes.need_text(subject, "name", path);
    let (kind, name, group) = (subject.text("kind"), subject.text("name"), subject.text("apiGroup"));
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                causes.each(&path.field("name"), name, names::subdomain_errors(name));
            }
            if !group.is_empty() {
                causes.unsupported(&path.field("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.text("namespace").is_empty() {
                causes.needed(&path.field("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                causes.unsupported(&path.field("apiGroup"), group, &[GROUP]);
            }
        }
        other => causes.unsupported(&path.field("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// The role of a binding never changes: whoever may bind one may not slip in another.
pub fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    if new.get("roleRef") != old.get("roleRef") {
        causes.bad_struct(&ROLE, "rbac.RoleRef", new.get("roleRef").unwrap_or(&Value::Null), "cannot change roleRef");
    }
}

/// Cells of a binding.
pub fn columns(binding: &Object, clock: &crate::kind::Clock) -> Vec<Value> {
    let role = binding.map("roleRef");
    let named = |kind: &str| {
        let subjects = binding.maps("subjects").filter(|subject| subject.text("kind") == kind);
        let names = subjects.map(|one| match kind {
            "ServiceAccount" => format!("{}/{}", one.text("namespace"), one.text("name")),
            _ => one.text("name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        binding.name().into(),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        print::age(binding, clock),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]
}
