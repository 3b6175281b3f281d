//! `/stats/summary`: what the node, its parts and its pods use, as JSON. Read from control groups, from the kernel's counters and,
//! for what lies on the disk, from files, when asked.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cgroup::{Pressure, Stall};
use futures_util::future::join_all;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::links;
use super::measure::{self, Container, Measured, Reading};
use super::pace::{self, Paces};
use crate::Kubelet;
use crate::csi;
use crate::eviction;
use crate::eviction::usage::Space;
use crate::pods::model;
use crate::swap;

/// What the node's own pace is kept under: no group has this name.
const NODE: &str = "/";

/// What somebody uses of the room on a file system.
fn room(file_system: &Value, used: Space, now: &str) -> Value {
    let mut room = json!({"time": now, "usedBytes": used.bytes, "inodesUsed": used.inodes});
    for field in ["capacityBytes", "availableBytes", "inodes", "inodesFree"] {
        room[field] = file_system[field].clone();
    }
    room
}

/// Waiting as it is shown; a kernel that does not count it shows none.
fn stalls(pressure: Option<Pressure>) -> Value {
    let pressure = pressure.unwrap_or_default();
    let one = |stall: Stall| json!({"total": stall.total_us, "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300});
    json!({"full": one(pressure.full), "some": one(pressure.some)})
}

/// Writes what a group uses: processors, memory, the latter with what is left of its limit where there is one, and devices.
/// Waiting is told of everything but containers without it.
fn consumption(shown: &mut Value, reading: &Reading, pace: Option<u64>, now: &str, container: bool) {
    let (stats, waits) = (&reading.stats, &reading.waits);
    let mut cpu = json!({"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns});
    if let Some(pace) = pace {
        cpu["usageNanoCores"] = pace.into();
    }
    let mut memory = json!({
        "time": now, "usageBytes": stats.memory.usage, "workingSetBytes": stats.memory.working_set, "rssBytes": stats.memory.rss,
        "pageFaults": stats.memory.page_faults, "majorPageFaults": stats.memory.major_page_faults,
    });
    // A limit that no machine could hold is none.
    if let Some(limit) = stats.memory.limit.filter(|limit| *limit < 1 << 62) {
        memory["availableBytes"] = limit.saturating_sub(stats.memory.working_set).into();
    }
    let mut io = json!({"time": now});
    for (part, waited) in [(&mut cpu, waits.cpu), (&mut memory, waits.memory), (&mut io, waits.io)] {
        if waited.is_some() || !container {
            part["psi"] = stalls(waited);
        }
    }
    shown["cpu"] = cpu;
    shown["memory"] = memory;
    shown["io"] = io;
}

/// Everything that has a pace, read at one time.
struct All {
    node: Option<Reading>,
    parts: Vec<(&'static str, Reading, Option<SystemTime>)>,
    pods: Vec<Measured>,
}

impl All {
    async fn read(kubelet: &Arc<Kubelet>, files: bool) -> All {
        let pods = measure::pods(kubelet, files).await;
        All { node: measure::node(kubelet), parts: measure::parts(kubelet), pods }
    }

    fn groups(&self) -> Vec<(&str, &Reading)> {
        let mut below: Vec<&Reading> = self.parts.iter().map(|(_, reading, _)| reading).collect();
        for pod in &self.pods {
            below.extend(&pod.usage);
            below.extend(pod.containers.iter().map(|one| &one.usage));
        }
        let below = below.into_iter().map(|reading| (reading.group.as_str(), reading));
        self.node.iter().map(|reading| (NODE, reading)).chain(below).collect()
    }
}

/// Reads everything. Whoever asks regularly gets the pace since he asked before; whoever has not for long waits for a moment, in
/// which it is measured.
async fn read(kubelet: &Arc<Kubelet>) -> All {
    let paces = &kubelet.paces;
    if paces.lacks(NODE, Instant::now()) {
        for (name, reading) in All::read(kubelet, false).await.groups() {
            paces.read(name, reading.at, reading.stats.cpu_usage_ns);
        }
        tokio::time::sleep(pace::BETWEEN).await;
    }
    let all = All::read(kubelet, true).await;
    let there: HashSet<&str> = all.groups().into_iter().map(|(name, _)| name).collect();
    paces.retain(|name| there.contains(name));
    all
}

fn pace(paces: &Paces, name: &str, reading: &Reading) -> Option<u64> {
    paces.read(name, reading.at, reading.stats.cpu_usage_ns)
}

/// The summary that metrics servers and the suite read.
pub async fn summary(kubelet: &Arc<Kubelet>) -> Value {
    let all = read(kubelet).await;
    let now = format!("{:.0}", Timestamp::now());
    let own = disk(&kubelet.config.root_dir, &now);
    let driven = join_all(all.pods.iter().map(|one| csi::stats::of(kubelet, &one.pod, &now))).await;
    let node = node(kubelet, &all, &own, &now).await;
    let pods: Vec<Value> = all.pods.iter().zip(driven).map(|(measured, driven)| pod(kubelet, measured, driven, &own, &now)).collect();
    json!({"node": node, "pods": pods})
}

fn container(kubelet: &Kubelet, measured: &Measured, one: &Container, own: &Value, now: &str) -> Value {
    let start = one.status.started_at.and_then(|at| Timestamp::from_nanosecond(at.into()).ok()).map(|time| time.to_string());
    let mut shown = json!({"name": one.name, "startTime": start});
    consumption(&mut shown, &one.usage, pace(&kubelet.paces, &one.usage.group, &one.usage), now, true);
    shown["swap"] = swap::shown(one.usage.stats.memory.swap, one.usage.stats.memory.swap_limit, now);
    if let Some(files) = measured.files.as_ref().and_then(|files| files.containers.get(&one.name)) {
        shown["rootfs"] = room(own, files.root, now);
        shown["logs"] = room(own, files.logs, now);
    }
    shown
}

fn pod(kubelet: &Kubelet, measured: &Measured, driven: Vec<Value>, own: &Value, now: &str) -> Value {
    let started = measured.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string());
    let containers: Vec<Value> = measured.containers.iter().map(|one| container(kubelet, measured, one, own, now)).collect();
    let mut shown = json!({
        "podRef": {"name": model::name(&measured.pod), "namespace": model::namespace(&measured.pod), "uid": model::uid(&measured.pod)},
        "startTime": started, "containers": containers,
    });
    if let Some(reading) = &measured.usage {
        consumption(&mut shown, reading, pace(&kubelet.paces, &reading.group, reading), now, false);
        let limits: Option<i64> = measured.containers.iter().map(|one| one.usage.stats.memory.swap_limit).sum();
        shown["swap"] = swap::shown(reading.stats.memory.swap, limits, now);
        shown["process_stats"] = json!({"process_count": reading.stats.pids});
    }
    if let Some(network) = links::shown(&measured.links, "eth0", now) {
        shown["network"] = network;
    }
    if let Some(files) = &measured.files {
        let volumes = files.volumes.iter().chain(&files.memory_volumes).map(|(name, used)| {
            let mut volume = room(own, *used, now);
            volume["name"] = name.as_str().into();
            volume
        });
        let mut volumes: Vec<Value> = volumes.collect();
        volumes.extend(driven);
        if !volumes.is_empty() {
            shown["volume"] = volumes.into();
        }
        shown["ephemeral-storage"] = room(own, files.disk(), now);
    }
    shown
}

async fn node(kubelet: &Arc<Kubelet>, all: &All, own: &Value, now: &str) -> Value {
    let mut image_fs = disk(kubelet.images.dir(), now);
    let stored = kubelet.images.usage().await;
    image_fs["usedBytes"] = stored.bytes.into();
    image_fs["inodesUsed"] = stored.inodes.into();
    let mut shown = json!({
        "nodeName": kubelet.config.node_name, "fs": own, "runtime": {"imageFs": image_fs, "containerFs": own},
        "systemContainers": parts(kubelet, all, now),
    });
    if let Some(booted) = measure::booted().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        shown["startTime"] = booted.to_string().into();
    }
    if let Some(processes) = eviction::find("pid.available").and_then(|signal| (signal.observe)(kubelet)) {
        shown["rlimit"] = json!({"time": now, "maxpid": processes.capacity, "curproc": processes.capacity - processes.available});
    }
    if let Some(reading) = &all.node {
        consumption(&mut shown, reading, pace(&kubelet.paces, NODE, reading), now, false);
        let memory = kubelet.node.memory_bytes().unsigned_abs();
        shown["memory"]["availableBytes"] = memory.saturating_sub(reading.stats.memory.working_set).into();
        let (swap, used) = swap::of_machine();
        shown["swap"] = swap::shown(used.unsigned_abs(), Some(swap), now);
    }
    let uplink = net::addresses().ok().flatten().map(|uplink| uplink.interface).unwrap_or_default();
    if let Some(network) = links::shown(&links::of_node(), &uplink, now) {
        shown["network"] = network;
    }
    shown
}

/// The parts of the node that are no pods. What all pods together may have of memory is theirs, whether a group holds them to it
/// or not.
fn parts(kubelet: &Kubelet, all: &All, now: &str) -> Vec<Value> {
    let memory = (kubelet.node.memory_bytes() - kubelet.node.kept_memory()).max(0).unsigned_abs();
    let shown = all.parts.iter().map(|(name, reading, began)| {
        let mut shown = json!({"name": name});
        if let Some(began) = began.and_then(|time| Timestamp::try_from(time).ok()) {
            shown["startTime"] = format!("{began:.0}").into();
        }
        consumption(&mut shown, reading, pace(&kubelet.paces, &reading.group, reading), now, false);
        if *name == "pods" && shown["memory"].get("availableBytes").is_none() {
            shown["memory"]["availableBytes"] = memory.saturating_sub(reading.stats.memory.working_set).into();
        }
        shown["swap"] = swap::shown(reading.stats.memory.swap, None, now);
        shown
    });
    shown.collect()
}

fn disk(path: &Path, now: &str) -> Value {
    match rustix::fs::statvfs(path) {
        Ok(stat) => json!({
            "time": now, "capacityBytes": stat.f_blocks * stat.f_frsize, "availableBytes": stat.f_bavail * stat.f_frsize,
            "usedBytes": (stat.f_blocks - stat.f_bfree) * stat.f_frsize, "inodes": stat.f_files, "inodesFree": stat.f_ffree,
            "inodesUsed": stat.f_files.saturating_sub(stat.f_ffree),
        }),
        Err(_) => Value::Null,
    }
}
