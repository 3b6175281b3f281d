//! A further process of a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use cgroup::JoinHandles;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::identity::{self, Identity};
use super::users::Users;
use super::{Report, Streams, capabilities, container, dev, environment, give_up, program, user};
use crate::protocol::ExecRequest;
use crate::spec::ContainerSpec;

/// All that it needs from the keeper. The PID name space is that of the container already.
pub(crate) struct ExecLaunch<'a> {
    pub spec: &'a ContainerSpec,
    pub request: &'a ExecRequest,
    /// First process of the container.
    pub init: BorrowedFd<'a>,
    pub join: &'a JoinHandles,
    /// The pod's users, where they are not the node's.
    pub users: Option<&'a Users>,
    pub streams: &'a Streams,
    pub filter: Option<&'a [u8]>,
    pub socket: &'a OwnedFd,
}

/// Becomes the command.
pub(crate) fn run(launch: &ExecLaunch<'_>) -> ! {
    let why = match enter(launch) {
        Ok(env) => program::execute(&launch.request.argv, &env),
        Err(error) => format!("{error:#}"),
    };
    give_up(launch.socket.as_fd(), Report::Refused(format!("unable to start container process: {why}")))
}

fn enter(launch: &ExecLaunch<'_>) -> anyhow::Result<Vec<String>> {
    let (spec, request) = (launch.spec, launch.request);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")?;
    launch.join.join_current().context("enter cgroup")?;
    identity::set_oom_score(spec.oom_score_adj.unwrap_or(0))?;
    identity::set_rlimits(&spec.rlimits)?;
    let spaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(launch.init, spaces).context("enter name spaces of the container")?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let account = user::resolve(&root, request.user.as_ref().unwrap_or(&spec.user))?;
    if let Some(users) = launch.users {
        users.give_all(launch.streams, &account.user);
        users.enter()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")?;
    }
    let mut env = environment::merge(&spec.env, &request.env);
    if request.tty && environment::value(&env, "TERM").is_none() {
        env.push("TERM=xterm".into());
    }
    if environment::value(&env, "HOME").is_none() {
        env.push(format!("HOME={}", account.home));
    }
    rustix::process::setsid().context("begin session")?;
    let terminal = if request.tty {
        let pts =
            rustix::fs::open("/dev/pts", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open /dev/pts")?;
        let terminal = dev::new_terminal(&pts)?;
        Report::Ready(account.user.clone()).send(launch.socket.as_fd(), &[terminal.ours.as_fd()])?;
        Some(terminal)
    } else {
        None
    };
    container::connect(launch.streams, terminal.as_ref(), &account.user)?;
    identity::set_umask();
    crate::sys::process::close_on_exec_all().context("close descriptors")?;
    // The keeper handles nothing and ignores only this one; a new program expects neither.
    crate::sys::process::default_signal(libc::SIGPIPE);
    crate::sys::process::unblock_signals();
    let capabilities = capabilities::prepare(&spec.capabilities).map_err(super::BadDescription)?;
    identity::assume(&Identity {
        user: &account.user,
        capabilities: &capabilities,
        no_new_privs: spec.no_new_privs,
        filter: launch.filter,
        cwd: request.cwd.as_deref().unwrap_or(&spec.cwd),
    })?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")?;
    Ok(env)
}
