//! What is known about pods and containers beyond our own life: one small file each.
//!
//! Containers live on with their keepers; what callers gave with them (names, labels, paths of logs) and how they ended
//! stands here. A file is written whole or not at all.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runtime::{ContainerId, ContainerState, ContainerStatus, ExitStatus, ResolvedUser};

use crate::messages::{ContainerConfig, PodSandboxConfig};
use grpc::messages;
use grpc::wire::Message;

messages! {
    PodRecord {
        id: String = 1, config: Option<PodSandboxConfig> = 2, created_at: i64 = 3, handler: String = 4, addresses: Vec<String> = 5,
        stopped: bool = 6,
    }
    ContainerRecord {
        id: String = 1, pod: String = 2, config: Option<ContainerConfig> = 3, image_id: String = 4, image_ref: String = 5,
        created_at: i64 = 6, stop_signal: i32 = 7, end: Option<EndRecord> = 8,
    }
    EndRecord {
        started_at: i64 = 1, finished_at: i64 = 2, code: i32 = 3, reason: String = 4, message: String = 5, uid: u32 = 6, gid: u32 = 7,
        groups: Vec<u32> = 8, oom_killed: bool = 9,
    }
}

impl EndRecord {
    /// The end of a container that has one.
    pub fn of(status: &ContainerStatus) -> Option<EndRecord> {
        let exit = status.exit?;
        Some(EndRecord {
            started_at: status.started_at.unwrap_or(0),
            finished_at: status.finished_at.unwrap_or(0),
            code: exit.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            uid: status.user.uid,
            gid: status.user.gid,
            groups: status.user.supplemental.clone(),
            oom_killed: status.oom_killed,
        })
    }

    /// The status that a container had at its end.
    pub fn status(&self, id: ContainerId, created_at: i64) -> ContainerStatus {
        ContainerStatus {
            id,
            state: ContainerState::Exited,
            pid: None,
            created_at,
            started_at: Some(self.started_at).filter(|time| *time != 0),
            finished_at: Some(self.finished_at).filter(|time| *time != 0),
            exit: Some(ExitStatus { code: self.code, signal: None }),
            oom_killed: self.oom_killed,
            reason: self.reason.clone(),
            message: self.message.clone(),
            user: ResolvedUser { uid: self.uid, gid: self.gid, supplemental: self.groups.clone() },
            log_path: None,
            labels: Default::default(),
            annotations: Default::default(),
        }
    }

    /// The end of a container of which nobody saw the end.
    pub fn unknown(now: i64) -> EndRecord {
        EndRecord { finished_at: now, code: 255, reason: "Unknown".into(), ..EndRecord::default() }
    }
}

/// The files.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// A pod with its containers, as read.
pub type Known = (PodRecord, Vec<ContainerRecord>);

impl Records {
    /// Files below this directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: PathBuf) -> io::Result<Records> {
        fs::create_dir_all(dir.join("pods"))?;
        // What containers write is for nobody else on the node.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        Ok(Records { dir })
    }

    /// Directory of a pod's files.
    pub fn pod_dir(&self, pod: &str) -> PathBuf {
        self.dir.join("pods").join(pod)
    }

    /// Directory for what a container writes.
    pub fn writable(&self, container: &str) -> PathBuf {
        self.dir.join("containers").join(container)
    }

    /// Everything there is. What cannot be read is removed: nobody could say what it was.
    pub fn read(&self) -> io::Result<Vec<Known>> {
        let mut known = Vec::new();
        for entry in fs::read_dir(self.dir.join("pods"))? {
            let dir = entry?.path();
            let Some(pod) = read_file::<PodRecord>(&dir.join("pod")) else {
                tracing::warn!(dir = %dir.display(), "pod without a readable record is removed");
                fs::remove_dir_all(&dir)?;
                continue;
            };
            let mut containers = Vec::new();
            for file in fs::read_dir(dir.join("containers")).into_iter().flatten() {
                containers.extend(read_file::<ContainerRecord>(&file?.path()));
            }
            known.push((pod, containers));
        }
        Ok(known)
    }

    /// Keeps a pod.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep_pod(&self, pod: &PodRecord) -> io::Result<()> {
        let dir = self.pod_dir(&pod.id);
        fs::create_dir_all(dir.join("containers"))?;
        write_file(&dir.join("pod"), &pod.to_bytes())
    }

    /// Keeps a container.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep_container(&self, container: &ContainerRecord) -> io::Result<()> {
        write_file(&self.container_file(container), &container.to_bytes())
    }

    /// Forgets a container and what it wrote.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_container(&self, container: &ContainerRecord) -> io::Result<()> {
        gone(fs::remove_dir_all(self.writable(&container.id)))?;
        gone(fs::remove_file(self.container_file(container)))
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_pod(&self, pod: &str) -> io::Result<()> {
        gone(fs::remove_dir_all(self.pod_dir(pod)))
    }

    /// The range of pod addresses that was last given.
    pub fn range(&self) -> Option<ipnet::IpNet> {
        fs::read_to_string(self.dir.join("pod-cidr")).ok()?.trim().parse().ok()
    }

    /// Keeps the range of pod addresses.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep_range(&self, range: ipnet::IpNet) -> io::Result<()> {
        write_file(&self.dir.join("pod-cidr"), range.to_string().as_bytes())
    }

    fn container_file(&self, container: &ContainerRecord) -> PathBuf {
        self.pod_dir(&container.pod).join("containers").join(&container.id)
    }
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_file<M: Message>(path: &Path) -> Option<M> {
    // What is only half written still has its other name.
    path.extension()
        .is_none()
        .then(|| fs::read(path).ok())
        .flatten()
        .filter(|bytes| !bytes.is_empty())
        .and_then(|bytes| M::read(bytes.into()).ok())
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}
