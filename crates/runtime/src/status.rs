//! What a container is: the answers and events of the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, SandboxId};

/// Life of a container, forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerState {
    /// Set up and waiting for [`crate::Sandbox::start`].
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended, or could not be started.
    Exited,
}

/// Who a container turned out to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub supplemental: Vec<u32>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl ExitStatus {
    /// Ended with code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// A container at one moment. Times are nanoseconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub id: ContainerId,
    /// Where in its life.
    pub state: ContainerState,
    /// First process as we see it; none before creation and after exit.
    pub pid: Option<i32>,
    /// When it was made.
    pub created_at: i64,
    /// When its program started.
    pub started_at: Option<i64>,
    /// When its program ended.
    pub finished_at: Option<i64>,
    /// How its program ended. 128 with `reason` `StartError` when it never began; 255 with `ContainerStatusUnknown`
    /// when the keeper was lost with it.
    pub exit: Option<ExitStatus>,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`; empty before the end.
    pub reason: String,
    /// More about the reason.
    pub message: String,
    /// As whom it runs.
    pub user: ResolvedUser,
    /// Its log.
    pub log_path: Option<PathBuf>,
    /// From its description.
    pub labels: BTreeMap<String, String>,
    /// From its description.
    pub annotations: BTreeMap<String, String>,
}

/// What happened to a container or to its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// In which sandbox.
    pub sandbox: SandboxId,
    /// What.
    pub kind: ContainerEventKind,
}

/// See [`ContainerEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Its program started.
    Started(ContainerStatus),
    /// Its program ended; the status is final.
    Exited(ContainerStatus),
    /// The keeper is gone and with it every container of the sandbox; [`crate::Sandbox::status`] tells the last known.
    SandboxLost,
}
