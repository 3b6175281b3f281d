//! Commands in running containers and attached sessions. Data never passes through the keeper where a descriptor can.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::error::{ContainerError, ExecError, SandboxError};
use crate::link::{AttachInner, ExecInner};
use crate::sandbox::Sandbox;
use crate::spec::{ContainerId, User};
use crate::status::ExitStatus;

/// A command to run in a container.
#[derive(Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to (and overriding) the container's environment.
    pub env: Vec<String>,
    /// Working directory instead of the container's.
    pub cwd: Option<String>,
    /// As whom, instead of the container's user.
    pub user: Option<User>,
    /// A terminal: [`ExecHandle::take_terminal`] gives our end, the three descriptors below are ignored.
    pub tty: bool,
    /// Its input; none is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Its output; none is `/dev/null`.
    pub stdout: Option<OwnedFd>,
    /// Its error output; none is `/dev/null`.
    pub stderr: Option<OwnedFd>,
}

impl ExecSpec {
    /// A command without input and output.
    pub fn new(argv: Vec<String>) -> Self {
        Self { argv, ..Self::default() }
    }
}

/// What a short command wrote and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub exit: ExitStatus,
    /// Output, cut at the asked limit.
    pub stdout: Vec<u8>,
    /// Error output, cut at the asked limit.
    pub stderr: Vec<u8>,
}

/// A running command. Dropped before its end, it is killed with its session.
#[derive(Debug)]
pub struct ExecHandle {
    pub(crate) inner: ExecInner,
}

impl ExecHandle {
    /// Its process as we see it.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// Our end of the terminal, once: read for output, write for input.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.inner.terminal.take()
    }

    /// Waits for its end. May be called again.
    pub async fn wait(&mut self) -> Result<ExitStatus, ExecError> {
        self.inner.wait().await
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), ExecError> {
        self.inner.resize(columns, rows).await
    }

    /// Sends a signal to its session.
    pub async fn kill(&self, signal: i32) -> Result<(), ExecError> {
        self.inner.kill(signal).await
    }
}

/// Which streams of a running container a session wants.
#[derive(Debug, Default)]
pub struct AttachSpec {
    /// Give a descriptor to write to its input; an error when the container keeps none open.
    pub stdin: bool,
    /// Gets a copy of its output from now on (terminal output, too).
    pub stdout: Option<OwnedFd>,
    /// Gets a copy of its error output from now on.
    pub stderr: Option<OwnedFd>,
}

/// An attached session. Dropping it detaches.
#[derive(Debug)]
pub struct AttachHandle {
    pub(crate) inner: AttachInner,
}

impl AttachHandle {
    /// The container's input, once; for a terminal its write side. Closing it ends the input of a `stdin_once` container.
    pub fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.inner.stdin.take()
    }

    /// Waits until the container has ended and all its output was handed over.
    pub async fn wait(&mut self) -> Result<ExitStatus, ContainerError> {
        self.inner.wait().await
    }
}

impl Sandbox {
    /// Runs a command and collects its output; kills it after `timeout`. For probes and hooks.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        timeout: Option<Duration>,
        max_output: usize,
    ) -> Result<ExecOutput, ExecError> {
        let command = argv.join(" ");
        let pipe_failed = |source: io::Error| ExecError::Sandbox(SandboxError::Io(source));
        let (out_read, out_write) = crate::sys::pipe().map_err(pipe_failed)?;
        let (err_read, err_write) = crate::sys::pipe().map_err(pipe_failed)?;
        let spec = ExecSpec { stdout: Some(out_write), stderr: Some(err_write), ..ExecSpec::new(argv) };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let run = async {
            let mut handle = self.exec(id, spec).await?;
            let collect = async { tokio::join!(collect(out_read, &mut stdout, max_output), collect(err_read, &mut stderr, max_output)) };
            tokio::pin!(collect);
            // A command may leave children behind that hold its output open; its own end decides.
            tokio::select! {
                exit = handle.wait() => {
                    let _held_open = tokio::time::timeout(Duration::from_millis(100), &mut collect).await;
                    exit
                }
                _ = &mut collect => handle.wait().await,
            }
        };
        let exit = match timeout {
            Some(limit) => tokio::time::timeout(limit, run).await.map_err(|_| ExecError::Timeout { command })??,
            None => run.await?,
        };
        Ok(ExecOutput { exit, stdout, stderr })
    }
}

async fn collect(fd: OwnedFd, into: &mut Vec<u8>, max: usize) -> io::Result<()> {
    let pipe = crate::sys::watch(fd)?;
    let mut buffer = [0; 4096];
    loop {
        let mut ready = pipe.readable().await?;
        match rustix::io::read(pipe.get_ref(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => {
                let room = max.saturating_sub(into.len()).min(size);
                into.extend_from_slice(&buffer[..room]);
            }
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
