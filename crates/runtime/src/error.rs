//! One error per operation, with only what that operation can meet.

use std::io;
use std::path::PathBuf;

/// Why the runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Our executable could not be protected, or not be started again.
    #[error("run {path} from where containers cannot write to it")]
    Executable {
        /// What was read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The run directory is not usable.
    #[error("prepare run directory {path}")]
    RunDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cgroups are not usable.
    #[error("prepare cgroup root")]
    Cgroup(#[source] cgroup::Error),
}

/// The conversation with a keeper failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The keeper is gone, and with it the sandbox.
    #[error("sandbox is gone: its keeper has ended")]
    Gone,
    /// A message could not be sent or understood.
    #[error("talk to the keeper")]
    Io(#[source] io::Error),
    /// The keeper refused.
    #[error("{0}")]
    Refused(String),
    /// The keeper's cgroups could not be changed.
    #[error("change cgroup")]
    Cgroup(#[source] cgroup::Error),
}

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateSandboxError {
    /// There is one of this name.
    #[error("sandbox {0} exists already")]
    Exists(String),
    /// Its directory could not be made.
    #[error("prepare {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its cgroup could not be made.
    #[error("prepare cgroup of the pod")]
    Cgroup(#[source] cgroup::Error),
    /// The keeper could not be started.
    #[error("start keeper")]
    Spawn(#[source] io::Error),
    /// The keeper could not set up the name spaces, sysctls or shared memory.
    #[error("set up sandbox: {0}")]
    Setup(String),
    /// What was asked for is not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateContainerError {
    /// There is one of this name.
    #[error("container {0} exists already")]
    Exists(String),
    /// The description contradicts itself or the image (unknown user, relative path, bad profile).
    #[error("{0}")]
    Invalid(String),
    /// A step of the set-up failed.
    #[error("failed to create containerd task: {0}")]
    Setup(String),
    /// The sandbox did not answer.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such container, or it is not waiting to be started.
    #[error("container {0} is not waiting to be started")]
    NotCreated(String),
    /// Its program could not be executed; the container is now `Exited` with code 128 and reason `StartError`.
    #[error("{0}")]
    Exec(String),
    /// The sandbox did not answer.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No such container.
    #[error("container {0} not found")]
    NotFound(String),
    /// It is not in a state that allows this.
    #[error("{0}")]
    WrongState(String),
    /// The keeper tried and failed.
    #[error("{0}")]
    Failed(String),
    /// Its cgroup could not be read or changed.
    #[error("change cgroup of the container")]
    Cgroup(#[source] cgroup::Error),
    /// The sandbox did not answer.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Why a command could not be run in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No such container, or it does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The program could not be executed.
    #[error("{0}")]
    Start(String),
    /// It did not end in time and was killed.
    #[error("command {command:?} timed out")]
    Timeout {
        /// What was run.
        command: String,
    },
    /// The sandbox did not answer.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}
