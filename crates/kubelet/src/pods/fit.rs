//! Whether a pod still fits on the node beside those admitted before it. The scheduler asks the same, but a pod may be
//! bound without it, and two schedulers may not know of each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::Quantity;
use client::node_fit;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};

use super::huge_pages;
use super::limits;
use super::statics::is_static;

/// What the node has for pods, by resource.
pub type Allocatable = BTreeMap<String, Quantity>;

/// Why the pod does not fit: reason and message.
pub fn refuse(pod: &Pod, node: Option<&Node>, allocatable: &Allocatable, others: &[Arc<Pod>]) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    let none = short_of(spec, allocatable, others);
    let others: Vec<&PodSpec> = others.iter().filter_map(|other| other.spec.as_ref()).collect();
    none.or_else(|| misplaced(spec, node?))
        .or_else(|| ports_in_use(spec, &others))
        .or_else(|| (!is_static(pod)).then(|| tainted(spec, node?)).flatten())
}

/// Of what there is too little: reason and message.
pub fn short_of(spec: &PodSpec, allocatable: &Allocatable, others: &[Arc<Pod>]) -> Option<(String, String)> {
    let whole = |resource: &str, quantity: &Quantity| if resource == "cpu" { quantity.milli() } else { quantity.value() };
    // Pages of a size that the node does not know are pages that it has none of.
    let unknown = huge_pages::resources(spec).into_iter().filter(|name| !allocatable.contains_key(name));
    let unknown: Allocatable = unknown.map(|name| (name, Quantity::default())).collect();
    for (resource, quantity) in allocatable.iter().chain(&unknown) {
        let amount = |spec: &PodSpec| if resource == "pods" { 1 } else { limits::requested(spec, resource) };
        let (wanted, all) = (amount(spec), whole(resource, quantity));
        let used: i64 = others.iter().filter_map(|other| other.spec.as_ref()).map(amount).sum();
        if wanted > 0 && used + wanted > all {
            let message = format!("Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {all}");
            return Some((format!("OutOf{resource}"), message));
        }
    }
    None
}

fn failed(predicate: &str, why: &str) -> (String, String) {
    (predicate.to_owned(), format!("Predicate {predicate} failed: {why}"))
}

fn misplaced(spec: &PodSpec, node: &Node) -> Option<(String, String)> {
    (!node_fit::selects(spec, node)).then(|| failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
}

/// Only `NoExecute` counts: whoever bound the pod may overrule `NoSchedule`.
fn tainted(spec: &PodSpec, node: &Node) -> Option<(String, String)> {
    (!node_fit::tolerates(spec, node, &["NoExecute"])).then(|| failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn ports_in_use(spec: &PodSpec, others: &[&PodSpec]) -> Option<(String, String)> {
    let wanted = host_ports(spec);
    let taken = |port: &HostPort| others.iter().flat_map(|other| host_ports(other)).any(|other| other.conflicts(port));
    wanted.iter().any(taken).then(|| failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

struct HostPort {
    /// None for every address.
    ip: Option<IpAddr>,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.ip.is_none() || other.ip.is_none() || self.ip == other.ip;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let given = ports.filter(|port| port.host_port.is_some_and(|number| number > 0));
    given
        .map(|port| HostPort {
            ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: port.host_port.unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Arc<Pod> {
        let mut spec = spec;
        spec["containers"] = spec.get("containers").cloned().unwrap_or(json!([{}]));
        spec["containers"][0]["name"] = json!("c");
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
    }

    fn check(spec: Value, others: &[Value], wanted: Option<&str>) {
        let node = json!({"metadata": {"name": "n", "labels": {"zone": "a"}}, "spec": {"taints": [{"key": "t", "effect": "NoExecute"}]}});
        let node: Node = serde_json::from_value(node).unwrap();
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3"), ("example.com/gpu", "1"), ("hugepages-2Mi", "8Mi")];
        let allocatable = allocatable.map(|(name, amount)| (name.to_owned(), Quantity::parse(amount).unwrap())).into();
        let mut spec = spec;
        spec["tolerations"] = spec.get("tolerations").cloned().unwrap_or(json!([{"operator": "Exists"}]));
        let others: Vec<Arc<Pod>> = others.iter().cloned().map(pod).collect();
        let refused = refuse(&pod(spec.clone()), Some(&node), &allocatable, &others);
        assert_eq!(refused.as_ref().map(|(reason, _)| reason.as_str()), wanted, "{spec}: {refused:?}");
    }

    fn requests(resources: Value) -> Value {
        json!({"containers": [{"resources": {"requests": resources}}]})
    }

    fn port(port: Value) -> Value {
        json!({"containers": [{"ports": [port]}]})
    }

    #[test]
    fn resources() {
        check(requests(json!({"cpu": "2"})), &[], None);
        check(requests(json!({"cpu": "2"})), &[requests(json!({"cpu": "1m"}))], Some("OutOfcpu"));
        check(requests(json!({"memory": "2Gi"})), &[], Some("OutOfmemory"));
        check(requests(json!({"example.com/gpu": "1"})), &[requests(json!({"example.com/gpu": "1"}))], Some("OutOfexample.com/gpu"));
        check(requests(json!({"example.com/other": "1"})), &[], None);
        check(requests(json!({"hugepages-2Mi": "4Mi"})), &[requests(json!({"hugepages-2Mi": "4Mi"}))], None);
        check(requests(json!({"hugepages-2Mi": "6Mi"})), &[requests(json!({"hugepages-2Mi": "4Mi"}))], Some("OutOfhugepages-2Mi"));
        check(requests(json!({"hugepages-1Gi": "1Gi"})), &[], Some("OutOfhugepages-1Gi"));
        check(json!({"resources": {"requests": {"cpu": "3"}}}), &[], Some("OutOfcpu"));
        let small = requests(json!({}));
        check(small.clone(), &[small.clone(), small.clone()], None);
        check(small.clone(), &[small.clone(), small.clone(), small], Some("OutOfpods"));
    }

    #[test]
    fn ports() {
        let one = port(json!({"hostPort": 80, "containerPort": 80}));
        check(one.clone(), &[], None);
        check(one.clone(), &[one.clone()], Some("NodePorts"));
        check(port(json!({"containerPort": 80})), &[one.clone()], None);
        check(port(json!({"hostPort": 80, "containerPort": 80, "protocol": "UDP"})), &[one.clone()], None);
        let local = |ip: &str| port(json!({"hostPort": 80, "containerPort": 80, "hostIP": ip}));
        check(local("127.0.0.1"), &[one], Some("NodePorts"));
        check(local("127.0.0.1"), &[local("127.0.0.2")], None);
    }

    #[test]
    fn places() {
        check(json!({"nodeSelector": {"zone": "b"}}), &[], Some("NodeAffinity"));
        check(json!({"nodeSelector": {"zone": "a"}}), &[], None);
        check(json!({"tolerations": []}), &[], Some("TaintToleration"));
    }
}
