//! Hooks of containers: programs of the node that run at fixed moments of a container's life, as the OCI runtime specification
//! names them. Vendors' descriptions of devices bring them.
//!
//! ```text
//!  main process                       keeper            container process
//!   create ------------------------>   fork ---------->  root and mounts are there, the node's paths too
//!          <-- Paused ---------------  <-- Paused ----
//!   prestart, createRuntime
//!   Proceed ----------------------->   word ---------->  createContainer, then the node's paths go
//!   start ------------------------->   word ---------->  startContainer as the container's user, then its program
//!   poststart
//!   remove ------------------------>
//!   poststop
//! ```
//!
//! A hook that fails, or takes too long, ends the container; only that of poststop is told of and no more.

pub(crate) mod bundle;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::spec::{Hook, HookKind};

/// How long a hook may take that says nothing about it: as long as kubelets wait for their runtimes.
const PATIENCE: Duration = Duration::from_secs(120);
/// How much of what it says on standard error is told.
const WORDS: usize = 1024;

/// A hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It could not be started or waited for.
    #[error("error running {kind} hook {path:?}")]
    Run {
        kind: HookKind,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It says that it failed.
    #[error("error running {kind} hook {path:?}: {status}, stderr: {said}")]
    Failed { kind: HookKind, path: PathBuf, status: ExitStatus, said: String },
    /// It took too long.
    #[error("error running {kind} hook {path:?}: it was killed after {within:?}")]
    Late { kind: HookKind, path: PathBuf, within: Duration },
}

/// An error with its cause, in one line.
pub(crate) fn told(error: &HookError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Runs the hooks of a kind, one after another, until one fails.
pub(crate) fn run_all(hooks: &[Hook], kind: HookKind, state: &str) -> Result<(), HookError> {
    hooks.iter().filter(|hook| hook.kind == kind).try_for_each(|hook| run(hook, state))
}

/// Runs a hook where this process is: in its name spaces, with its root and its rights.
fn run(hook: &Hook, state: &str) -> Result<(), HookError> {
    let (kind, path) = (hook.kind, &hook.path);
    let failed = |source| HookError::Run { kind, path: path.clone(), source };
    let within = hook.timeout.unwrap_or(PATIENCE);
    let mut child = start(hook, state).map_err(failed)?;
    let words: Option<OwnedFd> = child.stderr.take().map(OwnedFd::from);
    let ended = wait(&child, words, within);
    if !matches!(ended, Ok(Some(_))) {
        let _gone = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    match ended.map_err(failed)? {
        Some(said) if !status.success() => {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            Err(HookError::Failed { kind, path: path.clone(), status, said })
        }
        Some(_) => Ok(()),
        None => Err(HookError::Late { kind, path: path.clone(), within }),
    }
}

fn start(hook: &Hook, state: &str) -> io::Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    let variables = hook.env.iter().filter_map(|line| line.split_once('='));
    command.env_clear().envs(variables).stdout(Stdio::null()).stderr(Stdio::piped());
    command.stdin(crate::sys::memfd::sealed("container-state", state.as_bytes())?).spawn()
}

/// Waits for the end of a process while it is read what it says; none if it does not end in time. What it started may hold its
/// standard error open for ever, so the end of that is not waited for.
fn wait(child: &Child, mut words: Option<OwnedFd>, within: Duration) -> io::Result<Option<Vec<u8>>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    if let Some(words) = &words {
        rustix::io::ioctl_fionbio(words, true)?;
    }
    let (deadline, mut said) = (Instant::now() + within, Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(words.iter().map(|words| PollFd::from_borrowed_fd(words.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = fds[0].revents().contains(PollFlags::IN);
        drop(fds);
        if words.as_ref().is_some_and(|words| !take(words, &mut said)) {
            words = None;
        }
        match ended {
            true => return Ok(Some(said)),
            false if left.is_zero() => return Ok(None),
            false => {}
        }
    }
}

/// Takes what there is; false at the end.
fn take(from: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return false,
            Ok(size) => said.extend_from_slice(&buffer[..size.min(WORDS.saturating_sub(said.len()))]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return error == rustix::io::Errno::AGAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(script: &str, timeout: Option<u64>, wanted: Result<(), &str>) {
        let hook = Hook {
            kind: HookKind::CreateRuntime,
            path: "/bin/sh".into(),
            args: ["hook", "-c", script].map(str::to_owned).into(),
            env: vec!["A=b".into(), "no variable".into()],
            timeout: timeout.map(Duration::from_millis),
        };
        let outcome = run_all(&[hook], HookKind::CreateRuntime, r#"{"id":"c"}"#).map_err(|error| error.to_string());
        match (&outcome, wanted) {
            (Ok(()), Ok(())) => {}
            (Err(text), Err(part)) if text.contains(part) => {}
            _ => panic!("{script}: {outcome:?}"),
        }
    }

    #[test]
    fn hooks_succeed_fail_and_are_late() {
        check(r#"test "$(cat)" = '{"id":"c"}' && test "$A" = b && test "$0" != x"#, None, Ok(()));
        check("echo much on standard output; echo why >&2; exit 3", None, Err("exit status: 3, stderr: why"));
        check("exec sleep 1000", Some(50), Err("killed after 50ms"));
        check("sleep 1000 & exit 0", Some(60_000), Ok(()));
        check("head -c 300000 /dev/zero >&2; exit 1", None, Err("exit status: 1"));
        let missing = Hook { kind: HookKind::Poststop, path: "/nonexistent".into(), args: vec![], env: vec![], timeout: None };
        let refused = run_all(std::slice::from_ref(&missing), HookKind::Poststop, "").unwrap_err();
        assert_eq!(refused.to_string(), "error running poststop hook \"/nonexistent\"");
        assert!(run_all(&[missing], HookKind::Poststart, "").is_ok(), "it is of another kind");
    }
}
