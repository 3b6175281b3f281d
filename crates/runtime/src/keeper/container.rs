//! Containers as the keeper sees them: made, started, listened to, ended, forgotten.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use anyhow::Context;
use cgroup::{DeviceRule, Group};
use rustix::event::epoll::{self, EventFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use super::logs::{LONGEST, Log, Stream};
use super::{Asker, Keeper, Token, state};
use crate::protocol::{Failure, Notice, Reply};
use crate::spawn::{self, Launch, Report, Streams};
use crate::spec::{ContainerId, ContainerSpec, PidMode};
use crate::status::{ContainerState, ContainerStatus, ExitStatus, ResolvedUser};
use crate::sys::clone::{NEW_MOUNT, NEW_PID, Side};

/// One container, from its fork until it is removed.
pub(super) struct Container {
    pub status: ContainerStatus,
    pub number: u32,
    group: Group,
    /// Its first process is process 1 of a name space of its own, so the kernel kills the rest with it.
    own_pids: bool,
    pub host_pids: bool,
    stdin_once: bool,
    /// Conversation with its first process until that executes the program.
    socket: Option<OwnedFd>,
    /// Its first process waits for the hooks on the node.
    paused: bool,
    asked: Asked,
    /// Why the set-up or the start failed, until the process is reaped.
    failure: Option<Failure>,
    log: Option<Log>,
    /// Our ends of its streams. With a terminal there is only `terminal`.
    outputs: [Option<OwnedFd>; 2],
    pub terminal: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
}

/// Who waits for what.
#[derive(Default)]
struct Asked {
    create: Option<Asker>,
    start: Option<Asker>,
    remove: Option<Asker>,
}

impl Container {
    /// Whether its creation has succeeded; only then it is told about.
    pub(super) fn is_known(&self) -> bool {
        self.asked.create.is_none()
    }

    /// Kills its first process and everything else in its cgroup.
    pub(super) fn kill_all(&self) {
        if let Some(pid) = self.status.pid.and_then(Pid::from_raw) {
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _removed = self.group.kill_all();
    }

    /// The input that an attached session writes to.
    pub(super) fn input(&mut self) -> Result<OwnedFd, Failure> {
        let missing = || Failure::WrongState("container keeps no standard input open".into());
        if let Some(terminal) = &self.terminal {
            return terminal.try_clone().map_err(|error| Failure::Failed(error.to_string()));
        }
        if self.stdin_once {
            return self.stdin.take().ok_or_else(missing);
        }
        self.stdin.as_ref().ok_or_else(missing)?.try_clone().map_err(|error| Failure::Failed(error.to_string()))
    }

    fn stream(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Output => self.terminal.as_ref().or(self.outputs[0].as_ref()),
            Stream::Error => self.outputs[1].as_ref(),
        }
    }
}

/// The other ends of the streams, for the new process.
struct Ends {
    outputs: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    streams: Streams,
}

impl Keeper {
    pub(super) fn create_container(&mut self, asker: Asker, id: &ContainerId, passed: Vec<OwnedFd>) -> Result<Option<Reply>, Failure> {
        if self.place(id).is_ok() {
            return Err(Failure::Exists);
        }
        if self.ending {
            return Err(Failure::WrongState("the sandbox is being destroyed".into()));
        }
        let group = self.group.child(id.as_str()).map_err(|error| Failure::Invalid(error.to_string()))?;
        match self.fork_container(asker, id, &group, &passed) {
            Ok(()) => Ok(None),
            Err(error) => {
                let _busy = group.remove(std::time::Duration::from_millis(100));
                Err(Failure::Failed(format!("{error:#}")))
            }
        }
    }

    fn fork_container(&mut self, asker: Asker, id: &ContainerId, group: &Group, passed: &[OwnedFd]) -> anyhow::Result<()> {
        let mut spec = state::read_container(&self.files, id).context("read description of the container")?;
        if self.users.is_some() && spec.pid == PidMode::Host {
            return Err(anyhow::anyhow!("a pod with users of its own cannot share the node's processes"));
        }
        let dir = self.files.container(id);
        let filter = match fs::read(dir.join("seccomp.bpf")) {
            Ok(filter) => Some(filter),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("read system-call filter"),
        };
        group.create()?;
        spec.limits.devices.get_or_insert_with(|| device_rules(&spec.devices, spec.privileged));
        group.apply(&spec.limits)?;
        let join = group.join_handles()?;
        let log = spec.log.as_ref().map(Log::open).transpose().context("open log")?;
        let ends = make_streams(&spec, &self.null)?;
        let passed: Vec<OwnedFd> =
            passed.iter().map(|fd| crate::sys::mount::copy_fd(fd, true)).collect::<Result<_, _>>().context("copy mount source")?;
        let (socket, theirs) = crate::sys::socket::pair().context("make conversation")?;
        // With users of its own a container makes its name space of processes itself, after it has become one of them.
        let own_pids = if self.users.is_some() { 0 } else { NEW_PID };
        let init = if spec.pid == PidMode::Pod { Some(self.pod_init()?) } else { None };
        let launch = Launch {
            spec: &spec,
            root_point: dir,
            group,
            join: &join,
            streams: &ends.streams,
            passed: &passed,
            memory: &self.memory,
            users: self.users.as_ref(),
            filter: filter.as_deref(),
            hooked: (!spec.hooks.is_empty()).then_some(&self.files),
            socket: &theirs,
        };
        let side = match &spec.pid {
            PidMode::Container => crate::sys::clone::fork(NEW_MOUNT | own_pids, join.unified()).context("fork")?,
            PidMode::Host => crate::sys::clone::fork(NEW_MOUNT, join.unified()).context("fork")?,
            PidMode::Pod => {
                let init = init.context("the pod has no process 1")?;
                self.fork_into_pids_of(init, NEW_MOUNT, join.unified())?
            }
            PidMode::Target(target) => {
                let found = self.containers.iter().find(|c| &c.status.id == target);
                let running = found.filter(|c| c.status.state == ContainerState::Running).and_then(|c| c.status.pid);
                let pid = running.with_context(|| format!("target container {target} is not running"))?;
                self.fork_into_pids_of(pid, NEW_MOUNT, join.unified())?
            }
        };
        let pid = match side {
            Side::Child => spawn::run_container(&launch),
            Side::Parent(pid) => pid,
        };
        let number = self.number();
        epoll::add(&self.epoll, &socket, Token::Container.with(number), EventFlags::IN)?;
        for (fd, token) in ends.outputs.iter().zip([Token::Output, Token::ErrorOutput]) {
            if let Some(fd) = fd {
                epoll::add(&self.epoll, fd, token.with(number), EventFlags::IN)?;
            }
        }
        let status = ContainerStatus {
            id: id.clone(),
            state: ContainerState::Created,
            pid: Some(pid),
            created_at: crate::sys::now(),
            started_at: None,
            finished_at: None,
            exit: None,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
            user: ResolvedUser::default(),
            log_path: spec.log.as_ref().map(|log| log.path.clone()),
            labels: Default::default(),
            annotations: Default::default(),
        };
        self.containers.push(Container {
            status,
            number,
            group: group.clone(),
            own_pids: spec.pid == PidMode::Container,
            host_pids: spec.pid == PidMode::Host,
            stdin_once: spec.stdin_once,
            socket: Some(socket),
            paused: false,
            asked: Asked { create: Some(asker), ..Asked::default() },
            failure: None,
            log,
            outputs: ends.outputs,
            terminal: None,
            stdin: ends.stdin,
        });
        Ok(())
    }

    /// Something came from a container's first process: it is ready, has failed, or runs the program now.
    pub(super) fn container_reported(&mut self, number: u32) {
        let Some(place) = self.containers.iter().position(|c| c.number == number) else { return };
        loop {
            let container = &mut self.containers[place];
            let Some(socket) = &container.socket else { return };
            match Report::receive(socket) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(Some((Report::Moved(pid), _))) => container.status.pid = Some(pid),
                Ok(Some((Report::Paused, _))) => {
                    container.paused = true;
                    let pid = container.status.pid.unwrap_or_default();
                    if let Some(asker) = container.asked.create.take() {
                        self.reply(asker, Reply::Paused { pid }, &[]);
                    }
                }
                Ok(Some((Report::Ready(user), mut fds))) => {
                    if let Some(users) = &self.users {
                        let streams: Vec<_> = container.outputs.iter().flatten().chain(&container.stdin).map(AsFd::as_fd).collect();
                        users.give(&streams, &user);
                    }
                    container.status.user = user;
                    if let Some(terminal) = fds.pop() {
                        let _logged = crate::sys::set_nonblocking(&terminal);
                        let data = Token::Output.with(number);
                        if let Err(error) = epoll::add(&self.epoll, &terminal, data, EventFlags::IN) {
                            eprintln!("keeper: listen to terminal: {error}");
                        }
                        container.terminal = Some(terminal);
                    }
                    if let Some(asker) = container.asked.create.take() {
                        let reply = Reply::Container(Box::new(container.status.clone()));
                        self.note(place);
                        self.reply(asker, reply, &[]);
                    }
                }
                // The process ends by itself now; the answer follows when it is reaped, so that nothing is left by then.
                Ok(Some((Report::Failed(text), _))) => container.failure = Some(Failure::Failed(text)),
                Ok(Some((Report::Invalid(text), _))) => container.failure = Some(Failure::Invalid(text)),
                Ok(Some((Report::Refused(text), _))) => container.failure = Some(Failure::Exec(text)),
                Ok(None) | Err(_) => {
                    container.socket = None;
                    if container.failure.is_none() && container.asked.start.is_some() {
                        self.container_runs(place);
                    }
                    return;
                }
            }
        }
    }

    fn container_runs(&mut self, place: usize) {
        let container = &mut self.containers[place];
        container.status.state = ContainerState::Running;
        let status = Box::new(container.status.clone());
        let asker = container.asked.start.take();
        self.note(place);
        if let Some(asker) = asker {
            self.reply(asker, Reply::Container(status.clone()), &[]);
        }
        self.notify(Notice::Started(status));
        crate::sys::process::trim_memory();
    }

    /// The hooks on the node have run.
    pub(super) fn proceed(&mut self, asker: Asker, id: &ContainerId) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        let container = &mut self.containers[place];
        let (Some(socket), Some(pid), true) = (&container.socket, container.status.pid, container.paused) else {
            return Err(Failure::WrongState("container does not wait for its hooks".into()));
        };
        rustix::io::write(socket, pid.to_string().as_bytes()).map_err(|error| Failure::Failed(format!("go on: {error}")))?;
        container.paused = false;
        container.asked.create = Some(asker);
        Ok(None)
    }

    pub(super) fn start_container(&mut self, asker: Asker, id: &ContainerId) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        let container = &mut self.containers[place];
        let waiting = container.status.state == ContainerState::Created && container.asked.start.is_none() && !container.paused;
        let Some(socket) = container.socket.as_ref().filter(|_| waiting && container.is_known()) else {
            return Err(Failure::WrongState("container is not waiting to be started".into()));
        };
        rustix::io::write(socket, b"g").map_err(|error| Failure::Failed(format!("start: {error}")))?;
        container.status.started_at = Some(crate::sys::now());
        container.asked.start = Some(asker);
        Ok(None)
    }

    pub(super) fn kill_container(&mut self, id: &ContainerId, signal: i32, all: bool) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        let container = &self.containers[place];
        if all {
            container.kill_all();
        } else if let Some(pid) = container.status.pid {
            send_signal(pid, signal)?;
        }
        Ok(Some(Reply::Done))
    }

    pub(super) fn remove_container(&mut self, asker: Asker, id: &ContainerId) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        match self.containers[place].status.state {
            ContainerState::Running => Err(Failure::WrongState("container is running".into())),
            ContainerState::Created => {
                self.containers[place].asked.remove = Some(asker);
                self.containers[place].kill_all();
                Ok(None)
            }
            ContainerState::Exited => {
                self.forget(place);
                Ok(Some(Reply::Done))
            }
        }
    }

    fn forget(&mut self, place: usize) {
        let container = self.containers.remove(place);
        self.note_removed(&container.status.id);
        crate::sys::process::trim_memory();
    }

    /// The first process was reaped.
    pub(super) fn container_ended(&mut self, place: usize, exit: ExitStatus) {
        let number = self.containers[place].number;
        self.container_reported(number);
        let container = &mut self.containers[place];
        container.status.pid = None;
        if !container.own_pids {
            let _removed = container.group.kill_all();
        }
        if container.asked.create.is_some() || container.asked.remove.is_some() {
            return self.container_never_ran(place, exit);
        }
        self.drain(place);
        let container = &mut self.containers[place];
        container.outputs = [None, None];
        container.terminal = None;
        container.stdin = None;
        container.log = None;
        container.socket = None;
        let status = &mut container.status;
        status.state = ContainerState::Exited;
        status.finished_at = Some(crate::sys::now());
        status.oom_killed = container.group.oom_kills().is_ok_and(|kills| kills > 0);
        let refused = container.failure.take().map(Failure::text);
        let start = container.asked.start.take();
        match &refused {
            Some(text) => {
                status.exit = Some(ExitStatus { code: 128, signal: None });
                status.reason = "StartError".into();
                status.message = text.clone();
                status.started_at = None;
            }
            None => {
                status.exit = Some(exit);
                let reason = if exit.success() { "Completed" } else { "Error" };
                status.reason = if status.oom_killed { "OOMKilled" } else { reason }.into();
            }
        }
        let status = Box::new(status.clone());
        self.note(place);
        if let Some(asker) = start {
            let text = refused.unwrap_or_else(|| "container process ended before its program began".into());
            self.reply(asker, Reply::Failed(Failure::Exec(text)), &[]);
        }
        self.end_attached(number, status.exit.unwrap_or(exit));
        self.notify(Notice::Exited(status));
        crate::sys::process::trim_memory();
    }

    /// It was removed before its start, or its set-up failed: nothing of it stays.
    fn container_never_ran(&mut self, place: usize, exit: ExitStatus) {
        let mut container = self.containers.remove(place);
        let create = container.asked.create.take();
        if create.is_some() {
            let _busy = container.group.remove(std::time::Duration::from_millis(500));
        }
        self.note_removed(&container.status.id);
        if let Some(asker) = container.asked.remove.take() {
            self.reply(asker, Reply::Done, &[]);
        }
        if let Some(asker) = create {
            let ended = || Failure::Failed(format!("container process ended with code {} during its set-up", exit.code));
            let failure = container.failure.take().unwrap_or_else(ended);
            self.reply(asker, Reply::Failed(failure), &[]);
        }
    }

    /// A stream of a container has something, or has ended.
    pub(super) fn container_wrote(&mut self, number: u32, stream: Stream) {
        let Some(place) = self.containers.iter().position(|c| c.number == number) else { return };
        if !self.read_once(place, stream, true) {
            let container = &mut self.containers[place];
            if stream == Stream::Output && container.terminal.is_some() {
                // A terminal without a process at its other end reads as an error until one opens it again; the container's
                // end closes it.
                if let Some(terminal) = &container.terminal {
                    let _not_added = epoll::delete(&self.epoll, terminal);
                }
                return;
            }
            let ended = container.outputs[usize::from(stream == Stream::Error)].take();
            if let Some(output) = ended {
                self.unwatch(&output);
            }
        }
    }

    /// Reads once and passes it on; false at the end of the stream.
    fn read_once(&mut self, place: usize, stream: Stream, to_attached: bool) -> bool {
        let mut buffer = [0; LONGEST];
        let container = &mut self.containers[place];
        let Some(fd) = container.stream(stream) else { return false };
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => false,
            Ok(size) => {
                let number = container.number;
                if let Some(log) = &mut container.log {
                    log.write(stream, &buffer[..size]);
                }
                if to_attached || !self.attached.is_empty() {
                    self.copy_to_attached(place, number, stream, &buffer[..size]);
                }
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Takes what is left in the streams of an ended container, without waiting for whoever else holds them open.
    fn drain(&mut self, place: usize) {
        for stream in [Stream::Output, Stream::Error] {
            for _ in 0..4096 {
                let Some(fd) = self.containers[place].stream(stream) else { break };
                let waiting = rustix::io::ioctl_fionread(fd).unwrap_or(0);
                if waiting == 0 || !self.read_once(place, stream, false) {
                    break;
                }
            }
        }
    }

    /// Listens to a stream again, or stops listening while an attached session is behind.
    pub(super) fn listen(&self, container: u32, stream: Stream, on: bool) {
        let Some(container) = self.containers.iter().find(|c| c.number == container) else { return };
        let token = if stream == Stream::Output { Token::Output } else { Token::ErrorOutput };
        if let Some(fd) = container.stream(stream) {
            let flags = if on { EventFlags::IN } else { EventFlags::empty() };
            let _ended = epoll::modify(&self.epoll, fd, token.with(container.number), flags);
        }
    }

    pub(super) fn resize(&mut self, id: &ContainerId, columns: u16, rows: u16) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        let terminal = self.containers[place].terminal.as_ref();
        let terminal = terminal.ok_or_else(|| Failure::WrongState("container has no terminal".into()))?;
        crate::sys::set_size(terminal, columns, rows).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(Some(Reply::Done))
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        if let Some(log) = &mut self.containers[place].log {
            log.reopen().map_err(|error| Failure::Failed(format!("reopen log: {error}")))?;
        }
        Ok(Some(Reply::Done))
    }
}

