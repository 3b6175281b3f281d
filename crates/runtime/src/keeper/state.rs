//! What a sandbox leaves on disk, so that it can be found again by name after we, or its keeper, died.
//!
//! ```text
//! <run_dir>/<sandbox>/            0700
//!   sandbox.json                  description, cgroup paths               written by us, once
//!   keeper.sock                   conversation                            made by the keeper
//!   keeper.log                    last words of the keeper
//!   state.json                    every container's status                replaced by the keeper at each change
//!   c/<container>/spec.json       description, for the set-up and execs   written by us, once
//!                 meta.json       labels and annotations                  written by us, once
//!                 seccomp.bpf     compiled filter                         written by us, once
//!                 rootfs/         where the root is attached, in the container's mount name space only
//! ```
//!
//! Every JSON file starts with a line that names the kind, the format number and the writer; a newer format is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, ContainerSpec, SandboxSpec};
use crate::status::{ContainerState, ContainerStatus, ExitStatus};

/// Format of all files of this folder.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    magic: String,
    format: u32,
    writer: String,
}

/// Paths of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// What the keeper is told when it starts.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeeperSpec {
    pub sandbox: SandboxSpec,
    /// Cgroup of the pod below the visible root.
    pub cgroup: String,
    /// Cgroup of keepers below the visible root.
    pub keepers: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Metadata {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Files {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("keeper.log")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("keeper.sock")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("c").join(id.as_str())
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        let _missing = fs::remove_dir_all(self.container(id));
    }

    /// Removes everything. The shared memory is a mount only on kernels that cannot keep it detached.
    pub(crate) fn remove(&self) {
        let _not_mounted = rustix::mount::unmount(self.shm(), rustix::mount::UnmountFlags::DETACH);
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "folder of a sandbox could not be removed");
        }
    }
}

pub(crate) fn write_sandbox(files: &Files, spec: &SandboxSpec, cgroup: &str, keepers: &str) -> io::Result<()> {
    let keeper = KeeperSpec { sandbox: spec.clone(), cgroup: cgroup.into(), keepers: keepers.into() };
    fs::DirBuilder::new().mode(0o700).create(files.dir.join("c"))?;
    write(&files.dir.join("sandbox.json"), "knarr-sandbox", &keeper, true)
}

pub(crate) fn read_sandbox(files: &Files) -> io::Result<SandboxSpec> {
    read_keeper(files).map(|keeper| keeper.sandbox)
}

pub(crate) fn read_keeper(files: &Files) -> io::Result<KeeperSpec> {
    read(&files.dir.join("sandbox.json"), "knarr-sandbox")
}

pub(crate) fn write_container(files: &Files, spec: &ContainerSpec, filter: Option<&[u8]>) -> io::Result<()> {
    let dir = files.container(&spec.id);
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    write(&dir.join("spec.json"), "knarr-container", spec, true)?;
    if !spec.labels.is_empty() || !spec.annotations.is_empty() {
        let metadata = Metadata { labels: spec.labels.clone(), annotations: spec.annotations.clone() };
        write(&dir.join("meta.json"), "knarr-metadata", &metadata, true)?;
    }
    if let Some(filter) = filter {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join("seccomp.bpf"))?;
        file.write_all(filter)?;
    }
    fs::create_dir(dir.join("rootfs"))
}

pub(crate) fn read_container(files: &Files, id: &ContainerId) -> io::Result<ContainerSpec> {
    read(&files.container(id).join("spec.json"), "knarr-container")
}

pub(crate) fn read_metadata(files: &Files, id: &ContainerId) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let metadata: Metadata = read(&files.container(id).join("meta.json"), "knarr-metadata").unwrap_or_default();
    (metadata.labels, metadata.annotations)
}

/// Names of the containers that have a folder.
pub(crate) fn container_ids(files: &Files) -> Vec<String> {
    let entries = fs::read_dir(files.dir.join("c")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Replaces the states of all containers.
pub(crate) fn write_states(files: &Files, states: &[&ContainerStatus]) -> io::Result<()> {
    let path = files.dir.join("state.json");
    let next = files.dir.join("state.json.next");
    write(&next, "knarr-state", &states, false)?;
    fs::rename(next, path)
}

/// The states that a keeper has left; what ran when it went is ended with it.
pub(crate) fn last_words(files: &Files) -> Vec<ContainerStatus> {
    let mut states: Vec<ContainerStatus> = read(&files.dir.join("state.json"), "knarr-state").unwrap_or_default();
    for status in &mut states {
        if status.state != ContainerState::Exited {
            status.state = ContainerState::Exited;
            status.pid = None;
            status.finished_at = Some(crate::sys::now());
            status.exit = Some(ExitStatus { code: 255, signal: None });
            status.reason = "ContainerStatusUnknown".into();
            status.message = "the keeper of the pod has ended and its containers with it".into();
        }
        let (labels, annotations) = read_metadata(files, &status.id);
        (status.labels, status.annotations) = (labels, annotations);
    }
    states
}

fn write<T: Serialize>(path: &Path, magic: &str, value: &T, new: bool) -> io::Result<()> {
    let header = Header { magic: magic.into(), format: FORMAT, writer: env!("CARGO_PKG_VERSION").into() };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    serde_json::to_writer(&mut bytes, value)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    if new {
        options.create_new(true);
    } else {
        options.create(true).truncate(true);
    }
    options.open(path)?.write_all(&bytes)
}

fn read<T: DeserializeOwned>(path: &Path, magic: &str) -> io::Result<T> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let bytes = fs::read(path)?;
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| invalid(format!("{} has no header", path.display())))?;
    let header: Header = serde_json::from_slice(&bytes[..end])?;
    if header.magic != magic || header.format > FORMAT {
        let (found, format) = (header.magic, header.format);
        return Err(invalid(format!("{} is {found} of format {format}, not {magic} up to {FORMAT}", path.display())));
    }
    Ok(serde_json::from_slice(&bytes[end + 1..])?)
}
