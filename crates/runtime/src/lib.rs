//! Container runtime: turns a container description into processes, without a daemon and without helper programs.
//!
//! One *sandbox* is one pod. It is held by one *keeper*: a small single-threaded process that owns the pod's name spaces,
//! is the parent of its containers, writes their logs and keeps their exit codes. Keepers are forked from one copy of our
//! own executable, started where no container can write to it. A keeper survives us; after a restart
//! [`Runtime::recover`] finds it again. If it dies, its containers die with it and no other pod is touched. All this
//! happens before `main` proper: every program that uses this crate calls [`reexec::dispatch`] first.
//!
//! ```text
//! main process (threads, tokio)        keeper (1 per pod, epoll)         container
//!   Runtime --- create_sandbox ------>  owns net, uts, ipc
//!   Sandbox --- create_container ---->  fork ----------------------->    mounts, pivot_root, waits
//!           --- start --------------->  go ------------------------->    capabilities, seccomp, execve
//!           <-- Exited -------------    waitpid, log writer, state file
//! ```

pub mod error;
mod hooks;
mod keeper;
pub mod kernel;
mod link;
mod points;
mod protocol;
pub mod reexec;
mod runtime;
mod sandbox;
mod seccomp;
pub mod signals;
mod spawn;
pub mod spec;
pub mod status;
mod streams;
mod sys;

/// Packets with descriptors over unix sockets, for other processes that hold something while we are away.
pub mod packets {
    pub use crate::sys::socket::{connect, listen, peer, peer_uid, receive, send};
    pub use crate::sys::watch;
}

pub use error::{ContainerError, CreateContainerError, CreateSandboxError, ExecError, OpenError, SandboxError, StartError};
pub use runtime::{Recovered, Runtime, RuntimeConfig};
pub use sandbox::{Sandbox, StopOutcome};
pub use spec::{
    Bind, Capabilities, ContainerId, ContainerSpec, Device, DeviceNode, Hook, HookKind, IdMapping, ImageMount, LogSpec, Mount, NameSpace,
    NetNs, PidMode, Propagation, Rlimit, Rootfs, SandboxId, SandboxSpec, Seccomp, Source, SupplementalGroups, User, UserNs, UserRef,
};
pub use status::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, ExitStatus, ResolvedUser};
pub use streams::{AttachHandle, AttachSpec, ExecHandle, ExecOutput, ExecSpec};
pub use sys::Heap;
