//! Nodes that are only objects, kept Ready from here, and pods that a scheduler binds to them. Both sides meet the same
//! nodes and the same heartbeats.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Change, Client, PatchKind, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};
use store::Entry;

use crate::api::each;
use crate::pods::{LONGEST, object, served};
use crate::{Load, Measured};

const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const LEASES: ResourceId = ResourceId::new("coordination.k8s.io", "v1", "leases");
const NAMESPACE: &str = "default";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Nodes fall after 50 seconds of silence on both sides.
const HEARTBEAT: Duration = Duration::from_secs(20);

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

fn node(number: usize) -> Value {
    let (name, now) = (format!("fake-{number}"), format!("{:.0}", jiff::Timestamp::now()));
    let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Fake", "message": "kept by load", "lastHeartbeatTime": now, "lastTransitionTime": now});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"made-by": "load", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "status": {"capacity": resources, "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": format!("198.51.{}.{}", number / 250 % 250, number % 250 + 1)}, {"type": "Hostname", "address": name}],
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False")]}})
}

/// Creates `COUNT` nodes and waits until pods may be bound to all of them.
///
/// # Errors
/// A refusal, or nodes that stay tainted.
pub async fn nodes(load: &Load) -> Result<Measured> {
    let client = load.client()?;
    served(&client).await?;
    let measured = each(load, |client, number| async move {
        client.call(Method::POST, &NODES.collection_path(""), &node(number)).await?;
        let name = format!("fake-{number}");
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()}});
        client.call(Method::POST, &LEASES.collection_path(LEASE_NAMESPACE), &lease).await?;
        Ok(())
    })
    .await?;
    schedulable(&client).await?;
    Ok(measured)
}

/// Waits until all nodes are Ready and without taints; tells their names.
async fn schedulable(client: &Client) -> Result<Vec<String>> {
    let mut watch = client.list_watch(Selection::all(NODES).with_labels("made-by=load")).await?;
    let (mut waiting, mut names) = (HashMap::new(), Vec::new());
    for entry in &watch.initial {
        names.push(entry.header.name.to_string());
        if let Some(why) = obstacle(entry) {
            waiting.insert(entry.header.name.to_string(), why);
        }
    }
    let begin = Instant::now();
    while let Some((name, why)) = waiting.iter().next() {
        let next = tokio::time::timeout(LONGEST.saturating_sub(begin.elapsed()), watch.changes.next()).await;
        let Ok(change) = next else {
            bail!("no pod may go to {} of {} nodes; {name}: {why}", waiting.len(), names.len());
        };
        if let Change::Put(entry) = change.context("the watch ended")?? {
            let name = entry.header.name.to_string();
            match obstacle(&entry) {
                Some(why) => waiting.insert(name, why),
                None => waiting.remove(&name),
            };
        }
    }
    Ok(names)
}

/// What keeps pods off a node.
fn obstacle(entry: &Entry) -> Option<String> {
    let object = object(entry);
    let ready = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let taints = &object["spec"]["taints"];
    if !ready {
        return Some("not Ready".into());
    }
    taints.as_array().filter(|taints| !taints.is_empty()).map(|_| format!("tainted {taints}"))
}

/// One heartbeat of every node: what a fleet tells anyway, so that it does not count as work on pods.
///
/// # Errors
/// A refusal, or nodes that stay tainted.
pub async fn beats(load: &Load) -> Result<Measured> {
    let client = load.client()?;
    let names = names(&client).await?;
    let begin = Measured::begin();
    beat(&client, &names).await?;
    schedulable(&client).await?;
    Ok(Measured::new(names.len(), begin.elapsed(), Vec::new()))
}

async fn names(client: &Client) -> Result<Vec<String>> {
    let nodes = client.list_watch(Selection::all(NODES).with_labels("made-by=load")).await?.initial;
    Ok(nodes.iter().map(|entry| entry.header.name.to_string()).collect())
}

/// Renews the leases of all nodes.
async fn beat(client: &Client, names: &[String]) -> Result<()> {
    for name in names {
        client.patch(&LEASES, LEASE_NAMESPACE, name, "", &PatchKind::Merge, &json!({"spec": {"renewTime": now()}})).await?;
    }
    Ok(())
}

fn pod(set: &str, number: usize, repel: bool) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{set}-{number}"), "labels": {"made-by": set}},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}});
    if repel {
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"made-by": set}}}]}});
    }
    pod
}

/// Creates `COUNT` pods with `CLIENTS` clients and waits until each has a node; with `repel` no two may share one. The nodes
/// must have told of themselves just before (`beats`); from then on they do so in their rhythm.
///
/// # Errors
/// A refusal, pods that get no node, or two that share one against their will.
pub async fn schedule(load: &Load, repel: bool) -> Result<Measured> {
    let set = if repel { "repel" } else { "bind" };
    let client = load.client()?;
    let names = names(&client).await?;
    let hearts = async {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(error) = beat(&client, &names).await {
                break error;
            }
        }
    };
    let watch = load.client()?.list_watch(Selection::all(PODS).in_namespace(NAMESPACE).with_labels(format!("made-by={set}"))).await?;
    let bound = tokio::spawn(bound(watch.changes, load.count));
    let begin = Measured::begin();
    let created = each(load, |client, number| async move {
        client.call(Method::POST, &PODS.collection_path(NAMESPACE), &pod(set, number, repel)).await?;
        Ok(())
    });
    let work = async {
        created.await?;
        let used = bound.await??;
        anyhow::Ok((begin.elapsed(), used))
    };
    let (wall, used) = tokio::select! {
        done = work => done?,
        error = hearts => return Err(error),
    };
    let different: HashSet<&String> = used.iter().collect();
    if repel && different.len() < load.count {
        bail!("{} pods that repel each other share {} nodes", load.count, different.len());
    }
    Ok(Measured::new(load.count, wall, Vec::new()))
}

/// The nodes of so many pods, when each has one.
async fn bound(mut changes: client::ChangeStream, count: usize) -> Result<Vec<String>> {
    let mut nodes = HashMap::new();
    while nodes.len() < count {
        let next = tokio::time::timeout(LONGEST, changes.next()).await;
        let change = next.with_context(|| format!("{} of {count} pods got a node, and then none for {LONGEST:?}", nodes.len()))?;
        let Change::Put(entry) = change.context("the watch ended")?? else { continue };
        if let Some(node) = object(&entry)["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
            nodes.insert(entry.header.name.to_string(), node.to_owned());
        }
    }
    Ok(nodes.into_values().collect())
}
