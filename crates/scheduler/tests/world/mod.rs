//! A picture fed from text: one object a line, read through the same entries as in a cluster.
//!
//! ```text
//! node a cpu=2 memory=4Gi pods=10 zone=z1 taint=key=value:NoSchedule cordoned
//! pod p cpu=1 on=a priority=5 app=web anti=kubernetes.io/hostname {"hostNetwork": true}
//! ```
//! Words that are not known are labels; JSON at the end is merged into the spec (of nodes: into the object).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use scheduler::cluster::PodIndex;
use scheduler::follow::{Change, Kind};
use scheduler::picture::{Outcome, Picture};
use scheduler::preempt::Budget;
use serde_json::{Value, json};
use store::{Entry, Revision};

/// A picture and the objects that it was made from.
pub struct World {
    pub picture: Picture,
    entries: HashMap<String, Arc<Entry>>,
    revision: u64,
    pub budgets: Vec<Budget>,
}

impl World {
    pub fn new() -> World {
        World { picture: Picture::new("default-scheduler"), entries: HashMap::new(), revision: 0, budgets: Vec::new() }
    }

    /// Adds or replaces an object.
    pub fn put(&mut self, kind: Kind, object: &Value) {
        self.revision += 1;
        let prefix = match kind {
            Kind::Pod => "/registry/pods/",
            Kind::Node => "/registry/minions/",
            Kind::Namespace => "/registry/namespaces/",
            Kind::Claim => "/registry/persistentvolumeclaims/",
            Kind::Volume => "/registry/persistentvolumes/",
            Kind::Class => "/registry/storageclasses/",
            Kind::Driver => "/registry/csidrivers/",
            Kind::DriverNode => "/registry/csinodes/",
            Kind::Room => "/registry/csistoragecapacities/",
        };
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap();
        let rest = meta["namespace"].as_str().map_or(name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let key = store::Kind::new(prefix).key(rest.as_str());
        let (bytes, header) = client::header::stamp()(&key, Bytes::from(object.to_string()), Revision(self.revision)).unwrap();
        let entry = Arc::new(Entry::new(key, Revision(self.revision), Revision(1), bytes, header));
        let old = self.entries.insert(format!("{kind:?} {rest}"), entry.clone());
        self.picture.follow(&Change { kind, old, new: Some(entry) });
    }

    /// Removes an object; pods are in the namespace `ns`.
    #[allow(dead_code, reason = "not every test removes something")]
    pub fn delete(&mut self, kind: Kind, name: &str) {
        let old = self.entries.remove(&format!("{kind:?} {name}"));
        assert!(old.is_some(), "{name} is there");
        self.picture.follow(&Change { kind, old, new: None });
    }

    /// Reads one line.
    pub fn line(&mut self, line: &str) {
        let (words, extra) = line
            .split_once('{')
            .map_or((line, Value::Null), |(words, rest)| (words, serde_json::from_str(&format!("{{{rest}")).expect(line)));
        let words: Vec<&str> = words.split_whitespace().collect();
        let kind = match words[0] {
            "node" => return self.put(Kind::Node, &node(words[1], &words[2..], extra)),
            "pod" => return self.put(Kind::Pod, &pod(words[1], &words[2..], extra)),
            "namespace" => Kind::Namespace,
            "claim" => Kind::Claim,
            "volume" => Kind::Volume,
            "class" => Kind::Class,
            "driver" => Kind::Driver,
            "driver-node" => Kind::DriverNode,
            "room" => Kind::Room,
            other => panic!("{other} is no kind"),
        };
        let mut object = json!({"metadata": {"name": words[1], "uid": words[1], "labels": labels(&words[2..])}});
        if kind == Kind::Claim {
            object["metadata"]["namespace"] = "ns".into();
        }
        merge(&mut object, extra);
        self.put(kind, &object);
    }

    /// Decides about all pods that are due: `p -> a` or `p: why` a line, victims behind `!`.
    pub fn decide(&mut self) -> String {
        let mut lines = Vec::new();
        while let Some(pod) = self.picture.next(Instant::now()) {
            lines.push(self.decide_one(pod));
        }
        lines.join("\n")
    }

    pub fn decide_one(&mut self, pod: PodIndex) -> String {
        let name = self.picture.cluster.pod(pod).names().1.to_owned();
        let budgets = self.budgets.clone();
        match self.picture.decide(pod, || budgets) {
            Outcome::Placed(node) => format!("{name} -> {}", self.picture.cluster.nodes.name(node)),
            Outcome::Refused { message, candidate: None } => format!("{name}: {message}"),
            Outcome::Refused { message, candidate: Some(candidate) } => {
                let (node, _) = self.picture.reserve(pod, &candidate);
                let victims: Vec<&str> = candidate.victims.iter().map(|victim| self.picture.cluster.pod(*victim).names().1).collect();
                format!("{name}: {message} {node} ! {}", victims.join(" "))
            }
        }
    }
}

fn labels(words: &[&str]) -> Value {
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A node of a line.
pub fn node(name: &str, words: &[&str], extra: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    for word in words {
        match word.split_once('=') {
            Some((resource @ ("cpu" | "memory" | "pods" | "ephemeral-storage" | "example.com/gpu"), amount)) => {
                node["status"]["allocatable"][resource] = amount.into()
            }
            Some(("taint", taint)) => {
                let (pair, effect) = taint.split_once(':').unwrap();
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let taints = &mut node["spec"]["taints"];
                if taints.is_null() {
                    *taints = json!([]);
                }
                taints.as_array_mut().unwrap().push(json!({"key": key, "value": value, "effect": effect}));
            }
            Some((key, value)) => node["metadata"]["labels"][key] = value.into(),
            None => node["spec"]["unschedulable"] = (*word == "cordoned").into(),
        }
    }
    merge(&mut node, extra);
    node
}

/// A pod of a line.
pub fn pod(name: &str, words: &[&str], extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "generation": 1, "labels": {}},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i", "resources": {"requests": {}}}]}, "status": {"phase": "Pending"},
    });
    let mut topology = "kubernetes.io/hostname".to_owned();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "cpu" | "memory" | "ephemeral-storage" | "example.com/gpu" => {
                pod["spec"]["containers"][0]["resources"]["requests"][key] = value.into()
            }
            "on" => pod["spec"]["nodeName"] = value.into(),
            "in" => pod["metadata"]["namespace"] = value.into(),
            "priority" => pod["spec"]["priority"] = value.parse::<i32>().unwrap().into(),
            "start" => pod["status"]["startTime"] = value.into(),
            "phase" => pod["status"]["phase"] = value.into(),
            "going" => pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            "gated" => pod["spec"]["schedulingGates"] = json!([{"name": "g"}]),
            "port" => pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": value.parse::<i32>().unwrap()}]),
            "by" => topology = value.to_owned(),
            "near" | "apart" => {
                let (label, text) = value.split_once(':').unwrap();
                let term = json!({"topologyKey": topology, "labelSelector": {"matchLabels": {label: text}}});
                let field = if key == "near" { "podAffinity" } else { "podAntiAffinity" };
                pod["spec"]["affinity"][field]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([term]);
            }
            "spread" => {
                let (label, text) = value.split_once(':').unwrap();
                pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": topology, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {label: text}}}]);
            }
            "claim" => pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": value}}]),
            "tolerate" => pod["spec"]["tolerations"] = json!([{"key": value, "operator": "Exists"}]),
            "select" => {
                let (label, text) = value.split_once(':').unwrap();
                pod["spec"]["nodeSelector"][label] = text.into();
            }
            _ => pod["metadata"]["labels"][key] = value.into(),
        }
    }
    merge(&mut pod["spec"], extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value))
        }
        (into, from) => *into = from,
    }
}
