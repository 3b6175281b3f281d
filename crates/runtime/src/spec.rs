//! What a sandbox and a container shall be: plain data, written to the pod's run directory and read by its keeper.
//!
//! The words follow the OCI runtime specification where it has one, and the meaning of the CRI fields where it has not.
//! Everything that comes from an image (user names, paths, environment) is hostile input and is bounded where it is used.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Name of a sandbox; the kubelet uses the pod's UID. Safe as one path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// Name of a container, unique within its sandbox. Safe as one path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// A name that may not become a path component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a usable name: 1 to 128 letters, digits, '-', '_' or '.', starting with a letter or digit")]
pub struct InvalidName(pub String);

macro_rules! name_type {
    ($type:ident) => {
        impl $type {
            /// Checks the name and wraps it.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
                if starts && name.len() <= 128 && name.bytes().all(plain) { Ok(Self(name)) } else { Err(InvalidName(name)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}
name_type!(SandboxId);
name_type!(ContainerId);

/// Network name space of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetNs {
    /// A new one, made and owned by the keeper; loopback is up, nothing else is in it.
    #[default]
    New,
    /// Ours, which is not necessarily that of process 1.
    Host,
    /// An existing one, for example from a pool.
    Path(PathBuf),
}

/// IPC or UTS name space of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameSpace {
    /// One for all containers of the pod.
    #[default]
    Pod,
    /// Ours.
    Host,
}

/// PID name space of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own; its first process is process 1.
    #[default]
    Container,
    /// One for all containers of the pod (`shareProcessNamespace`); the keeper makes a tiny process 1 for it.
    Pod,
    /// Ours (`hostPID`).
    Host,
    /// That of another running container of the same sandbox (ephemeral containers with a target).
    Target(ContainerId),
}

/// One line of `/proc/<pid>/uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// User name space of a pod (`hostUsers: false`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNs {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// What a sandbox shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name, the pod's UID.
    pub id: SandboxId,
    /// Host name inside; empty leaves the one we run with.
    pub hostname: String,
    /// Cgroup of the pod relative to [`crate::RuntimeConfig::cgroup_root`], e.g. `kubepods/burstable/pod<uid>`.
    /// Containers get a group below it. The caller sets pod limits with the `cgroup` crate; it is created when missing.
    /// One that begins with `/` is below the visible root instead, and stays when the sandbox goes: it is the caller's.
    pub cgroup_parent: String,
    /// Network.
    pub net: NetNs,
    /// System V IPC, POSIX message queues and `/dev/shm`.
    pub ipc: NameSpace,
    /// Host name. Host network usually goes with host UTS.
    pub uts: NameSpace,
    /// Name-spaced kernel parameters (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`).
    pub sysctls: BTreeMap<String, String>,
    /// Size of the `/dev/shm` that the containers share, in bytes; 64 MiB is usual.
    pub shm_size: u64,
    /// Directory of the pod's logs; created (0755) when missing.
    pub log_dir: Option<PathBuf>,
    /// User name space; none runs with our users.
    pub user_ns: Option<UserNs>,
    /// Stored with the sandbox and returned by [`crate::Sandbox::spec`], also after a restart.
    pub labels: BTreeMap<String, String>,
    /// Stored with the sandbox and returned by [`crate::Sandbox::spec`], also after a restart.
    pub annotations: BTreeMap<String, String>,
}

impl SandboxSpec {
    /// A sandbox of its own network, UTS and IPC, with nothing special.
    pub fn new(id: SandboxId, cgroup_parent: impl Into<String>) -> Self {
        Self {
            id,
            hostname: String::new(),
            cgroup_parent: cgroup_parent.into(),
            net: NetNs::New,
            ipc: NameSpace::Pod,
            uts: NameSpace::Pod,
            sysctls: BTreeMap::new(),
            shm_size: 64 << 20,
            log_dir: None,
            user_ns: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Whether the cgroup of the pod goes with the sandbox.
    pub(crate) fn owns_group(&self) -> bool {
        !self.cgroup_parent.starts_with('/')
    }
}

/// Where the files of a container come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// Layer directories, lowest first, under a writable layer. The runtime makes `upper` and `work` inside `writable`
    /// and mounts the overlay in the container's mount name space only. `writable` stays after [`crate::Sandbox::remove`]
    /// and belongs to the caller.
    Overlay {
        /// Layer directories, the base image first.
        layers: Vec<PathBuf>,
        /// Directory on the node's disk for what the container writes.
        writable: PathBuf,
    },
    /// A directory that is ready to be the root.
    Directory(PathBuf),
}

/// The user part of a container's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserRef {
    /// User 0.
    #[default]
    Root,
    /// `runAsUser`.
    Id(u32),
    /// `user`, `uid`, `user:group` or `uid:gid` as images write it; names are looked up in the root's own files.
    Name(String),
}

