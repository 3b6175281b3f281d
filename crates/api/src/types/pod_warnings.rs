//! Warnings about pod specs, in Pods and templates: what is deprecated, ignored or surprising, in upstream's order.

use serde_json::{Map, Value};

use crate::names;
use crate::path::Path;
use crate::read::Read;
use crate::types::volume;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CRITICAL: &str = "scheduler.alpha.kubernetes.io/critical-pod";

/// Warnings about a template at a path such as `spec.template`.
pub fn of_template(template: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let metadata = path.field("metadata");
    let spec = path.field("spec");
    of_spec(template.map("spec"), template.map("metadata"), false, &spec, &metadata, out);
}

/// Warnings about a pod itself.
pub fn of_pod(pod: &crate::Object, out: &mut Vec<String>) {
    let metadata = Path::root("metadata");
    let empty = crate::read::empty();
    let meta = pod.metadata().unwrap_or(empty);
    for key in meta.map("annotations").keys().filter(|key| key.starts_with(APP_ARMOR)) {
        out.push(app_armor(key, &metadata));
    }
    if !pod.name().is_empty() && pod.map("spec").text("hostname").is_empty() && !names::is_dns_label(pod.name()) {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            names::label_errors(pod.name()).join(" ")
        ));
    }
    of_spec(pod.map("spec"), meta, true, &Path::root("spec"), &metadata, out);
}

/// A workload whose name becomes part of pod names.
pub fn of_workload_name(name: &str, out: &mut Vec<String>) {
    if !name.is_empty() && !names::is_dns_label(name) {
        out.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            names::label_errors(name).join(" ")
        ));
    }
}

fn app_armor(key: &str, metadata: &Path) -> String {
    let annotations = metadata.field("annotations");
    format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", annotations.key(key))
}

