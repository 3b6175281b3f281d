//! Bindings of validating admission policies.

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
        columns: Some(admission_policy::binding_columns),
        generation: Generation::Spec,
        ..Kind::plain("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding")
    }
}

fn validate(binding: &Object, causes: &mut Causes) {
    admission_policy::validate_binding(binding, causes);
    let (spec, list) = (binding.map("spec"), SPEC.field("validationActions"));
    if spec.list("validationActions").is_empty() {
        causes.needed(&list, "at least one validation action is required");
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, action) in spec.texts("validationActions").enumerate() {
        if !matches!(action, "Audit" | "Deny" | "Warn") {
            causes.unsupported(&list.index(index), action, &["Audit", "Deny", "Warn"]);
        }
        if seen.contains(&action) {
            causes.twice(&list.index(index), action);
        }
        seen.push(action);
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        causes.bad(&list, spec["validationActions"].clone(), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}
