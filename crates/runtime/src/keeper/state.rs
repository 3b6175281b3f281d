//! What a sandbox leaves on disk, so that it can be found again by name after we, or its keeper, died.
//!
//! ```text
//! <run_dir>/<sandbox>/            0700
//!   sandbox.json                  description, cgroup paths               written by us, once
//!   keeper.sock                   conversation                            made by the keeper
//!   keeper.log                    last words of the keeper
//!   journal                       states of containers, line by line      written by the keeper at each change
//!   c/<container>/                the container's root is attached here, in its own mount name space only
//!                 spec.json       description, for the set-up and execs   written by us, once
//!                 meta.json       labels and annotations                  written by us, once
//!                 seccomp.bpf     compiled filter                         written by us, once
//!   b/<container>/config.json     OCI description, where there are hooks  written by us, once
//! ```
//!
//! Every file of JSON starts with a line that names the kind, the format number and the writer; a newer format is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
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

    fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("c").join(id.as_str())
    }

    /// What hooks of a container are told by; only those that have hooks have one.
    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("b").join(id.as_str())
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

pub(crate) fn write_sandbox(files: &Files, spec: &SandboxSpec, cgroup: &str) -> io::Result<()> {
    let keeper = KeeperSpec { sandbox: spec.clone(), cgroup: cgroup.into() };
    fs::DirBuilder::new().mode(0o700).create(files.dir.join("c"))?;
    write(&files.dir.join("sandbox.json"), "knarr-sandbox", &keeper)
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
    write(&dir.join("spec.json"), "knarr-container", spec)?;
    if !spec.labels.is_empty() || !spec.annotations.is_empty() {
        let metadata = Metadata { labels: spec.labels.clone(), annotations: spec.annotations.clone() };
        write(&dir.join("meta.json"), "knarr-metadata", &metadata)?;
    }
    if let Some(filter) = filter {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join("seccomp.bpf"))?;
        file.write_all(filter)?;
    }
    Ok(())
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

/// One line of the journal.
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack, for as long as a line is written or read")]
#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    /// A container is like this now.
    Status(Cow<'a, ContainerStatus>),
    /// A container is forgotten.
    Removed(Cow<'a, ContainerId>),
}

/// The journal of containers' states: one line per change, the last one counts. Appending costs a tenth of replacing a
/// file, and a line that was cut off by our death is passed over.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    size: usize,
}

impl Journal {
    /// Above this the journal is written anew with the latest states only.
    const LARGEST: usize = 128 << 10;

    pub(crate) fn create(files: &Files) -> io::Result<Self> {
        let path = files.journal();
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        let mut bytes = header("knarr-journal")?;
        bytes.push(b'\n');
        file.write_all(&bytes)?;
        Ok(Self { path, file, size: 0 })
    }

    /// Notes that a container is like this now; `all` is every container, for writing anew.
    pub(crate) fn note(&mut self, status: &ContainerStatus, all: &[&ContainerStatus]) -> io::Result<()> {
        self.append(&Entry::Status(Cow::Borrowed(status)))?;
        if self.size <= Self::LARGEST {
            return Ok(());
        }
        let next = self.path.with_extension("next");
        let _left_by_an_earlier_try = fs::remove_file(&next);
        let mut anew = Self { file: OpenOptions::new().append(true).create_new(true).mode(0o600).open(&next)?, path: next, size: 0 };
        let mut bytes = header("knarr-journal")?;
        bytes.push(b'\n');
        anew.file.write_all(&bytes)?;
        for status in all {
            anew.append(&Entry::Status(Cow::Borrowed(status)))?;
        }
        fs::rename(&anew.path, &self.path)?;
        // Where the latest states alone are large, writing anew each time would gain nothing.
        *self = Self { path: self.path.clone(), file: anew.file, size: 0 };
        Ok(())
    }

