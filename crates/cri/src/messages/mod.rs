//! The messages of CRI v1, as far as they are spoken here.
//!
//! Written as tables, because the whole protocol as generated code comes with a compiler for it and a web framework.

mod containers;
mod images;
mod node;
mod pods;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use containers::*;
pub use images::*;
pub use node::*;
pub use pods::*;

/// A map of texts.
pub type Map = BTreeMap<String, String>;

/// Values of `NamespaceMode`.
pub mod namespace {
    /// One for the pod.
    pub const POD: i32 = 0;
    /// One for each container.
    pub const CONTAINER: i32 = 1;
    /// The node's.
    pub const NODE: i32 = 2;
    /// That of another container.
    pub const TARGET: i32 = 3;
}

/// Values of `MountPropagation`.
pub mod propagation {
    /// Not at all.
    pub const PRIVATE: i32 = 0;
    /// From the host to the container.
    pub const HOST_TO_CONTAINER: i32 = 1;
    /// Both ways.
    pub const BIDIRECTIONAL: i32 = 2;
}

/// Values of `ProfileType` of a security profile.
pub mod profile {
    /// The runtime's own.
    pub const RUNTIME_DEFAULT: i32 = 0;
    /// None.
    pub const UNCONFINED: i32 = 1;
    /// A file of the node.
    pub const LOCALHOST: i32 = 2;
}

/// Values of `PodSandboxState`.
pub mod sandbox_state {
    /// It can hold containers.
    pub const READY: i32 = 0;
    /// It was stopped or lost.
    pub const NOT_READY: i32 = 1;
}

/// Values of `ContainerState`.
pub mod container_state {
    /// Made, not started.
    pub const CREATED: i32 = 0;
    /// Its program runs.
    pub const RUNNING: i32 = 1;
    /// Its program has ended.
    pub const EXITED: i32 = 2;
    /// Nobody knows.
    pub const UNKNOWN: i32 = 3;
}

/// Values of `ContainerEventType`.
pub mod event {
    /// It was made.
    pub const CREATED: i32 = 0;
    /// Its program started.
    pub const STARTED: i32 = 1;
    /// Its program ended.
    pub const STOPPED: i32 = 2;
    /// It was removed.
    pub const DELETED: i32 = 3;
}

/// Values of `CgroupDriver`.
pub mod cgroup_driver {
    /// Slices and scopes.
    pub const SYSTEMD: i32 = 0;
    /// Plain directories.
    pub const CGROUPFS: i32 = 1;
}

/// Values of `Protocol`.
pub mod protocol {
    /// TCP.
    pub const TCP: i32 = 0;
    /// UDP.
    pub const UDP: i32 = 1;
    /// SCTP.
    pub const SCTP: i32 = 2;
}

/// Values of `SupplementalGroupsPolicy`.
pub mod groups_policy {
    /// The image's groups are added.
    pub const MERGE: i32 = 0;
    /// They are not.
    pub const STRICT: i32 = 1;
}

/// Values of `Signal`: the names in their order, the first stands for number 1.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "ABRT", "KILL", "PIPE", "IO", "PROF", "PWR", "QUIT",
    "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Number of the value that stands for the first real-time signal; those after it follow without a gap.
const REAL_TIME: i32 = 35;

/// The kernel's number of a `Signal`; none for `RUNTIME_DEFAULT` and for what is unknown.
pub fn signal_number(signal: i32) -> Option<i32> {
    match signal {
        1..REAL_TIME => runtime::signals::parse(SIGNALS[usize::try_from(signal).ok()? - 1]),
        // The kernel's real-time signals are 34 to 64.
        REAL_TIME..=65 => Some(signal - 1),
        _ => None,
    }
}

/// The `Signal` of a kernel's number; 0 where there is none.
pub fn signal_value(number: i32) -> i32 {
    (1..=65).find(|value| signal_number(*value) == Some(number)).unwrap_or(0)
}
