//! What is read of the node and of each pod when somebody asks for it, for every page that tells of it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cgroup::{Group, Pressure, Stats};
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerState, ContainerStatus};

use super::links::{self, Link};
use crate::Kubelet;
use crate::eviction::usage::{self, Usage};
use crate::pods::limits;
use crate::pods::model;

/// A pod.
pub struct Measured {
    /// Which.
    pub pod: Arc<Pod>,
    /// Its group.
    pub usage: Option<Reading>,
    /// Its containers that run.
    pub containers: Vec<Container>,
    /// What its files use, where that was asked for.
    pub files: Option<Usage>,
    /// Its own links; none with those of the node, or where another runtime made them.
    pub links: Vec<Link>,
}

/// A container.
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// How it is.
    pub status: ContainerStatus,
    /// Its group, or what another runtime tells.
    pub usage: Reading,
}

/// What was read of one group.
pub struct Reading {
    /// Path of the group, or what stands for it.
    pub group: String,
    /// When.
    pub at: Instant,
    /// What it used.
    pub stats: Stats,
    /// How long it waited, where the kernel tells.
    pub waits: Waits,
}

/// How long a group waited for processors, memory and devices.
#[derive(Debug, Default, Clone, Copy)]
pub struct Waits {
    /// Processors.
    pub cpu: Option<Pressure>,
    /// Memory.
    pub memory: Option<Pressure>,
    /// Devices.
    pub io: Option<Pressure>,
}

impl Reading {
    /// Reads a group.
    pub fn of(group: &Group) -> Option<Reading> {
        let stats = group.stats().ok()?;
        Some(Reading { group: group.path().to_owned(), at: Instant::now(), stats, waits: Waits::of(group) })
    }
}

impl Waits {
    fn of(group: &Group) -> Waits {
        Waits { cpu: group.pressure("cpu"), memory: group.pressure("memory"), io: group.pressure("io") }
    }
}

/// Every pod of the node; with what their files use where that is asked for.
pub async fn pods(kubelet: &Arc<Kubelet>, files: bool) -> Vec<Measured> {
    let mut all = Vec::new();
    for pod in kubelet.pods.pods() {
        let uid = model::uid(&pod);
        let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
        let group = Group::new(kubelet.cgroups.clone(), &kubelet.pod_group(class, uid)).ok();
        let (mut containers, mut links) = (Vec::new(), Vec::new());
        if let Some(sandbox) = kubelet.pods.sandbox(uid) {
            let on_node = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
            if let Sandbox::Own(own) = &sandbox
                && !on_node
            {
                links = links::of_process(own.pid());
            }
            for status in sandbox.status().await.unwrap_or_default() {
                if status.state == ContainerState::Running {
                    containers.extend(container(&sandbox, uid, status).await);
                }
            }
        }
        let files = if files { usage::measure(kubelet, &pod, true).await } else { None };
        all.push(Measured { usage: group.as_ref().and_then(Reading::of), pod, containers, files, links });
    }
    all
}

async fn container(sandbox: &Sandbox, uid: &str, status: ContainerStatus) -> Option<Container> {
    let usage = match sandbox {
        Sandbox::Own(own) => Reading::of(&own.container_cgroup(&status.id)),
        Sandbox::Other(_) => sandbox.stats(&status.id).await.ok().map(|stats| Reading {
            group: format!("{uid}/{}", status.id),
            at: Instant::now(),
            stats,
            waits: Waits::default(),
        }),
    }?;
    Some(Container { name: status.labels.get(model::LABEL_NAME).cloned().unwrap_or_default(), status, usage })
}

/// The node as a whole.
pub fn node(kubelet: &Kubelet) -> Option<Reading> {
    Reading::of(&Group::new(kubelet.cgroups.clone(), "").ok()?)
}

/// A part of the node that is no pod: its name, what it used, and when it began.
pub fn parts(kubelet: &Kubelet) -> Vec<(&'static str, Reading, Option<SystemTime>)> {
    let part = |name, path: String| {
        let group = Group::new(kubelet.cgroups.clone(), &path).ok()?;
        let dir = group.dir("cpu").or_else(|| group.dirs().into_iter().next())?;
        let began = std::fs::metadata(dir).and_then(|found| found.modified()).ok();
        Some((name, Reading::of(&group)?, began))
    };
    let own = own_group().and_then(|path| part("kubelet", path));
    own.into_iter().chain(part("pods", kubelet.pods_group())).collect()
}

/// The group in which this process is, where somebody has put it into one of its own.
fn own_group() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    group_of(&text)
}

/// Lines are `number:controllers:/path`; the unified hierarchy has no controllers.
fn group_of(text: &str) -> Option<String> {
    let of = |wanted: &str| {
        let fields = text.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        let found =
            fields.into_iter().find(|fields| matches!(fields.as_slice(), [_, names, _] if names.split(',').any(|name| name == wanted)));
        found.map(|fields| fields[2].trim_matches('/').to_owned())
    };
    // Where processors and memory are counted in different places, neither is a part of the node.
    let (cpu, memory) = (of("cpu").or_else(|| of("")), of("memory").or_else(|| of("")));
    cpu.filter(|path| !path.is_empty() && !path.contains("..") && Some(path) == memory.as_ref())
}

/// When the machine began, in seconds since 1970.
pub fn booted() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|seconds| seconds.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_this_process_is_a_part_of_the_node_where_it_is_one() {
        let check = |text: &str, wanted: Option<&str>| assert_eq!(group_of(text).as_deref(), wanted, "{text}");
        check("0::/system.slice/knarr.service\n", Some("system.slice/knarr.service"));
        check("4:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/\n", Some("a/b"));
        check("4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n", None);
        for nowhere in ["0::/\n", "0::/../..\n", "4:memory:/\n3:cpu:/\n", ""] {
            check(nowhere, None);
        }
        assert!(booted().is_some_and(|seconds| seconds > 1_000_000_000));
    }
}
