//! Measures decisions in memory: how long one pod takes on many nodes, by what the pod asks for.
//!
//! `cargo run --release -p scheduler --example decisions -- [nodes] [pods]`

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use scheduler::follow::{Change, Kind};
use scheduler::picture::{Outcome, Picture};
use serde_json::{Value, json};
use store::{Entry, Revision};

fn entry(prefix: &str, object: &Value) -> Arc<Entry> {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().expect("objects have names");
    let rest = meta["namespace"].as_str().map_or(name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let key = store::Kind::new(prefix).key(rest.as_str());
    let (bytes, header) = client::header::stamp()(&key, Bytes::from(object.to_string()), Revision(1)).expect("objects are well-formed");
    Arc::new(Entry::new(key, Revision(1), Revision(1), bytes, header))
}

fn node(number: usize) -> Value {
    let name = format!("node-{number}");
    json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "spec": {}, "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"}},
    })
}

fn pod(number: usize, group: usize, extra: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "default", "uid": format!("uid-{number}"), "generation": 1, "labels": {"app": format!("app-{group}")}},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "image", "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]},
        "status": {"phase": "Pending"},
    });
    pod["spec"].as_object_mut().expect("a spec is an object").extend(extra.as_object().cloned().unwrap_or_default());
    pod
}

fn term(kind: &str, topology: &str, label: &str) -> Value {
    let term = json!({"topologyKey": topology, "labelSelector": {"matchLabels": {"app": label}}});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (nodes, pods) = (arguments.next().unwrap_or(1000), arguments.next().unwrap_or(5000));
    let (zone, host) = ("topology.kubernetes.io/zone", "kubernetes.io/hostname");
    type Make = Box<dyn Fn(usize) -> (usize, Value)>;
    let cases: Vec<(&str, Make)> = vec![
        ("plain", Box::new(|_| (0, Value::Null))),
        (
            "anti-affinity by host, one group a node",
            Box::new(move |number| {
                (number % (pods / nodes + 1), term("podAntiAffinity", host, &format!("app-{}", number % (pods / nodes + 1))))
            }),
        ),
        ("affinity by zone", Box::new(move |_| (0, term("podAffinity", zone, "app-0")))),
        (
            "spread by zone and host",
            Box::new(move |_| {
                let constraint = |key: &str| json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "app-0"}}});
                (0, json!({"topologySpreadConstraints": [constraint(zone), constraint(host)]}))
            }),
        ),
        (
            "preferred anti-affinity by host",
            Box::new(move |_| {
                let term =
                    json!({"weight": 1, "podAffinityTerm": {"topologyKey": host, "labelSelector": {"matchLabels": {"app": "app-0"}}}});
                (0, json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}))
            }),
        ),
    ];
    for (name, make) in cases {
        let mut picture = Picture::new("default-scheduler");
        for number in 0..nodes {
            picture.follow(&Change { kind: Kind::Node, old: None, new: Some(entry("/registry/minions/", &node(number))) });
        }
        let entries: Vec<Arc<Entry>> = (0..pods)
            .map(|number| {
                let (group, extra) = make(number);
                entry("/registry/pods/", &pod(number, group, &extra))
            })
            .collect();
        let start = Instant::now();
        for entry in entries {
            picture.follow(&Change { kind: Kind::Pod, old: None, new: Some(entry) });
        }
        let read = start.elapsed() / pods as u32;
        let start = Instant::now();
        let mut placed = 0;
        while let Some(pod) = picture.next(start) {
            placed += usize::from(matches!(picture.decide(pod, Vec::new), Outcome::Placed(_)));
        }
        println!(
            "{name}: {placed} of {pods} placed on {nodes} nodes, {:?} to read a pod, {:?} to decide",
            read,
            start.elapsed() / pods as u32
        );
    }
}