/// Sends a signal to a child that is not reaped yet, so its number cannot mean another process.
pub(super) fn send_signal(pid: i32, signal: i32) -> Result<(), Failure> {
    match crate::sys::process::kill(pid, signal) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(Failure::Invalid(format!("signal {signal} does not exist"))),
        Err(error) => Err(Failure::Failed(format!("send signal: {error}"))),
    }
}

/// What a container without a list of its own may use: the standard nodes and those it was given.
fn device_rules(devices: &[crate::spec::Device], privileged: bool) -> Vec<DeviceRule> {
    if privileged {
        return vec![DeviceRule::all()];
    }
    let mut rules = DeviceRule::defaults();
    for device in devices {
        if let Some((kind, major, minor)) = device.node.number {
            // A pipe is no device.
            if matches!(kind, 'b' | 'c') {
                rules.push(DeviceRule { kind, major: Some(major), minor: Some(minor), access: device.permissions.clone() });
            }
            continue;
        }
        let Ok(found) = fs::metadata(&device.host_path) else { continue };
        let kind = if found.file_type().is_block_device() { 'b' } else { 'c' };
        rules.push(DeviceRule {
            kind,
            major: Some(rustix::fs::major(found.rdev())),
            minor: Some(rustix::fs::minor(found.rdev())),
            access: device.permissions.clone(),
        });
    }
    rules
}

fn make_streams(spec: &ContainerSpec, null: &OwnedFd) -> anyhow::Result<Ends> {
    if spec.tty {
        return Ok(Ends { outputs: [None, None], stdin: None, streams: Streams::Terminal });
    }
    let (out_read, output) = crate::sys::pipe().context("make pipe")?;
    let (err_read, error) = crate::sys::pipe().context("make pipe")?;
    let (input, stdin) = if spec.stdin {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("make pipe")?;
        (read, Some(write))
    } else {
        (null.try_clone().context("copy /dev/null")?, None)
    };
    Ok(Ends { outputs: [Some(out_read), Some(err_read)], stdin, streams: Streams::Files { input, output, error } })
}
