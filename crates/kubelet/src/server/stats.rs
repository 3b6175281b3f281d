//! Use of resources: `/stats/summary` as JSON and the metrics endpoints as text, read from control groups, and from files for
//! what lies on the disk, when asked.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use cgroup::{Group, Stats};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus};
use serde_json::{Value, json};

use crate::Kubelet;
use crate::csi;
use crate::eviction;
use crate::eviction::usage::{self, Space, Usage};
use crate::pods::limits;
use crate::pods::model;
use crate::swap;

struct Measured {
    pod: Arc<Pod>,
    stats: Option<Stats>,
    containers: Vec<(String, ContainerStatus, Stats)>,
    /// What its files use, where that was asked for.
    files: Option<Usage>,
}

async fn measure(kubelet: &Arc<Kubelet>, files: bool) -> Vec<Measured> {
    let mut all = Vec::new();
    for pod in kubelet.pods.pods() {
        let uid = model::uid(&pod);
        let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
        let group = Group::new(kubelet.cgroups.clone(), &kubelet.pod_group(class, uid)).ok();
        let mut containers = Vec::new();
        if let Some(sandbox) = kubelet.pods.sandbox(uid) {
            for status in sandbox.status().await.unwrap_or_default() {
                let name = status.labels.get(model::LABEL_NAME).cloned().unwrap_or_default();
                if status.state == ContainerState::Running {
                    if let Ok(stats) = sandbox.stats(&status.id).await {
                        containers.push((name, status, stats));
                    }
                }
            }
        }
        let files = if files { usage::measure(kubelet, &pod, true).await } else { None };
        all.push(Measured { stats: group.and_then(|group| group.stats().ok()), pod, containers, files });
    }
    all
}

/// What somebody uses of the room on a file system.
fn room(file_system: &Value, used: Space, now: &str) -> Value {
    let mut room = json!({"time": now, "usedBytes": used.bytes, "inodesUsed": used.inodes});
    for field in ["capacityBytes", "availableBytes", "inodes", "inodesFree"] {
        room[field] = file_system[field].clone();
    }
    room
}

