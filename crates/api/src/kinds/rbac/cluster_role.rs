//! Cluster roles, which may be made of others by label.

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Kind, NameRule};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;
use crate::types::policy_rule;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::PathSegment,
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(print::plain),
        ..Kind::plain("rbac.authorization.k8s.io", "ClusterRole")
    }
}

fn validate(role: &Object, causes: &mut Causes) {
    policy_rule::validate_all(role.list("rules"), false, &Path::root("rules"), causes);
    let Some(aggregation) = role.object("aggregationRule") else { return };
    let path = Path::root("aggregationRule");
    let list = path.field("clusterRoleSelectors");
    if aggregation.list("clusterRoleSelectors").is_empty() {
        causes.needed(&list, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, selector) in aggregation.maps("clusterRoleSelectors").enumerate() {
        let before = causes.0.len();
        check::label_selector(selector, &list.index(index), causes);
        if causes.0.len() > before {
            causes.bad(&list.index(index), serde_json::Value::Null, "invalid label selector.");
        }
    }
}