/// What to do with the groups that the image's `/etc/group` gives to the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroups {
    /// Add them (`supplementalGroupsPolicy: Merge`).
    #[default]
    Merge,
    /// Leave them out.
    Strict,
}

/// As whom a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub user: UserRef,
    /// `runAsGroup`; without it the group of the image's `/etc/passwd`, or 0.
    pub group: Option<u32>,
    /// `supplementalGroups` and `fsGroup`.
    pub supplemental: Vec<u32>,
    /// What to do with the image's groups.
    pub policy: SupplementalGroups,
}

/// Capability sets by name (`CAP_NET_ADMIN`), or `ALL`-free lists computed by [`Capabilities::of`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What an exec may ever gain.
    pub bounding: Vec<String>,
    /// What is in force for user 0.
    pub effective: Vec<String>,
    /// What may be in force.
    pub permitted: Vec<String>,
    /// What survives an exec together with file capabilities.
    pub inheritable: Vec<String>,
    /// What survives an exec of users other than 0.
    pub ambient: Vec<String>,
}

/// System-call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The built-in allow list; grows with the container's capabilities.
    RuntimeDefault,
    /// A profile in the JSON form of the OCI specification (`defaultAction`, `syscalls`).
    Custom(String),
}

/// How mounts made on one side show on the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all (`None`).
    #[default]
    Private,
    /// From the host to the container (`HostToContainer`).
    Slave,
    /// Both ways (`Bidirectional`).
    Shared,
}

/// What is bound into a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    /// A path of the node, resolved as we would open it.
    Path(PathBuf),
    /// A path below a directory that the pod can write to (a subPath): resolved without ever leaving `root`.
    Beneath {
        /// The volume.
        root: PathBuf,
        /// Path in it.
        path: PathBuf,
    },
    /// Already open, with `O_PATH` or more. Not kept over [`crate::Sandbox::create_container`].
    #[serde(skip)]
    Fd(Arc<OwnedFd>),
    /// Place of a descriptor among those sent with the description; used between us and the keeper only.
    #[doc(hidden)]
    Passed(usize),
}

/// A bind mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// What.
    pub source: Source,
    /// Absolute path in the container. Missing directories (or the file) are made in the writable layer.
    pub target: PathBuf,
    /// The mount itself is read-only.
    pub read_only: bool,
    /// With `read_only`: every mount below it, too (`recursiveReadOnly`).
    pub recursive_read_only: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
    /// Owners are shifted by the pod's user name space.
    pub id_mapped: bool,
}

impl Bind {
    /// A private, writable bind of a path.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self {
            source: Source::Path(source.into()),
            target: target.into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            id_mapped: false,
        }
    }

    /// The same, read-only.
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { read_only: true, ..Self::new(source, target) }
    }
}

/// A read-only view of an image as a volume: its layers stacked, nothing writable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Layer directories, lowest first.
    pub layers: Vec<PathBuf>,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Path in the image that is shown; empty for all of it.
    pub sub_path: PathBuf,
}

/// A mount of a container beyond the standard ones (`/proc`, `/sys`, `/sys/fs/cgroup`, `/dev` and what is in it).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mount {
    /// Part of the node.
    Bind(Bind),
    /// Memory.
    Tmpfs {
        /// Absolute path in the container.
        target: PathBuf,
        /// Limit in bytes.
        size: Option<u64>,
        /// Mode of its root, e.g. `0o1777`.
        mode: u32,
        /// Read-only.
        read_only: bool,
    },
    /// Image volume.
    Image(ImageMount),
}

