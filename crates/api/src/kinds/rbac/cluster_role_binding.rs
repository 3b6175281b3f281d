//! Cluster role bindings: who has a role everywhere.

use crate::kind::{Kind, NameRule};
use crate::types::role_ref;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::PathSegment,
        validate: |binding, causes| role_ref::validate_binding(binding, false, causes),
        validate_update: |new, old, causes| {
            role_ref::validate_binding(new, false, causes);
            role_ref::validate_update(new, old, causes);
        },
        columns: Some(role_ref::columns),
        ..Kind::plain("rbac.authorization.k8s.io", "ClusterRoleBinding")
    }
}