/// Processor and memory, the latter with what is left of its limit where there is one.
fn consumption(stats: &Stats, now: &str) -> (Value, Value) {
    let cpu = json!({"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns});
    let mut memory = json!({
        "time": now, "usageBytes": stats.memory.usage, "workingSetBytes": stats.memory.working_set, "rssBytes": stats.memory.rss,
        "pageFaults": stats.memory.page_faults, "majorPageFaults": stats.memory.major_page_faults,
    });
    // A limit that no machine could hold is none.
    if let Some(limit) = stats.memory.limit.filter(|limit| *limit < 1 << 62) {
        memory["availableBytes"] = limit.saturating_sub(stats.memory.working_set).into();
    }
    (cpu, memory)
}

/// The summary that metrics servers and the suite read.
pub async fn summary(kubelet: &Arc<Kubelet>) -> Value {
    let now = format!("{:.0}", Timestamp::now());
    let mut pods = Vec::new();
    let (own, images) = (disk(&kubelet.config.root_dir, &now), disk(kubelet.images.dir(), &now));
    let measured = measure(kubelet, true).await;
    let driven = join_all(measured.iter().map(|one| csi::stats::of(kubelet, &one.pod, &now))).await;
    for (measured, driven) in measured.into_iter().zip(driven) {
        let started = measured.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string());
        let containers: Vec<Value> = measured
            .containers
            .iter()
            .map(|(name, status, stats)| {
                let (cpu, memory) = consumption(stats, &now);
                let start = status.started_at.and_then(|at| Timestamp::from_nanosecond(at.into()).ok()).map(|time| time.to_string());
                let mut container = json!({"name": name, "startTime": start, "cpu": cpu, "memory": memory});
                container["swap"] = swap::shown(stats.memory.swap, stats.memory.swap_limit, &now);
                if let Some(files) = measured.files.as_ref().and_then(|files| files.containers.get(name)) {
                    container["rootfs"] = room(&own, files.root, &now);
                    container["logs"] = room(&own, files.logs, &now);
                }
                container
            })
            .collect();
        let mut pod = json!({
            "podRef": {"name": model::name(&measured.pod), "namespace": model::namespace(&measured.pod), "uid": model::uid(&measured.pod)},
            "startTime": started, "containers": containers,
        });
        if let Some(stats) = &measured.stats {
            let (cpu, memory) = consumption(stats, &now);
            pod["cpu"] = cpu;
            pod["memory"] = memory;
            let limits: Option<i64> = measured.containers.iter().map(|(_, _, stats)| stats.memory.swap_limit).sum();
            pod["swap"] = swap::shown(stats.memory.swap, limits, &now);
            pod["process_stats"] = json!({"process_count": stats.pids});
        }
        if let Some(files) = &measured.files {
            let volumes = files.volumes.iter().chain(&files.memory_volumes).map(|(name, used)| {
                let mut volume = room(&own, *used, &now);
                volume["name"] = name.as_str().into();
                volume
            });
            let mut volumes: Vec<Value> = volumes.collect();
            volumes.extend(driven);
            pod["volume"] = volumes.into();
            pod["ephemeral-storage"] = room(&own, files.disk(), &now);
        }
        pods.push(pod);
    }
    let node = Group::new(kubelet.cgroups.clone(), "").ok().and_then(|group| group.stats().ok());
    let mut image_fs = images;
    let stored = kubelet.images.usage().await;
    image_fs["usedBytes"] = stored.bytes.into();
    image_fs["inodesUsed"] = stored.inodes.into();
    let mut shown = json!({"nodeName": kubelet.config.node_name, "fs": own, "runtime": {"imageFs": image_fs, "containerFs": own}});
    if let Some(processes) = eviction::find("pid.available").and_then(|signal| (signal.observe)(kubelet)) {
        shown["rlimit"] = json!({"time": now, "maxpid": processes.capacity, "curproc": processes.capacity - processes.available});
    }
    if let Some(stats) = node {
        let (cpu, mut memory) = consumption(&stats, &now);
        let all = kubelet.node.memory_bytes().unsigned_abs();
        memory["availableBytes"] = all.saturating_sub(stats.memory.working_set).into();
        shown["cpu"] = cpu;
        shown["memory"] = memory;
        let (all, used) = swap::of_machine();
        shown["swap"] = swap::shown(used.unsigned_abs(), Some(all), &now);
    }
    json!({"node": shown, "pods": pods})
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

/// Metrics in the text format, by endpoint.
pub async fn metrics(kubelet: &Arc<Kubelet>, kind: &str) -> String {
    let mut text = String::new();
    match kind {
        "resource" => resource(kubelet, &mut text).await,
        "cadvisor" => containers(kubelet, &mut text).await,
        "probes" => kubelet.metrics.render_probes(&mut text),
        "slis" => kubelet.sources.checks().render(&mut text),
        _ => own(kubelet, &mut text),
    }
    text
}

fn own(kubelet: &Kubelet, text: &mut String) {
    kubelet.metrics.render(text);
    kubelet.sources.render_those(text, |name| name == client::metrics::PROCESS);
}

/// A family of the text format: what one line is about, and its samples with their labels.
fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let now = Timestamp::now().as_millisecond();
    let samples: Vec<(String, f64)> = samples.into_iter().collect();
    if samples.is_empty() {
        return;
    }
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}{labels} {value} {now}");
    }
}

