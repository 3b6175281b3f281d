//! Bindings of mutating admission policies.

use crate::kind::{Generation, Kind};
use crate::types::admission_policy;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate: admission_policy::validate_binding,
        validate_update: |new, _old, causes| admission_policy::validate_binding(new, causes),
        columns: Some(admission_policy::binding_columns),
        generation: Generation::Spec,
        ..Kind::plain("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding")
    }
}
