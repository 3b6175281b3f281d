//! Names of types and operations as published documents spell them.

use api::ResourceDef;

/// `core.v1.Pod` as `io.k8s.api.core.v1.Pod`.
pub(super) fn of_type(name: &str) -> String {
    let rest = |prefix: &str| name.strip_prefix(prefix);
    if name.starts_with("apis.") || name.starts_with("api.resource.") || name.starts_with("util.") || name.starts_with("runtime.") {
        return format!("io.k8s.apimachinery.pkg.{name}");
    }
    for (prefix, published) in [
        ("apiextensions-apiserver.", "io.k8s.apiextensions-apiserver.pkg.apis."),
        ("kube-aggregator.", "io.k8s.kube-aggregator.pkg.apis."),
        ("metrics.", "io.k8s.metrics.pkg.apis."),
    ] {
        if let Some(rest) = rest(prefix) {
            return format!("{published}{rest}");
        }
    }
    format!("io.k8s.api.{name}")
}

/// Name of a custom kind: the group backwards, the version, the kind.
pub(super) fn of_custom(group: &str, version: &str, kind: &str) -> String {
    let group: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", group.join("."))
}

/// `AppsV1`, the part of operation names that says the group version.
pub(super) fn operation_group(resource: &ResourceDef) -> String {
    capital(&camel_group(&resource.group)) + &capital(&resource.version)
}

/// `apps_v1`, by which operations are grouped.
pub(super) fn tag(resource: &ResourceDef) -> String {
    format!("{}_{}", camel_group(&resource.group), resource.version)
}

/// `rbac.authorization.k8s.io` as `rbacAuthorization`, core as `core`; custom groups keep all their parts.
fn camel_group(group: &str) -> String {
    if group.is_empty() {
        return "core".into();
    }
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut parts = group.split(['.', '-']);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &capital(part))
}

pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}