impl Mount {
    /// Where it appears in the container.
    pub fn target(&self) -> &std::path::Path {
        match self {
            Mount::Bind(bind) => &bind.target,
            Mount::Tmpfs { target, .. } => target,
            Mount::Image(image) => &image.target,
        }
    }
}

/// A device of the node given to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Node on the host.
    pub host_path: PathBuf,
    /// Node in the container.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
    /// What is said of the node in the container rather than seen on the host.
    #[serde(default)]
    pub node: DeviceNode,
}

/// What a device in a container is like; what is absent is as on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceNode {
    /// Kind (`c`, `b` or `p`) with major and minor number; the host needs no such node then.
    pub number: Option<(char, u32, u32)>,
    /// Mode.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Device {
    /// A node of the host under another name, like it.
    pub fn new(host_path: impl Into<PathBuf>, container_path: impl Into<PathBuf>, permissions: impl Into<String>) -> Self {
        let (host_path, container_path, permissions) = (host_path.into(), container_path.into(), permissions.into());
        Self { host_path, container_path, permissions, node: DeviceNode::default() }
    }

    /// Whether the container sees it outside of `/dev`.
    pub fn is_elsewhere(&self) -> bool {
        self.container_path.is_absolute() && !self.container_path.starts_with("/dev")
    }
}

/// When a hook runs, in the words of the OCI runtime specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// On the node, when the container's name spaces are there. The older name of the next one, which it precedes.
    Prestart,
    /// On the node, when the container's name spaces and mounts are there.
    CreateRuntime,
    /// In the container's name spaces, while the paths are still those of the node.
    CreateContainer,
    /// In the container, as its user, before its program.
    StartContainer,
    /// On the node, once the program runs.
    Poststart,
    /// On the node, once nothing is left of the container.
    Poststop,
}

impl HookKind {
    /// All, in the order in which they run.
    pub const ALL: [HookKind; 6] = [
        HookKind::Prestart,
        HookKind::CreateRuntime,
        HookKind::CreateContainer,
        HookKind::StartContainer,
        HookKind::Poststart,
        HookKind::Poststop,
    ];
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookKind::Prestart => "prestart",
            HookKind::CreateRuntime => "createRuntime",
            HookKind::CreateContainer => "createContainer",
            HookKind::StartContainer => "startContainer",
            HookKind::Poststart => "poststart",
            HookKind::Poststop => "poststop",
        })
    }
}

/// A program that runs at a moment of a container's life and reads its state from standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When.
    pub kind: HookKind,
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// `NAME=value` lines; it has no others.
    pub env: Vec<String>,
    /// How long it may take; two minutes where nothing is said.
    pub timeout: Option<Duration>,
}

/// One resource limit of `setrlimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub kind: String,
    /// Limit in force.
    pub soft: u64,
    /// Ceiling.
    pub hard: u64,
}

/// Where and how a container's output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// File in CRI format, usually `<log_dir>/<container>/<attempt>.log`. Directories are made when missing.
    pub path: PathBuf,
    /// The keeper rotates at this size; 0 never (the caller rotates and calls [`crate::Sandbox::reopen_log`]).
    pub max_size: u64,
    /// How many files to keep, the current one included.
    pub max_files: u32,
}

/// What a container shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name, unique in the sandbox for all attempts.
    pub id: ContainerId,
    /// Stored and returned with its status.
    pub labels: BTreeMap<String, String>,
    /// Stored and returned with its status.
    pub annotations: BTreeMap<String, String>,
    /// Its files.
    pub rootfs: Rootfs,
    /// The root itself is read-only.
    pub read_only_root: bool,
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// `NAME=value` lines. `PATH`, `HOME`, `HOSTNAME` and (with a terminal) `TERM` are added when missing.
    pub env: Vec<String>,
    /// Working directory; empty is `/`. Made when missing.
    pub cwd: String,
    /// As whom.
    pub user: User,
    /// With which privileges.
    pub capabilities: Capabilities,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privs: bool,
    /// All devices, writable `/sys`, nothing masked. Capabilities are still those of `capabilities`.
    pub privileged: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// Paths that are hidden; [`default_masked_paths`] for `procMount: Default`.
    pub masked_paths: Vec<String>,
    /// Paths that are read-only; [`default_read_only_paths`] for `procMount: Default`.
    pub read_only_paths: Vec<String>,
    /// Further mounts; applied by depth of their targets, equal ones in order.
    pub mounts: Vec<Mount>,
    /// Further devices.
    pub devices: Vec<Device>,
    /// Resource limits of its processes.
    pub rlimits: Vec<Rlimit>,
    /// Badness for the kernel's out-of-memory killer; not lowered where we may not.
    pub oom_score_adj: Option<i32>,
    /// PID name space.
    pub pid: PidMode,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Keep standard input open for attach; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close standard input when the first attached session ends its input.
    pub stdin_once: bool,
    /// Resources of its cgroup.
    pub limits: cgroup::Limits,
    /// Its log; none drops the output (attach still works).
    pub log: Option<LogSpec>,
    /// Size of a `/dev/shm` of its own when the sandbox uses the host's IPC; otherwise the pod's is used.
    pub stop_signal: Option<i32>,
    /// Programs that run at moments of its life; those of a kind in order.
    #[serde(default)]
    pub hooks: Vec<Hook>,
}

