//! Values of a pod for its own containers: the downward API, for environment variables and files.

use std::collections::BTreeMap;

use api::Quantity;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

/// What the node adds to what the pod says.
pub struct Host<'a> {
    /// Addresses of the node, the first is `status.hostIP`.
    pub host_ips: &'a [String],
    /// Addresses of the pod.
    pub pod_ips: &'a [String],
    /// Allocatable CPU and memory, for limits that the container does not set.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// The value of a field path.
///
/// # Errors
/// The path is not one that the downward API knows.
pub fn field(pod: &Pod, host: &Host, selector: &ObjectFieldSelector) -> Result<String, String> {
    let path = selector.field_path.as_str();
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = if map == "metadata.labels" { &pod.metadata.labels } else { &pod.metadata.annotations };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(pod.metadata.name.as_ref()),
        "metadata.namespace" => text(pod.metadata.namespace.as_ref()),
        "metadata.uid" => text(pod.metadata.uid.as_ref()),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(host.host_ips.first()),
        "status.hostIPs" => host.host_ips.join(","),
        "status.podIP" => text(host.pod_ips.first()),
        "status.podIPs" => host.pod_ips.join(","),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// `metadata.labels['key']` in its parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "metadata.labels" | "metadata.annotations").then_some((map, key))
}

/// One `key="value"` a line, values escaped as Go quotes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for char in value.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            other if (other as u32) < 0x20 || other as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", other as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The value of a resource of a container, divided and rounded up.
///
/// # Errors
/// The container or the resource is not known.
pub fn resource(pod: &Pod, own: &Container, host: &Host, selector: &ResourceFieldSelector) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container = match named {
        None => own,
        Some(name) => {
            containers.into_iter().find(|container| container.name == name).ok_or_else(|| format!("container {name} not found"))?
        }
    };
    let (list, resource) =
        selector.resource.split_once('.').ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let set = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let given = set.and_then(|set| set.get(resource)).and_then(|quantity| Quantity::parse(&quantity.0));
    let amount = match (given, list) {
        (Some(amount), _) => amount,
        (None, "limits") if !resource.starts_with("hugepages-") => host.allocatable.get(resource).copied().unwrap_or_default(),
        (None, _) => Quantity::default(),
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0)).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or_else(|| Quantity::from_milli(1000));
    Ok(amount.divided_by(divisor).to_string())
}
