//! What a pod uses: memory and processes from its control groups, space on disk by looking at its files.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup::Group;
use k8s_openapi::api::core::v1::Pod;
use runtime::ContainerState;

use crate::Kubelet;
use crate::pods::container::termination_file;
use crate::pods::{huge_pages, limits, model};

/// Room on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are allocated.
    pub bytes: i64,
    /// Files, each counted once.
    pub inodes: i64,
}

/// What one container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Memory without file pages that it did not use lately.
    pub memory: i64,
    /// Its writable layer.
    pub root: Space,
    /// Its logs.
    pub logs: Space,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory without file pages that it did not use lately.
    pub memory: i64,
    /// Processes and threads.
    pub processes: i64,
    /// By name, those that run.
    pub containers: BTreeMap<String, ContainerUsage>,
    /// Volumes of the kind emptyDir on disk, by name.
    pub volumes: BTreeMap<String, Space>,
    /// Volumes of the kind emptyDir in memory, by name.
    pub memory_volumes: BTreeMap<String, Space>,
    /// Files that every pod has and can write to, such as its `/etc/hosts` (CVE-2020-8557).
    pub files: Space,
}

impl Usage {
    /// All that the pod keeps on the node's disk.
    pub fn disk(&self) -> Space {
        let containers = self.containers.values().flat_map(|container| [container.root, container.logs]);
        containers.chain(self.volumes.values().copied()).fold(self.files, Space::and)
    }
}

impl Space {
    fn and(self, other: Space) -> Space {
        Space { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// Measures a pod, its files too if asked; none where it has no sandbox.
pub async fn measure(kubelet: &Arc<Kubelet>, pod: &Pod, files: bool) -> Option<Usage> {
    let uid = model::uid(pod);
    let sandbox = kubelet.pods.sandbox(uid)?;
    let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
    let stats = Group::new(kubelet.cgroups.clone(), &kubelet.pod_group(class, uid)).and_then(|group| group.stats()).ok()?;
    let mut usage = Usage { memory: stats.memory.working_set as i64, processes: stats.pids as i64, ..Usage::default() };
    let (pod_dir, log_dir) = (kubelet.pod_dir(uid), kubelet.log_dir(pod));
    let mut places = Places { files: vec![pod_dir.join("etc")], ..Places::default() };
    for status in sandbox.status().await.ok()? {
        let Some(name) = status.labels.get(model::LABEL_NAME).filter(|_| status.state == ContainerState::Running) else {
            continue;
        };
        let memory = sandbox.stats(&status.id).await.map_or(0, |stats| stats.memory.working_set as i64);
        usage.containers.insert(name.clone(), ContainerUsage { memory, ..ContainerUsage::default() });
        let layer = pod_dir.join("containers").join(name).join(model::attempt(&status).to_string());
        places.containers.push((name.clone(), layer, log_dir.join(name)));
        places.files.push(termination_file(&pod_dir, name, model::attempt(&status)));
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(source) = &volume.empty_dir {
            let path = pod_dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
            let medium = source.medium.as_deref().unwrap_or_default();
            places.volumes.push((volume.name.clone(), medium == "Memory" || huge_pages::is_medium(medium), path));
        }
    }
    if !files {
        return Some(usage);
    }
    tokio::task::spawn_blocking(move || places.measure(usage)).await.ok()
}

#[derive(Default)]
struct Places {
    /// Name, writable layer, logs.
    containers: Vec<(String, PathBuf, PathBuf)>,
    /// Name, whether it is in memory, where.
    volumes: Vec<(String, bool, PathBuf)>,
    /// Files that every pod has.
    files: Vec<PathBuf>,
}

impl Places {
    fn measure(self, mut usage: Usage) -> Usage {
        usage.files = self.files.iter().map(|path| space(path)).fold(Space::default(), Space::and);
        for (name, layer, logs) in self.containers {
            let container = usage.containers.entry(name).or_default();
            (container.root, container.logs) = (space(&layer), space(&logs));
        }
        for (name, in_memory, path) in self.volumes {
            let volumes = if in_memory { &mut usage.memory_volumes } else { &mut usage.volumes };
            volumes.insert(name, space(&path));
        }
        usage
    }
}

/// What lies below a directory on the same file system. Files that come and go meanwhile do not matter.
pub fn space(top: &Path) -> Space {
    let Ok(first) = top.symlink_metadata() else {
        return Space::default();
    };
    let mut all = Space { bytes: first.blocks() as i64 * 512, inodes: 1 };
    let mut linked = HashSet::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            // The metadata of an entry are those of a link itself, never of what it leads to.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != first.dev() || (metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino())) {
                continue;
            }
            all = all.and(Space { bytes: metadata.blocks() as i64 * 512, inodes: 1 });
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("deep")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let empty = space(&inside);
        std::fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("way-out")).unwrap();
        std::fs::write(inside.join("deep/file"), vec![1; 64 << 10]).unwrap();
        std::fs::hard_link(inside.join("deep/file"), inside.join("again")).unwrap();
        let full = space(&inside);
        assert_eq!(full.inodes - empty.inodes, 2);
        let grown = full.bytes - empty.bytes;
        assert!((64 << 10..256 << 10).contains(&grown), "{grown}");
        assert_eq!(space(&dir.path().join("nothing")), Space::default());
    }
}