impl ContainerSpec {
    /// A container with the defaults of Kubernetes: default capabilities, default masks, no filter.
    pub fn new(id: ContainerId, rootfs: Rootfs, argv: Vec<String>) -> Self {
        Self {
            id,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            rootfs,
            read_only_root: false,
            argv,
            env: Vec::new(),
            cwd: String::new(),
            user: User::default(),
            capabilities: Capabilities::of(&default_capabilities()),
            no_new_privs: false,
            privileged: false,
            seccomp: Seccomp::Unconfined,
            masked_paths: default_masked_paths(),
            read_only_paths: default_read_only_paths(),
            mounts: Vec::new(),
            devices: Vec::new(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            pid: PidMode::Container,
            tty: false,
            stdin: false,
            stdin_once: false,
            limits: cgroup::Limits::default(),
            log: None,
            stop_signal: None,
            hooks: Vec::new(),
        }
    }
}

impl Capabilities {
    /// Bounding, effective and permitted are the given set; nothing is inheritable or ambient.
    pub fn of(names: &[String]) -> Self {
        Self {
            bounding: names.to_vec(),
            effective: names.to_vec(),
            permitted: names.to_vec(),
            inheritable: Vec::new(),
            ambient: Vec::new(),
        }
    }

    /// The default set changed by a pod's `add` and `drop` lists, which may contain `ALL` and omit `CAP_`.
    /// A privileged container gets every capability that we have ourselves.
    pub fn from_pod(add: &[String], drop: &[String], privileged: bool) -> Self {
        let full = |name: &String| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
        };
        let all = || crate::spawn::capabilities::all_names();
        if privileged {
            return Self::of(&all());
        }
        let added: Vec<String> = add.iter().map(full).collect();
        let dropped: Vec<String> = drop.iter().map(full).collect();
        let mentions_all = |names: &[String]| names.iter().any(|name| name == "ALL");
        let mut names = if mentions_all(&dropped) {
            Vec::new()
        } else if mentions_all(&added) {
            all()
        } else {
            default_capabilities()
        };
        names.extend(added.into_iter().filter(|name| name != "ALL"));
        names.retain(|name| !dropped.contains(name));
        names.sort();
        names.dedup();
        Self::of(&names)
    }
}

/// The capabilities that a container has when nothing else is said.
pub fn default_capabilities() -> Vec<String> {
    [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ]
    .map(String::from)
    .to_vec()
}

/// Paths that tell or give too much about the node.
pub fn default_masked_paths() -> Vec<String> {
    [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]
    .map(String::from)
    .to_vec()
}

/// Paths of `/proc` that a container may read only.
pub fn default_read_only_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_component_of_a_path() {
        for name in ["a", "0-a_b.c", "1a2b"] {
            assert!(SandboxId::new(name).is_ok() && ContainerId::new(name).is_ok(), "{name}");
        }
        let long = "a".repeat(129);
        for name in ["", ".", "..", ".a", "-a", "a/b", "/a", "../a", "a\0b", "a b", "\u{e4}", &long] {
            assert!(SandboxId::new(name).is_err() && ContainerId::new(name).is_err(), "{name:?}");
            assert!(serde_json::from_value::<ContainerId>(name.into()).is_err(), "{name:?}");
        }
    }
}