fn of_spec(spec: &Map<String, Value>, meta: &Map<String, Value>, pod: bool, path: &Path, metadata: &Path, out: &mut Vec<String>) {
    let (annotations, annotations_path) = (meta.map("annotations"), metadata.field("annotations"));
    let selector = path.field("nodeSelector");
    for key in spec.map("nodeSelector").keys() {
        if let Some(text) = deprecated_label(key) {
            out.push(format!("{}: {text}", selector.key(key)));
        }
    }
    of_affinity(spec, path, out);
    of_spread(spec, path, out);
    if annotations.contains_key(CRITICAL) {
        out.push(format!("{}: non-functional in v1.16+; use the \"priorityClassName\" field instead", annotations_path.key(CRITICAL)));
    }
    let list = path.field("volumes");
    for (index, one) in spec.maps("volumes").enumerate() {
        volume::warnings(one, &list.index(index), out);
    }
    of_lists(spec, path, out);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.field("terminationGracePeriodSeconds")
        ));
    }
    if annotations.contains_key(SECCOMP_POD) {
        out.push(format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", annotations_path.key(SECCOMP_POD)));
    }
    for field in ["initContainers", "containers"] {
        let list = path.field(field);
        for (index, container) in spec.maps(field).enumerate() {
            let key = format!("{SECCOMP_CONTAINER}{}", container.text("name"));
            if annotations.contains_key(&key) {
                out.push(format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", annotations_path.key(&key)));
            }
            let key = format!("{APP_ARMOR}{}", container.text("name"));
            if !pod && annotations.contains_key(&key) {
                out.push(app_armor(&key, metadata));
            }
            of_container(container, &list.index(index), out);
        }
    }
    of_ports(spec, path, out);
    of_pod_affinity(spec, path, out);
}

fn of_affinity(spec: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let node = spec.map("affinity").map("nodeAffinity");
    let affinity = path.field("affinity");
    let affinity = affinity.field("nodeAffinity");
    let required = affinity.field("requiredDuringSchedulingIgnoredDuringExecution");
    of_node_selector(node.map("requiredDuringSchedulingIgnoredDuringExecution"), &required, out);
    let list = affinity.field("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in node.maps("preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
        of_node_term(term.map("preference"), &list.index(index).field("preference"), out);
    }
}

/// Warnings about the labels that a `NodeSelector` asks for.
pub fn of_node_selector(selector: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let list = path.field("nodeSelectorTerms");
    for (index, term) in selector.maps("nodeSelectorTerms").enumerate() {
        of_node_term(term, &list.index(index), out);
    }
}

fn of_node_term(term: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let list = path.field("matchExpressions");
    for (index, expression) in term.maps("matchExpressions").enumerate() {
        let key = expression.text("key");
        if let Some(text) = deprecated_label(key) {
            out.push(format!("{}: {key} is {text}", list.index(index).field("key")));
        }
    }
}

fn of_spread(spec: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let list = path.field("topologySpreadConstraints");
    for (index, constraint) in spec.maps("topologySpreadConstraints").enumerate() {
        let (at, key) = (list.index(index), constraint.text("topologyKey"));
        if let Some(text) = deprecated_label(key) {
            out.push(format!("{}: {key} is {text}", at.field("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            out.push(format!("{}: a null labelSelector results in matching no pod", at.field("labelSelector")));
        }
    }
}

fn of_pod_affinity(spec: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let affinity = path.field("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = spec.map("affinity").map(kind);
        let at = affinity.field(kind);
        let list = at.field("requiredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in pods.maps("requiredDuringSchedulingIgnoredDuringExecution").enumerate() {
            null_selector(term, &list.index(index), out);
        }
        let list = at.field("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in pods.maps("preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
            null_selector(term.map("podAffinityTerm"), &list.index(index).field("podAffinityTerm"), out);
        }
    }
}

fn null_selector(term: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    if !term.has("labelSelector") {
        out.push(format!("{}: a null labelSelector results in matching no pod", path.field("labelSelector")));
    }
}

fn of_lists(spec: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let list = path.field("hostAliases");
    let mut seen: Vec<&str> = Vec::new();
    for (index, alias) in spec.maps("hostAliases").enumerate() {
        let ip = alias.text("ip");
        if seen.contains(&ip) {
            out.push(format!("{}: duplicate ip {ip:?}", list.index(index).field("ip")));
        }
        seen.push(ip);
    }
    let list = path.field("imagePullSecrets");
    let mut seen: Vec<&str> = Vec::new();
    for (index, secret) in spec.maps("imagePullSecrets").enumerate() {
        let name = secret.text("name");
        if name.is_empty() {
            out.push(format!("{}: invalid empty name {name:?}", list.index(index).field("name")));
        } else if seen.contains(&name) {
            out.push(format!("{}: duplicate name {name:?}", list.index(index).field("name")));
        }
        seen.push(name);
    }
}

fn of_container(container: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let resources = path.field("resources");
    for kind in ["limits", "requests"] {
        let amounts = resources.field(kind);
        for name in ["memory", "ephemeral-storage"] {
            fractional(container.map("resources").map(kind), name, &amounts.key(name), out);
        }
    }
    let env = path.field("env");
    let mut seen: Vec<&str> = Vec::new();
    for (index, variable) in container.maps("env").enumerate() {
        let name = variable.text("name");
        if seen.contains(&name) {
            out.push(format!("{}: hides previous definition of {name:?}, which may be dropped when using apply", env.index(index)));
        }
        seen.push(name);
    }
}

/// An amount of bytes that is no whole number.
pub fn fractional(amounts: &Map<String, Value>, name: &str, path: &Path, out: &mut Vec<String>) {
    if let Some(amount) = amounts.quantity(name).filter(|amount| !amount.is_whole()) {
        out.push(format!("{path}: fractional byte value {:?} is invalid, must be an integer", amount.to_string()));
    }
}

fn of_ports(spec: &Map<String, Value>, path: &Path, out: &mut Vec<String>) {
    let list = path.field("containers");
    let mut seen: Vec<((i64, &str, i64, &str), String)> = Vec::new();
    for (index, container) in spec.maps("containers").enumerate() {
        let at = list.index(index);
        let ports = at.field("ports");
        for (index, port) in container.maps("ports").enumerate() {
            let number = |field: &str| port.int(field).unwrap_or(0);
            let key = (number("containerPort"), port.text("protocol"), number("hostPort"), port.text("hostIP"));
            let here = ports.index(index).text();
            for (_, before) in seen.iter().filter(|(other, _)| *other == key) {
                out.push(format!("{here}: duplicate port definition with {before}"));
            }
            seen.push((key, here));
        }
    }
}

/// What to use instead of an old label of nodes.
pub fn deprecated_label(key: &str) -> Option<String> {
    let since = |version: &str, instead: &str| Some(format!("deprecated since {version}; use {instead:?} instead"));
    match key {
        "beta.kubernetes.io/arch" => since("v1.14", "kubernetes.io/arch"),
        "beta.kubernetes.io/os" => since("v1.14", "kubernetes.io/os"),
        "failure-domain.beta.kubernetes.io/region" => since("v1.17", "topology.kubernetes.io/region"),
        "failure-domain.beta.kubernetes.io/zone" => since("v1.17", "topology.kubernetes.io/zone"),
        "beta.kubernetes.io/instance-type" => since("v1.17", "node.kubernetes.io/instance-type"),
        _ => None,
    }
}
