//! A kubelet changes only its own node, the pods bound to it, its lease and its volumes' objects.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Labels under `kubernetes.io` and `k8s.io` that a kubelet may set on its node.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(NodeRestriction)
}

struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let Some(node) = admission.user.node_name().map(str::to_owned) else { return Ok(()) };
        let (group, plural) = (admission.served.def.group.to_string(), admission.served.def.plural.to_string());
        match (group.as_str(), plural.as_str(), admission.subresource.as_str()) {
            ("", "pods", "") => pod(server, admission, &node),
            ("", "pods", "status") => pod_status(admission, &node),
            ("", "pods", "eviction") => eviction(server, admission, &node),
            ("", "pods", _) => Err(admission.forbidden(&format!(
                "unexpected pod subresource {:?}, only \"status\" and \"eviction\" are allowed",
                admission.subresource
            ))),
            ("", "nodes", _) => own_node(admission, &node),
            ("", "serviceaccounts", "token") => token(server, admission, &node),
            ("coordination.k8s.io", "leases", _) => lease(admission, &node),
            ("storage.k8s.io", "csinodes", _) if admission.name != node => {
                Err(admission.forbidden("can only access CSINode with the same name as the requesting node"))
            }
            _ => Ok(()),
        }
    }
}

fn pod(server: &Server, admission: &Admission, node: &str) -> Result<(), Status> {
    match admission.operation {
        Operation::Create => {
            let Some(pod) = &admission.object else { return Ok(()) };
            if pod.annotation(MIRROR).is_none() {
                return Err(
                    admission.forbidden(&format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"))
                );
            }
            if pod.text_at(&["spec", "nodeName"]) != node {
                return Err(admission.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself")));
            }
            mirror_owner(server, admission, pod, node)?;
            uses_nothing(admission, pod)
        }
        Operation::Delete => match &admission.old {
            Some(pod) if pod.text_at(&["spec", "nodeName"]) != node => {
                Err(admission.forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
            }
            _ => Ok(()),
        },
        _ => Err(admission.forbidden(&format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            admission.operation.text()
        ))),
    }
}

/// A mirror is owned by its node.
fn mirror_owner(server: &Server, admission: &Admission, pod: &Object, node: &str) -> Result<(), Status> {
    let owners = pod.at(&["metadata", "ownerReferences"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let [owner] = owners.as_slice() else {
        return if owners.is_empty() {
            Err(admission.forbidden(&format!("node {node:?} can only create pods with an owner reference set to itself")))
        } else {
            Err(admission.forbidden(&format!("node {node:?} can only create pods with a single owner reference set to itself")))
        };
    };
    let key = Kind::new(api::resources::storage_prefix("", "nodes", false)).key(node);
    let uid = server.store.mvcc().get(&key).value.map(|entry| entry.header.uid.to_string());
    let own = owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true && owner["blockOwnerDeletion"] != true;
    if own && uid.as_deref() == owner["uid"].as_str() {
        return Ok(());
    }
    Err(admission.forbidden(&format!("node {node:?} can only create pods with an owner reference set to itself")))
}

/// A mirror may not give the node access to objects.
fn uses_nothing(admission: &Admission, pod: &Object) -> Result<(), Status> {
    if !pod.text_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(admission.forbidden("node can not create pods that reference a service account"));
    }
    let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        for (field, what) in [("secret", "secrets"), ("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims")] {
            if volume[field].is_object() {
                return Err(admission.forbidden(&format!("node can not create pods that reference {what}")));
            }
        }
    }
    Ok(())
}

fn pod_status(admission: &Admission, node: &str) -> Result<(), Status> {
    let bound = admission.old.as_ref().is_none_or(|pod| pod.text_at(&["spec", "nodeName"]) == node);
    if !bound {
        return Err(admission.forbidden(&format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")));
    }
    let labels = |object: Option<&Object>| object.and_then(|object| object.at(&["metadata", "labels"]).cloned());
    if labels(admission.object.as_ref()) != labels(admission.old.as_deref()) {
        return Err(admission.forbidden(&format!("node {node:?} cannot update labels through pod status")));
    }
    Ok(())
}

fn eviction(server: &Server, admission: &Admission, node: &str) -> Result<(), Status> {
    let key = Kind::new(api::resources::storage_prefix("", "pods", false)).key(format!("{}/{}", admission.namespace, admission.name));
    match server.store.mvcc().get(&key).value {
        Some(entry) if entry.header.field("spec.nodeName") != node => {
            Err(admission.forbidden(&format!("node {node:?} can only evict pods with spec.nodeName set to itself")))
        }
        _ => Ok(()),
    }
}

fn own_node(admission: &Admission, node: &str) -> Result<(), Status> {
    let name = if admission.name.is_empty() { admission.object.as_ref().map_or("", Object::name) } else { &admission.name };
    if name != node {
        return Err(admission.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let (Some(new), operation) = (&admission.object, admission.operation) else { return Ok(()) };
    let get = |object: Option<&Object>, key: &str| object.and_then(|object| object.label(key)).map(str::to_owned);
    let old = admission.old.as_deref();
    let keys: std::collections::BTreeSet<&str> = new.labels().chain(old.into_iter().flat_map(Object::labels)).map(|(key, _)| key).collect();
    let changed = keys.into_iter().filter(|key| get(Some(new), key) != get(old, key));
    let refused: Vec<&str> = changed.filter(|key| is_restricted(key)).collect();
    if !refused.is_empty() && matches!(operation, Operation::Create | Operation::Update) {
        let verb = if operation == Operation::Create { "set" } else { "modify" };
        return Err(admission.forbidden(&format!("is not allowed to {verb} the following labels: {}", refused.join(", "))));
    }
    let taints = |object: &Object| object.at(&["spec", "taints"]).cloned().unwrap_or(Value::Null);
    if operation == Operation::Update && old.is_some_and(|old| taints(old) != taints(new)) {
        return Err(admission.forbidden(&format!("node {node:?} is not allowed to modify taints")));
    }
    if operation == Operation::Update
        && old.is_some_and(|old| old.at(&["metadata", "ownerReferences"]) != new.at(&["metadata", "ownerReferences"]))
    {
        return Err(admission.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
    }
    Ok(())
}

fn is_restricted(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    if domain == "node-restriction.kubernetes.io" || domain.ends_with(".node-restriction.kubernetes.io") {
        return true;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return false;
    }
    let kubelet = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    !OWN_LABELS.contains(&label) && !kubelet
}

fn token(server: &Server, admission: &Admission, node: &str) -> Result<(), Status> {
    let Some(request) = &admission.object else { return Ok(()) };
    let text = |field: &str| request.text_at(&["spec", "boundObjectRef", field]);
    if text("kind") != "Pod" || text("name").is_empty() {
        return Err(admission.forbidden("node requested token not bound to a pod"));
    }
    if text("uid").is_empty() {
        return Err(admission.forbidden("node requested token with a pod binding without a uid"));
    }
    let key = Kind::new(api::resources::storage_prefix("", "pods", false)).key(format!("{}/{}", admission.namespace, text("name")));
    let entry = server.store.mvcc().get(&key).value;
    match entry {
        Some(entry) if *entry.header.uid != *text("uid") => {
            Err(admission.forbidden("the UID in the bound object reference does not match the UID in record"))
        }
        Some(entry) if entry.header.field("spec.nodeName") == node => Ok(()),
        _ => Err(admission.forbidden("node requested token bound to a pod scheduled on a different node")),
    }
}

fn lease(admission: &Admission, node: &str) -> Result<(), Status> {
    if admission.namespace != "kube-node-lease" {
        return Err(admission.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    let name = if admission.name.is_empty() { admission.object.as_ref().map_or("", Object::name) } else { &admission.name };
    if name == node { Ok(()) } else { Err(admission.forbidden("can only access node lease with the same name as the requesting node")) }
}
