//! Mutating admission policies. Expressions are compiled by the server, which has the language.

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Generation, Kind};
use crate::object::Object;
use crate::read::Read;
use crate::types::admission_policy::{self, SPEC};

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(|policy, clock| admission_policy::policy_columns(policy, "mutations", clock)),
        generation: Generation::Spec,
        ..Kind::plain("admissionregistration.k8s.io", "MutatingAdmissionPolicy")
    }
}

fn validate(policy: &Object, causes: &mut Causes) {
    let spec = policy.map("spec");
    admission_policy::validate_policy(policy, causes);
    let list = SPEC.field("mutations");
    if spec.list("mutations").is_empty() {
        causes.needed(&list, "mutations must contain at least one item");
    }
    for (index, mutation) in spec.maps("mutations").enumerate() {
        let at = list.index(index);
        let (field, other) = match mutation.text("patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            _ => {
                causes.need_one_of(mutation, "patchType", &at, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        if mutation.has(other) {
            causes.bad(
                &at.field(other),
                mutation[other].clone(),
                &format!("must not be specified when patchType is {}", mutation.text("patchType")),
            );
        }
        match mutation.object(field) {
            Some(patch) => drop(causes.need_text(patch, "expression", &at.field(field))),
            None => causes.needed(&at.field(field), &format!("must be specified when patchType is {}", mutation.text("patchType"))),
        }
    }
    causes.need_one_of(spec, "reinvocationPolicy", &SPEC, &["IfNeeded", "Never"]);
}
