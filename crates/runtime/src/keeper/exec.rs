//! Commands in running containers. A command belongs to the client that asked for it and ends with it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use rustix::event::epoll::{self, EventFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::container::send_signal;
use super::{Asker, Keeper, Token, state};
use crate::protocol::{ExecRequest, Failure, Message, Notice, Reply};
use crate::spawn::{self, ExecLaunch, Report, Streams};
use crate::status::{ContainerState, ExitStatus};
use crate::sys::clone::Side;

/// A running command.
pub(super) struct Exec {
    number: u32,
    pub pid: i32,
    pub client: u32,
    /// Until it is known whether the program runs.
    asked: Option<Asker>,
    socket: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    failure: Option<String>,
}

impl Exec {
    /// Signals the command and what it started in its session.
    pub(super) fn kill(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let _no_group_yet = rustix::process::kill_process_group(pid, signal);
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

impl Keeper {
    pub(super) fn create_exec(&mut self, asker: Asker, request: &ExecRequest, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Failure> {
        let place = self.place(&request.id)?;
        let container = &self.containers[place];
        let (ContainerState::Running, Some(init)) = (container.status.state, container.status.pid) else {
            return Err(Failure::WrongState("container is not running".into()));
        };
        if request.argv.is_empty() {
            return Err(Failure::Invalid("no command specified".into()));
        }
        let host_pids = container.host_pids;
        let forked = self.fork_exec(asker, request, fds, init, host_pids);
        forked.map(|()| None).map_err(|error| Failure::Failed(format!("{error:#}")))
    }

    fn fork_exec(&mut self, asker: Asker, request: &ExecRequest, fds: Vec<OwnedFd>, init: i32, host_pids: bool) -> anyhow::Result<()> {
        let spec = state::read_container(&self.files, &request.id).context("read description of the container")?;
        let filter = fs::read(self.files.container(&request.id).join("seccomp.bpf")).ok();
        let join = self.group.child(request.id.as_str())?.join_handles()?;
        let init_pid = Pid::from_raw(init).context("container has no process")?;
        let pidfd = rustix::process::pidfd_open(init_pid, PidfdFlags::empty()).context("open container")?;
        let mut given = fds.into_iter();
        let mut next = |wanted: bool| -> anyhow::Result<OwnedFd> {
            match (wanted, wanted.then(|| given.next()).flatten()) {
                (_, Some(fd)) => Ok(fd),
                (true, None) => Err(anyhow::anyhow!("a stream was announced but not given")),
                (false, None) => self.null.try_clone().context("copy /dev/null"),
            }
        };
        let streams = if request.tty {
            Streams::Terminal
        } else {
            Streams::Files { input: next(request.stdin)?, output: next(request.stdout)?, error: next(request.stderr)? }
        };
        let (socket, theirs) = crate::sys::socket::pair().context("make conversation")?;
        let launch = ExecLaunch {
            spec: &spec,
            request,
            init: pidfd.as_fd(),
            join: &join,
            users: self.users.as_ref(),
            streams: &streams,
            filter: filter.as_deref(),
            socket: &theirs,
        };
        let side = if host_pids {
            crate::sys::clone::fork(0, join.unified()).context("fork")?
        } else {
            self.fork_into_pids_of(init, 0, join.unified())?
        };
        let pid = match side {
            Side::Child => spawn::run_exec(&launch),
            Side::Parent(pid) => pid,
        };
        let number = self.number();
        epoll::add(&self.epoll, &socket, Token::Exec.with(number), EventFlags::IN)?;
        self.execs.push(Exec {
            number,
            pid,
            client: asker.client,
            asked: Some(asker),
            socket: Some(socket),
            terminal: None,
            failure: None,
        });
        Ok(())
    }

    pub(super) fn exec_reported(&mut self, number: u32) {
        let Some(place) = self.execs.iter().position(|exec| exec.number == number) else { return };
        loop {
            let exec = &mut self.execs[place];
            let Some(socket) = &exec.socket else { return };
            match Report::receive(socket) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(Some((Report::Moved(_) | Report::Paused, _))) => {}
                Ok(Some((Report::Ready(_), mut fds))) => exec.terminal = fds.pop(),
                Ok(Some((Report::Failed(text) | Report::Invalid(text) | Report::Refused(text), _))) => {
                    exec.failure = Some(text);
                }
                Ok(None) | Err(_) => {
                    exec.socket = None;
                    if exec.failure.is_some() {
                        return;
                    }
                    let (pid, terminal) = (exec.pid, exec.terminal.take());
                    if let Some(asker) = exec.asked.take() {
                        let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                        self.reply(asker, Reply::Exec { exec: u64::from(number), pid }, &fds);
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn exec_ended(&mut self, place: usize, exit: ExitStatus) {
        let number = self.execs[place].number;
        self.exec_reported(number);
        let exec = self.execs.remove(place);
        match (exec.asked, exec.failure) {
            (Some(asker), failure) => {
                let text = failure.unwrap_or_else(|| format!("command ended with code {} before it began", exit.code));
                self.reply(asker, Reply::Failed(Failure::Exec(text)), &[]);
            }
            (None, _) => {
                let notice = Notice::ExecExited { exec: u64::from(number), exit };
                self.send(exec.client, 0, &Message::Notice(notice), &[]);
            }
        }
        crate::sys::process::trim_memory();
    }

    pub(super) fn kill_exec(&mut self, number: u64, signal: i32) -> Result<Option<Reply>, Failure> {
        if let Some(exec) = self.execs.iter().find(|exec| u64::from(exec.number) == number) {
            match Signal::from_named_raw(signal) {
                Some(signal) => exec.kill(signal),
                None => send_signal(exec.pid, signal)?,
            }
        }
        Ok(Some(Reply::Done))
    }
}
