//! Requests and limits of a container or a pod, and the names that resources may have.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::read::Read;

const STANDARD: [&str; 26] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
    "requests.storage",
    "limits.storage",
    "count/pods",
    "hugepages-",
    "requests.hugepages-",
    "limits.hugepages-",
    "volume.storageclass",
];

/// Whether a resource name without a domain is known.
pub fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_hugepages(name) || name.starts_with("requests.hugepages-")
}

/// Whether a resource is a size of huge pages.
pub fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of the domain `kubernetes.io` or of none.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of other domains, such as devices.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::is_qualified_name(&format!("requests.{name}"))
}

/// Only resources of nodes may be promised more often than they are there.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_hugepages(name)
}

/// A resource of anything: qualified, or one that is known.
pub fn validate_any_name(name: &str, path: &Path, causes: &mut Causes) {
    let errors = names::qualified_name_errors(name);
    let qualified = errors.is_empty();
    causes.each(path, name, errors);
    if !name.contains('/') && qualified && !is_standard(name) {
        causes.bad(path, name, "must be a standard resource type or fully qualified");
    }
}

/// A resource that containers can have.
pub fn validate_name(name: &str, path: &Path, causes: &mut Causes) {
    validate_any_name(name, path, causes);
    if !name.contains('/') {
        if !(matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_hugepages(name)) {
            causes.bad(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        causes.bad(path, name, "doesn't follow extended resource name standard");
    }
}

/// An amount of a resource: not negative, whole where the resource only comes whole.
pub fn validate_amount(name: &str, amount: Quantity, path: &Path, causes: &mut Causes) {
    check::quantity_non_negative(amount, path, causes);
    let counted = matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    );
    if (counted || is_extended(name) || name.starts_with("count/")) && !amount.is_whole() {
        causes.bad(path, amount.to_string(), "must be an integer");
    }
}

/// Validates `resources` of a container.
pub fn validate(resources: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    validate_with(validate_name, resources, path, causes);
}

/// Validates `resources` of a whole pod, which knows fewer of them.
pub fn validate_pod(resources: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let name = |name: &str, path: &Path, causes: &mut Causes| {
        validate_any_name(name, path, causes);
        if !matches!(name, "cpu" | "memory") && !is_hugepages(name) {
            causes.unsupported(path, name, &["cpu", "hugepages-", "memory"]);
        }
    };
    validate_with(name, resources, path, causes);
}

fn validate_with(name_rule: impl Fn(&str, &Path, &mut Causes), resources: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let (limits, requests) = (resources.map("limits"), resources.map("requests"));
    let (limits_path, requests_path) = (path.field("limits"), path.field("requests"));
    let (mut compute, mut huge) = (false, false);
    let mut seen = |name: &str| {
        compute |= matches!(name, "cpu" | "memory");
        huge |= is_hugepages(name);
    };
    for (name, value) in limits {
        let at = limits_path.key(name);
        name_rule(name, &at, causes);
        validate_amount(name, Quantity::from_json(value).unwrap_or_default(), &at, causes);
        seen(name);
    }
    for (name, value) in requests {
        let at = requests_path.key(name);
        let amount = Quantity::from_json(value).unwrap_or_default();
        name_rule(name, &at, causes);
        validate_amount(name, amount, &at, causes);
        seen(name);
        match limits.quantity(name) {
            Some(limit) if amount != limit && !may_overcommit(name) => {
                causes.bad(&requests_path, amount.to_string(), &format!("must be equal to {name} limit of {limit}"));
            }
            Some(limit) if amount > limit => {
                causes.bad(&requests_path, amount.to_string(), &format!("must be less than or equal to {name} limit of {limit}"));
            }
            None if !may_overcommit(name) => causes.needed(&limits_path, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
    if huge && !compute {
        causes.refused(path, "HugePages require cpu or memory");
    }
}
