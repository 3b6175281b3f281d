//! What a kubelet may do: what the role `system:node` says, but secrets, config maps, claims and service accounts
//! only where a pod on that node uses them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use store::{Entry, Kind, Store};

use super::Verdict;
use crate::attributes::Attributes;
use crate::follow::{Follow, Projection};
use crate::server::Server;

/// Which objects the pods of each node use.
#[derive(Default)]
pub struct NodeGraph {
    /// By key of the pod.
    pods: HashMap<Box<str>, Used>,
    /// By node: how many of its pods use each object.
    nodes: HashMap<Box<str>, HashMap<Object, usize>>,
}

struct Used {
    node: Box<str>,
    objects: HashSet<Object>,
}

/// Kind, namespace and name.
type Object = (&'static str, Box<str>, Box<str>);

impl NodeGraph {
    /// A view of the pods in a store.
    pub fn follow(store: Arc<dyn Store>) -> Follow<NodeGraph> {
        Follow::new(store, vec![Kind::new("/registry/pods/")], NodeGraph::default())
    }

    /// Whether a pod on the node uses an object.
    pub fn uses(&self, node: &str, kind: &'static str, namespace: &str, name: &str) -> bool {
        self.nodes.get(node).is_some_and(|objects| objects.contains_key(&(kind, namespace.into(), name.into())))
    }

    fn forget(&mut self, key: &str) {
        let Some(used) = self.pods.remove(key) else { return };
        if let Some(objects) = self.nodes.get_mut(&used.node) {
            for object in &used.objects {
                if let Some(count) = objects.get_mut(object) {
                    *count -= 1;
                    if *count == 0 {
                        objects.remove(object);
                    }
                }
            }
            if objects.is_empty() {
                self.nodes.remove(&used.node);
            }
        }
    }
}

impl Projection for NodeGraph {
    fn clear(&mut self) {
        *self = NodeGraph::default();
    }

    fn put(&mut self, entry: &Arc<Entry>, previous: Option<&Arc<Entry>>) {
        let node = entry.header.field("spec.nodeName");
        if node.is_empty() {
            return;
        }
        // What a pod uses does not change but for ephemeral containers, which use nothing new.
        let known =
            previous.is_some_and(|previous| previous.header.field("spec.nodeName") == node && previous.header.uid == entry.header.uid);
        if known && self.pods.contains_key(&*entry.key.rest) {
            return;
        }
        self.forget(&entry.key.rest);
        let Ok(pod) = serde_json::from_slice::<Value>(&entry.bytes) else { return };
        let objects = used_by(&pod, &entry.header.namespace);
        let counts = self.nodes.entry(node.into()).or_default();
        for object in &objects {
            *counts.entry(object.clone()).or_default() += 1;
        }
        self.pods.insert((*entry.key.rest).into(), Used { node: node.into(), objects });
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        self.forget(&entry.key.rest);
    }
}

fn used_by(pod: &Value, namespace: &str) -> HashSet<Object> {
    let mut all = HashSet::new();
    let mut add = |kind: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            all.insert((kind, namespace.into(), name.into()));
        }
    };
    let spec = &pod["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    add("serviceaccounts", &spec["serviceAccountName"]);
    for secret in list(&spec["imagePullSecrets"]) {
        add("secrets", &secret["name"]);
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[field]) {
            for variable in list(&container["env"]) {
                add("secrets", &variable["valueFrom"]["secretKeyRef"]["name"]);
                add("configmaps", &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
            for source in list(&container["envFrom"]) {
                add("secrets", &source["secretRef"]["name"]);
                add("configmaps", &source["configMapRef"]["name"]);
            }
        }
    }
    for volume in list(&spec["volumes"]) {
        add("secrets", &volume["secret"]["secretName"]);
        add("configmaps", &volume["configMap"]["name"]);
        add("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            let name = format!("{}-{}", pod["metadata"]["name"].as_str().unwrap_or(""), volume["name"].as_str().unwrap_or(""));
            add("persistentvolumeclaims", &Value::from(name));
        }
        for source in list(&volume["projected"]["sources"]) {
            add("secrets", &source["secret"]["name"]);
            add("configmaps", &source["configMap"]["name"]);
        }
        for (driver, value) in volume.as_object().into_iter().flatten() {
            if !matches!(driver.as_str(), "secret" | "configMap" | "projected") {
                add("secrets", &value["secretRef"]["name"]);
                add("secrets", &value["nodePublishSecretRef"]["name"]);
            }
        }
    }
    for status in list(&pod["status"]["resourceClaimStatuses"]) {
        add("resourceclaims", &status["resourceClaimName"]);
    }
    for claim in list(&spec["resourceClaims"]) {
        add("resourceclaims", &claim["resourceClaimName"]);
    }
    all
}

/// Whether a node may do something.
pub fn authorize(server: &Server, node: &str, asked: &Attributes) -> Verdict {
    let read = matches!(asked.verb, "get" | "list" | "watch");
    match (asked.group.as_str(), asked.resource.as_str(), asked.subresource.as_str()) {
        ("", "secrets", "") if asked.verb == "get" && secret_of_volume(server, node, asked) => Verdict::yes(""),
        ("", "secrets", _) => by_graph(server, node, "secrets", asked, read),
        ("", "configmaps", _) => by_graph(server, node, "configmaps", asked, read),
        ("resource.k8s.io", "resourceclaims", _) => by_graph(server, node, "resourceclaims", asked, read),
        ("", "persistentvolumeclaims", "") => by_graph(server, node, "persistentvolumeclaims", asked, read),
        ("", "persistentvolumeclaims", "status") => {
            by_graph(server, node, "persistentvolumeclaims", asked, matches!(asked.verb, "get" | "update" | "patch"))
        }
        ("", "persistentvolumes", "") => match asked.verb {
            "get" => volume(server, node, &asked.name),
            _ => Verdict::no("only reads of single persistent volumes are allowed for nodes"),
        },
        ("", "serviceaccounts", "token") => by_graph(server, node, "serviceaccounts", asked, asked.verb == "create"),
        ("", "serviceaccounts", "") => by_graph(server, node, "serviceaccounts", asked, asked.verb == "get"),
        ("coordination.k8s.io", "leases", _) => own(node, asked, asked.namespace == "kube-node-lease" || asked.namespace.is_empty()),
        ("storage.k8s.io", "csinodes", _) => own(node, asked, true),
        _ => by_role(server, asked),
    }
}

fn by_graph(server: &Server, node: &str, kind: &'static str, asked: &Attributes, verb: bool) -> Verdict {
    if !verb {
        return Verdict::no(format!("node {node:?} may not {} {kind}", asked.verb));
    }
    if asked.name.is_empty() {
        return Verdict::no(format!("node {node:?} may only read single {kind}"));
    }
    if server.nodes.read().uses(node, kind, &asked.namespace, &asked.name) {
        return Verdict::yes("");
    }
    Verdict::no(format!("no relationship found between node '{node}' and this object"))
}

/// A volume is bound to a claim that a pod of the node uses.
fn volume(server: &Server, node: &str, name: &str) -> Verdict {
    let entry = server.store.mvcc().get(&Kind::new("/registry/persistentvolumes/").key(name)).value;
    let volume: Value = entry.and_then(|entry| serde_json::from_slice(&entry.bytes).ok()).unwrap_or_default();
    if is_claimed(server, node, &volume) {
        return Verdict::yes("");
    }
    Verdict::no(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod of the node uses the claim that has the volume.
fn is_claimed(server: &Server, node: &str, volume: &Value) -> bool {
    let claim = &volume["spec"]["claimRef"];
    let (namespace, name) = (claim["namespace"].as_str().unwrap_or(""), claim["name"].as_str().unwrap_or(""));
    !name.is_empty() && server.nodes.read().uses(node, "persistentvolumeclaims", namespace, name)
}

/// Fields of a volume that name secrets for its driver.
const SECRETS_OF_VOLUMES: &[&str] =
    &["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef", "controllerPublishSecretRef", "controllerExpandSecretRef"];

/// A secret that a volume driver is told, of a volume that the node may read.
fn secret_of_volume(server: &Server, node: &str, asked: &Attributes) -> bool {
    if server.nodes.read().uses(node, "secrets", &asked.namespace, &asked.name) {
        return true;
    }
    let volumes = server.store.mvcc().snapshot(&Kind::new("/registry/persistentvolumes/"));
    // A volume is read only if its text has the secret's name: a node may ask for one after another that is none of its own.
    let names_it = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| text.contains(&*asked.name));
    volumes.iter().filter(|entry| names_it(&entry.bytes)).any(|entry| {
        let volume: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
        let names = |field: &&str| {
            let reference = &volume["spec"]["csi"][*field];
            reference["namespace"] == *asked.namespace && reference["name"] == *asked.name
        };
        SECRETS_OF_VOLUMES.iter().any(names) && is_claimed(server, node, &volume)
    })
}

fn own(node: &str, asked: &Attributes, place: bool) -> Verdict {
    let named = asked.name == node || (asked.verb == "create" && asked.name.is_empty());
    let verb = matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete");
    if place && named && verb { Verdict::yes("") } else { Verdict::no(format!("can only access the object of node {node:?} itself")) }
}

fn by_role(server: &Server, asked: &Attributes) -> Verdict {
    let rules = server.rbac.read().role("", "system:node");
    if rules.is_some_and(|rules| rules.iter().any(|rule| rule.covers(asked))) { Verdict::yes("") } else { Verdict::no("") }
}
