//! Roles.

use crate::kind::{Kind, NameRule};
use crate::path::Path;
use crate::print;
use crate::read::Read;
use crate::types::policy_rule;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::PathSegment,
        validate: |role, causes| policy_rule::validate_all(role.list("rules"), true, &Path::root("rules"), causes),
        validate_update: |role, _old, causes| policy_rule::validate_all(role.list("rules"), true, &Path::root("rules"), causes),
        columns: Some(print::plain),
        ..Kind::plain("rbac.authorization.k8s.io", "Role")
    }
}