    /// Notes that a container is forgotten.
    pub(crate) fn forget(&mut self, id: &ContainerId) -> io::Result<()> {
        self.append(&Entry::Removed(Cow::Borrowed(id)))
    }

    fn append(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.size += line.len();
        Ok(())
    }
}

fn read_journal(files: &Files) -> io::Result<Vec<ContainerStatus>> {
    let bytes = fs::read(files.journal())?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    check_header(lines.next().unwrap_or_default(), "knarr-journal", &files.journal())?;
    let mut states: Vec<ContainerStatus> = Vec::new();
    for entry in lines.filter_map(|line| serde_json::from_slice::<Entry<'_>>(line).ok()) {
        match entry {
            Entry::Status(status) => match states.iter_mut().find(|known| known.id == status.id) {
                Some(known) => *known = status.into_owned(),
                None => states.push(status.into_owned()),
            },
            Entry::Removed(id) => states.retain(|known| known.id != *id),
        }
    }
    Ok(states)
}

/// The states that a keeper has left; what ran when it went is ended with it.
pub(crate) fn last_words(files: &Files) -> Vec<ContainerStatus> {
    let mut states: Vec<ContainerStatus> = read_journal(files).unwrap_or_default();
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

fn header(magic: &str) -> io::Result<Vec<u8>> {
    let header = Header { magic: magic.into(), format: FORMAT, writer: env!("CARGO_PKG_VERSION").into() };
    Ok(serde_json::to_vec(&header)?)
}

fn check_header(line: &[u8], magic: &str, path: &Path) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let header: Header = serde_json::from_slice(line).map_err(|_| invalid(format!("{} has no header", path.display())))?;
    if header.magic != magic || header.format > FORMAT {
        let (found, format) = (header.magic, header.format);
        return Err(invalid(format!("{} is {found} of format {format}, not {magic} up to {FORMAT}", path.display())));
    }
    Ok(())
}

fn write<T: Serialize>(path: &Path, magic: &str, value: &T) -> io::Result<()> {
    let mut bytes = header(magic)?;
    bytes.push(b'\n');
    serde_json::to_writer(&mut bytes, value)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&bytes)
}

fn read<T: DeserializeOwned>(path: &Path, magic: &str) -> io::Result<T> {
    let bytes = fs::read(path)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    check_header(&bytes[..end], magic, path)?;
    Ok(serde_json::from_slice(bytes.get(end + 1..).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ResolvedUser;

    fn status(id: &str, message: &str) -> ContainerStatus {
        ContainerStatus {
            id: ContainerId::new(id).expect("a name"),
            state: ContainerState::Running,
            pid: Some(1),
            created_at: 0,
            started_at: None,
            finished_at: None,
            exit: None,
            oom_killed: false,
            reason: String::new(),
            message: message.into(),
            user: ResolvedUser::default(),
            log_path: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_last_line_of_a_container_counts() {
        let dir = std::env::temp_dir().join(format!("knarr-journal-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let files = Files::new(dir.clone());
        let mut journal = Journal::create(&files).expect("a journal");
        let (one, two) = (status("one", ""), status("two", ""));
        journal.note(&one, &[&one]).expect("written");
        journal.note(&two, &[&one, &two]).expect("written");
        journal.forget(&two.id).expect("written");
        for round in 0..3000 {
            let one = status("one", &format!("{round}"));
            journal.note(&one, &[&one]).expect("written");
        }
        assert!(fs::metadata(files.journal()).expect("a file").len() < 2 * Journal::LARGEST as u64);
        journal.file.write_all(br#"{"Status":{"id":"three","#).expect("written");
        let found = last_words(&files);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].state), ("one", ContainerState::Exited));
        fs::write(files.journal(), r#"{"magic":"knarr-journal","format":99,"writer":"x"}"#).expect("written");
        assert!(read_journal(&files).is_err(), "a newer format is refused");
        fs::remove_dir_all(dir).expect("clean up");
    }
}