/// What metrics servers count with. Times are in seconds, amounts in bytes.
async fn resource(kubelet: &Arc<Kubelet>, text: &mut String) {
    let measured = measure(kubelet, false).await;
    let seconds = |stats: &Stats| stats.cpu_usage_ns as f64 / 1e9;
    let of_containers = |value: &dyn Fn(&ContainerStatus, &Stats) -> Option<f64>| -> Vec<(String, f64)> {
        let all = measured.iter().flat_map(|one| one.containers.iter().map(move |container| (one, container)));
        let sample = |(one, (name, status, stats)): (&Measured, &(String, ContainerStatus, Stats))| {
            let labels = format!("container={name:?},{}", pod_labels(one));
            value(status, stats).map(|value| (labels, value))
        };
        all.filter_map(sample).collect()
    };
    let of_pods = |value: &dyn Fn(&Stats) -> f64| -> Vec<(String, f64)> {
        measured.iter().filter_map(|one| one.stats.as_ref().map(|stats| (pod_labels(one), value(stats)))).collect()
    };
    let node = Group::new(kubelet.cgroups.clone(), "").ok().and_then(|group| group.stats().ok());
    let of_node = |value: &dyn Fn(&Stats) -> f64| node.as_ref().map(|stats| (String::new(), value(stats)));
    let began = |status: &ContainerStatus, _: &Stats| status.started_at.map(|at| at as f64 / 1e9);
    let (counter, gauge) = ("counter", "gauge");
    let help = "Cumulative cpu time consumed by the container in core-seconds";
    family(text, "container_cpu_usage_seconds_total", counter, help, of_containers(&|_, stats| Some(seconds(stats))));
    let help = "Current working set of the container in bytes";
    family(text, "container_memory_working_set_bytes", gauge, help, of_containers(&|_, stats| Some(stats.memory.working_set as f64)));
    let help = "Start time of the container since unix epoch in seconds";
    family(text, "container_start_time_seconds", gauge, help, of_containers(&began));
    let help = "Current amount of the container swap usage in bytes";
    family(text, "container_swap_usage_bytes", gauge, help, of_containers(&|_, stats| Some(stats.memory.swap as f64)));
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    family(text, "node_cpu_usage_seconds_total", counter, help, of_node(&seconds));
    let help = "Current working set of the node in bytes";
    family(text, "node_memory_working_set_bytes", gauge, help, of_node(&|stats| stats.memory.working_set as f64));
    let help = "Current swap usage of the node in bytes";
    family(text, "node_swap_usage_bytes", gauge, help, of_node(&|_| swap::of_machine().1 as f64));
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    family(text, "pod_cpu_usage_seconds_total", counter, help, of_pods(&seconds));
    let help = "Current working set of the pod in bytes";
    family(text, "pod_memory_working_set_bytes", gauge, help, of_pods(&|stats| stats.memory.working_set as f64));
    let help = "Current amount of the pod swap usage in bytes";
    family(text, "pod_swap_usage_bytes", gauge, help, of_pods(&|stats| stats.memory.swap as f64));
    let _ = writeln!(
        text,
        "# HELP resource_scrape_error 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0"
    );
}

fn pod_labels(one: &Measured) -> String {
    format!("namespace={:?},pod={:?}", model::namespace(&one.pod), model::name(&one.pod))
}

async fn containers(kubelet: &Arc<Kubelet>, text: &mut String) {
    let measured = measure(kubelet, false).await;
    let _ = writeln!(
        text,
        "# HELP container_memory_usage_bytes Current memory usage in bytes, including all memory regardless of when it was accessed\n# TYPE container_memory_usage_bytes gauge"
    );
    each(&measured, |labels, stats| {
        let _ = writeln!(text, "container_memory_usage_bytes{{{labels}}} {}", stats.memory.usage);
    });
    let _ = writeln!(
        text,
        "# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed in seconds.\n# TYPE container_cpu_usage_seconds_total counter"
    );
    each(&measured, |labels, stats| {
        let _ = writeln!(text, "container_cpu_usage_seconds_total{{{labels}}} {}", stats.cpu_usage_ns as f64 / 1e9);
    });
}

fn each(measured: &[Measured], mut write: impl FnMut(&str, &Stats)) {
    for one in measured {
        for (name, _, stats) in &one.containers {
            let labels = format!("container={name:?},{}", pod_labels(one));
            write(&labels, stats);
        }
    }
}
