//! One pod as the main process sees it. What needs the pod's own processes is asked of its keeper; what the kernel can do
//! without it (limits, statistics, removal of groups) is done here directly.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Group, Limits, Stats};
use tokio::sync::broadcast;

use crate::error::{ContainerError, CreateContainerError, ExecError, SandboxError, StartError};
use crate::hooks::{self, bundle};
use crate::keeper::state::{self, Files};
use crate::link::{About, Answer, AttachInner, ExecInner, Link, unexpected};
use crate::protocol::{self, ExecRequest, Failure, Reply, Request};
use crate::spec::{ContainerId, ContainerSpec, HookKind, Mount, Rootfs, SandboxId, SandboxSpec, Source};
use crate::status::{ContainerEvent, ContainerEventKind, ContainerStatus, ExitStatus};
use crate::streams::{AttachHandle, AttachSpec, ExecHandle, ExecSpec};

/// A pod's sandbox. Cheap to clone; all clones speak with the same keeper. Dropping it leaves the pod running.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: SandboxSpec,
    files: Files,
    parent: Group,
    link: Arc<Link>,
    events: broadcast::Sender<ContainerEvent>,
    reader: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// How [`Sandbox::stop`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It ended by itself within the grace period (or had ended before).
    Ended(ExitStatus),
    /// It had to be killed.
    Killed(ExitStatus),
}

impl StopOutcome {
    /// How it ended.
    pub fn exit(&self) -> ExitStatus {
        match self {
            StopOutcome::Ended(exit) | StopOutcome::Killed(exit) => *exit,
        }
    }
}

impl Sandbox {
    /// Takes over a conversation.
    pub(crate) fn connect(
        spec: SandboxSpec,
        files: Files,
        parent: Group,
        socket: OwnedFd,
        events: broadcast::Sender<ContainerEvent>,
    ) -> io::Result<Self> {
        let about = About { id: spec.id.clone(), files: files.clone(), parent: parent.clone(), events: events.clone() };
        let (link, reader) = Link::begin(socket, about)?;
        Ok(Self { inner: Arc::new(Inner { spec, files, parent, link, events, reader }) })
    }

    /// Asks for the keeper's first answer.
    pub(crate) async fn handshake(&self) -> Result<(), SandboxError> {
        match self.call(Request::List, &[]).await?.reply {
            Reply::List { keeper, .. } => {
                self.inner.link.met(keeper);
                Ok(())
            }
            Reply::Failed(failure) => Err(SandboxError::Refused(failure.text())),
            other => Err(unexpected(&other)),
        }
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        &self.inner.spec.id
    }

    /// What it was made from, labels and annotations included.
    pub fn spec(&self) -> &SandboxSpec {
        &self.inner.spec
    }

    /// Process of the keeper.
    pub fn pid(&self) -> i32 {
        self.inner.link.keeper()
    }

    /// The pod's network name space, for as long as the keeper lives.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// The pod's cgroup.
    pub fn cgroup(&self) -> &Group {
        &self.inner.parent
    }

    /// The cgroup of a container.
    pub fn container_cgroup(&self, id: &ContainerId) -> Group {
        self.inner.parent.child(id.as_str()).expect("a container id is a plain name")
    }

    /// What a container has used.
    pub fn stats(&self, id: &ContainerId) -> Result<Stats, ContainerError> {
        self.container_cgroup(id).stats().map_err(ContainerError::Cgroup)
    }

    /// Events of this sandbox (and of all others of the runtime; compare [`ContainerEvent::sandbox`]).
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    /// Whether the keeper is gone. Everything but [`Sandbox::status`] and [`Sandbox::destroy`] fails from then on.
    pub fn is_lost(&self) -> bool {
        *self.inner.link.gone().borrow()
    }

    /// Waits until the keeper is gone.
    pub async fn lost(&self) {
        let mut gone = self.inner.link.gone();
        let _closed = gone.wait_for(|gone| *gone).await;
    }

    /// Sets a container up: cgroup, name spaces, root, mounts. It then waits for [`Sandbox::start`].
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerStatus, CreateContainerError> {
        let (spec, passed) = take_descriptors(spec)?;
        let id = spec.id.clone();
        // A few small files in memory: cheaper done here than handed to another thread.
        let hooked = (!spec.hooks.is_empty()).then(|| spec.clone());
        if let Some(spec) = &hooked {
            self.check_hooks(spec)?;
        }
        write_container(&self.inner.files, spec, &self.inner.spec)?;
        let fds: Vec<BorrowedFd<'_>> = passed.iter().map(|fd| fd.as_fd()).collect();
        let mut outcome = self.call(Request::Create { id: id.clone() }, &fds).await;
        if let Some(spec) = &hooked {
            match self.go_on(spec, outcome).await {
                Ok(done) => outcome = done,
                Err(text) => {
                    if let Err(error) = self.remove(&id).await {
                        tracing::warn!(container = %id, %error, "container whose hooks failed stays");
                    }
                    return Err(CreateContainerError::Setup(text));
                }
            }
        }
        let error = match outcome {
            Ok(Answer { reply: Reply::Container(status), .. }) => return Ok(self.with_metadata(*status)),
            Ok(Answer { reply: Reply::Failed(Failure::Exists), .. }) => {
                return Err(CreateContainerError::Exists(id.to_string()));
            }
            Ok(Answer { reply: Reply::Failed(Failure::Invalid(text)), .. }) => CreateContainerError::Invalid(text),
            Ok(Answer { reply: Reply::Failed(failure), .. }) => CreateContainerError::Setup(failure.text()),
            Ok(other) => CreateContainerError::Sandbox(unexpected(&other.reply)),
            Err(error) => CreateContainerError::Sandbox(error),
        };
        if let Some(spec) = hooked {
            self.after_end(vec![spec]).await;
        }
        self.inner.files.remove_container(&id);
        Err(error)
    }

    /// Hooks whose place there is not.
    fn check_hooks(&self, spec: &ContainerSpec) -> Result<(), CreateContainerError> {
        let inside = spec.hooks.iter().find(|hook| hook.kind == HookKind::CreateContainer);
        match (inside, &self.inner.spec.user_ns) {
            (Some(hook), Some(_)) => {
                let text = format!("the {} hook {:?} in a pod with users of its own is not supported", hook.kind, hook.path);
                Err(CreateContainerError::Invalid(text))
            }
            _ => bundle::write(&self.inner.files, spec).map_err(|error| CreateContainerError::Setup(format!("write bundle: {error}"))),
        }
    }

    /// Runs the hooks on the node of a container that waits for them, and lets it go on. An error is one of the hooks.
    async fn go_on(&self, spec: &ContainerSpec, answer: Result<Answer, SandboxError>) -> Result<Result<Answer, SandboxError>, String> {
        let pid = match answer {
            Ok(Answer { reply: Reply::Paused { pid }, .. }) => pid,
            Ok(Answer { reply: Reply::Container(_), .. }) => {
                return Err("the keeper of this pod is of an earlier version without hooks".into());
            }
            other => return Ok(other),
        };
        for kind in [HookKind::Prestart, HookKind::CreateRuntime] {
            self.run_hooks(spec, kind, "creating", pid).await?;
        }
        Ok(self.call(Request::Proceed { id: spec.id.clone() }, &[]).await)
    }

    /// Runs hooks on the node, in another thread.
    async fn run_hooks(&self, spec: &ContainerSpec, kind: HookKind, status: &'static str, pid: i32) -> Result<(), String> {
        let state = bundle::state(&self.inner.files, spec, status, Some(pid));
        let hooks = spec.hooks.clone();
        let run = tokio::task::spawn_blocking(move || hooks::run_all(&hooks, kind, &state).map_err(|error| hooks::told(&error)));
        run.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Runs the last hooks of containers that are gone.
    async fn after_end(&self, specs: Vec<ContainerSpec>) {
        let files = self.inner.files.clone();
        let run = tokio::task::spawn_blocking(move || specs.iter().for_each(|spec| bundle::after_end(&files, spec)));
        if run.await.is_err() {
            tracing::error!(sandbox = %self.inner.spec.id, "hooks after the end panicked");
        }
    }

    /// Starts the program of a created container.
    pub async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, StartError> {
        match self.call(Request::Start { id: id.clone() }, &[]).await?.reply {
            Reply::Container(status) => self.started(id, self.with_metadata(*status)).await,
            Reply::Failed(Failure::Exec(text)) => Err(StartError::Exec(text)),
            Reply::Failed(Failure::NotFound | Failure::WrongState(_)) => Err(StartError::NotCreated(id.to_string())),
            Reply::Failed(failure) => Err(StartError::Exec(failure.text())),
            other => Err(StartError::Sandbox(unexpected(&other))),
        }
    }

    /// Runs the hooks of a container whose program has begun; it does not outlive one that fails.
    async fn started(&self, id: &ContainerId, status: ContainerStatus) -> Result<ContainerStatus, StartError> {
        for spec in bundle::hooked(&self.inner.files, &[id.to_string()]) {
            if let Err(text) = self.run_hooks(&spec, HookKind::Poststart, "running", status.pid.unwrap_or_default()).await {
                if let Err(error) = self.stop(id, 9, Duration::ZERO).await {
                    tracing::warn!(container = %id, %error, "container whose hook failed runs on");
                }
                return Err(StartError::Exec(text));
            }
        }
        Ok(status)
    }

    /// Sends a signal to the first process of a container. No error when it has ended.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), ContainerError> {
        self.ask(Request::Kill { id: id.clone(), signal, all: false }, id).await.map(|_| ())
    }

    /// Sends `signal`, waits for the end, and kills every process of the container after `grace`.
    pub async fn stop(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<StopOutcome, ContainerError> {
        let mut events = self.events();
        if let Some(exit) = self.container(id).await?.exit {
            return Ok(StopOutcome::Ended(exit));
        }
        if !grace.is_zero() {
            self.kill(id, signal).await?;
            if let Ok(exit) = tokio::time::timeout(grace, self.exit_of(id, &mut events)).await {
                return exit.map(StopOutcome::Ended);
            }
        }
        self.ask(Request::Kill { id: id.clone(), signal: 9, all: true }, id).await?;
        self.exit_of(id, &mut events).await.map(StopOutcome::Killed)
    }

    /// Waits for the end of a container.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitStatus, ContainerError> {
        let mut events = self.events();
        if let Some(exit) = self.container(id).await?.exit {
            return Ok(exit);
        }
        self.exit_of(id, &mut events).await
    }

    /// Removes an ended (or never started) container with its cgroup. Its log and writable layer stay.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), ContainerError> {
        match self.ask(Request::Remove { id: id.clone() }, id).await {
            Ok(_) | Err(ContainerError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let (group, files, id) = (self.container_cgroup(id), self.inner.files.clone(), id.clone());
        let removed = tokio::task::spawn_blocking(move || {
            group.remove(Duration::from_secs(10))?;
            bundle::hooked(&files, &[id.to_string()]).iter().for_each(|spec| bundle::after_end(&files, spec));
            files.remove_container(&id);
            Ok(())
        });
        removed.await.map_err(|e| ContainerError::Failed(e.to_string()))?.map_err(ContainerError::Cgroup)
    }

    /// All containers, ended ones included until they are removed. Works from the state file when the keeper is gone.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>, SandboxError> {
        let containers = match self.call(Request::List, &[]).await {
            Ok(Answer { reply: Reply::List { containers, .. }, .. }) => containers,
            Ok(other) => return Err(unexpected(&other.reply)),
            Err(SandboxError::Gone) => state::last_words(&self.inner.files),
            Err(error) => return Err(error),
        };
        Ok(containers.into_iter().map(|status| self.with_metadata(status)).collect())
    }

    /// One container.
    pub async fn container(&self, id: &ContainerId) -> Result<ContainerStatus, ContainerError> {
        let all = self.status().await?;
        all.into_iter().find(|status| &status.id == id).ok_or_else(|| ContainerError::NotFound(id.to_string()))
    }

    /// Runs a command in a container.
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecHandle, ExecError> {
        let request = ExecRequest {
            id: id.clone(),
            argv: spec.argv,
            env: spec.env,
            cwd: spec.cwd,
            user: spec.user,
            tty: spec.tty,
            stdin: spec.stdin.is_some() && !spec.tty,
            stdout: spec.stdout.is_some() && !spec.tty,
            stderr: spec.stderr.is_some() && !spec.tty,
        };
        let tty = request.tty;
        let streams = [&spec.stdin, &spec.stdout, &spec.stderr];
        let fds: Vec<BorrowedFd<'_>> = streams.into_iter().flatten().filter(|_| !tty).map(|fd| fd.as_fd()).collect();
        let mut answer = self.call(Request::Exec(Box::new(request)), &fds).await?;
        match answer.reply {
            Reply::Exec { pid, .. } => {
                let end = answer.end.take().ok_or(ExecError::Sandbox(SandboxError::Gone))?;
                let terminal = if tty { answer.fds.pop() } else { None };
                Ok(ExecHandle { inner: ExecInner::new(pid, terminal, end) })
            }
            Reply::Failed(Failure::NotFound | Failure::WrongState(_)) => Err(ExecError::NotRunning(id.to_string())),
            Reply::Failed(failure) => Err(ExecError::Start(failure.text())),
            other => Err(ExecError::Sandbox(unexpected(&other))),
        }
    }

    /// Joins the streams of a running container.
    pub async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<AttachHandle, ContainerError> {
        let fds: Vec<BorrowedFd<'_>> = [&spec.stdout, &spec.stderr].into_iter().flatten().map(|fd| fd.as_fd()).collect();
        let request = Request::Attach { id: id.clone(), stdin: spec.stdin, stdout: spec.stdout.is_some(), stderr: spec.stderr.is_some() };
        let mut answer = self.call(request, &fds).await?;
        let (Reply::Attach { .. }, Some(end)) = (&answer.reply, answer.end.take()) else {
            return Err(refusal(id, answer.reply));
        };
        let inner = AttachInner::new(answer.fds.pop(), end);
        Ok(AttachHandle { inner })
    }

    /// Changes the size of a container's terminal.
    pub async fn resize_tty(&self, id: &ContainerId, columns: u16, rows: u16) -> Result<(), ContainerError> {
        self.ask(Request::Resize { id: id.clone(), columns, rows }, id).await.map(|_| ())
    }

    /// Changes what a container may use; absent values stay.
    pub async fn update_resources(&self, id: &ContainerId, limits: Limits) -> Result<(), ContainerError> {
        let group = self.container_cgroup(id);
        if !group.exists() {
            return Err(ContainerError::NotFound(id.to_string()));
        }
        let applied = tokio::task::spawn_blocking(move || group.apply(&limits)).await;
        applied.map_err(|e| ContainerError::Failed(e.to_string()))?.map_err(ContainerError::Cgroup)
    }

    /// The limits in force for a container.
    pub fn resources(&self, id: &ContainerId) -> Result<Limits, ContainerError> {
        self.container_cgroup(id).limits().map_err(ContainerError::Cgroup)
    }

    /// Opens a container's log anew after someone has moved it away.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), ContainerError> {
        self.ask(Request::ReopenLog { id: id.clone() }, id).await.map(|_| ())
    }

    /// A TCP socket that lives in the pod's network name space, not yet connected and non-blocking.
    pub async fn tcp_socket(&self, v6: bool) -> Result<OwnedFd, SandboxError> {
        let mut answer = self.call(Request::Socket { v6 }, &[]).await?;
        match (answer.reply, answer.fds.pop()) {
            (Reply::Socket, Some(fd)) => Ok(fd),
            (Reply::Failed(failure), _) => Err(SandboxError::Refused(failure.text())),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Connects to a port of the pod on its loopback, version 4 first, as port-forward does.
    pub async fn dial(&self, port: u16) -> Result<tokio::net::TcpStream, SandboxError> {
        let mut failure = None;
        for (v6, address) in [(false, "127.0.0.1"), (true, "::1")] {
            let socket = match self.tcp_socket(v6).await {
                Ok(fd) => tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(fd)),
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            let address = std::net::SocketAddr::new(address.parse().expect("a loopback address"), port);
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => failure = Some(failure.unwrap_or(SandboxError::Io(source))),
            }
        }
        Err(failure.unwrap_or(SandboxError::Gone))
    }

    /// Kills what runs, ends the keeper and removes every trace of the sandbox but logs and writable layers.
    pub async fn destroy(self) -> Result<(), SandboxError> {
        let containers = state::container_ids(&self.inner.files);
        match self.call(Request::Shutdown, &[]).await {
            Ok(_) => self.lost().await,
            Err(SandboxError::Gone) => {}
            Err(error) => return Err(error),
        }
        let (files, parent, ours) = (self.inner.files.clone(), self.inner.parent.clone(), self.inner.spec.owns_group());
        let cleared = tokio::task::spawn_blocking(move || {
            crate::runtime::clear_groups(&parent, &containers);
            bundle::hooked(&files, &containers).iter().for_each(|spec| bundle::after_end(&files, spec));
            files.remove();
            if ours {
                parent.remove_if_empty();
            }
        });
        cleared.await.map_err(|error| SandboxError::Io(io::Error::other(error)))
    }

    async fn exit_of(&self, id: &ContainerId, events: &mut broadcast::Receiver<ContainerEvent>) -> Result<ExitStatus, ContainerError> {
        loop {
            match events.recv().await {
                Ok(event) if event.sandbox != self.inner.spec.id => {}
                Ok(ContainerEvent { kind: ContainerEventKind::Exited(status), .. }) if &status.id == id => {
                    if let Some(exit) = status.exit {
                        return Ok(exit);
                    }
                }
                Ok(ContainerEvent { kind: ContainerEventKind::SandboxLost, .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    if let Some(exit) = self.container(id).await?.exit {
                        return Ok(exit);
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(SandboxError::Gone.into()),
            }
        }
    }

    fn with_metadata(&self, mut status: ContainerStatus) -> ContainerStatus {
        let (labels, annotations) = state::read_metadata(&self.inner.files, &status.id);
        status.labels = labels;
        status.annotations = annotations;
        status
    }

    async fn ask(&self, request: Request, id: &ContainerId) -> Result<Answer, ContainerError> {
        let answer = self.call(request, &[]).await?;
        match answer.reply {
            Reply::Failed(_) => Err(refusal(id, answer.reply)),
            _ => Ok(answer),
        }
    }

    async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, SandboxError> {
        self.inner.link.call(request, fds).await
    }
}

/// Replaces open descriptors in the description by their places in the message.
fn take_descriptors(mut spec: ContainerSpec) -> Result<(ContainerSpec, Vec<Arc<OwnedFd>>), CreateContainerError> {
    let mut passed = Vec::new();
    // `/dev` is made of nodes; elsewhere a device is bound like a file.
    let elsewhere = spec.devices.iter().filter(|device| device.is_elsewhere());
    let bound: Vec<Mount> =
        elsewhere.map(|device| Mount::Bind(crate::spec::Bind::new(&device.host_path, &device.container_path))).collect();
    spec.mounts.extend(bound);
    for mount in &mut spec.mounts {
        if let Mount::Bind(bind) = mount
            && let Source::Fd(fd) = &bind.source
        {
            let place = passed.len();
            passed.push(fd.clone());
            bind.source = Source::Passed(place);
        }
    }
    if passed.len() >= protocol::MOST_FDS {
        return Err(CreateContainerError::Invalid(format!("more than {} open mounts", protocol::MOST_FDS)));
    }
    Ok((spec, passed))
}

/// Leaves the description and the compiled filter where the keeper finds them.
fn write_container(files: &Files, mut spec: ContainerSpec, sandbox: &SandboxSpec) -> Result<(), CreateContainerError> {
    if spec.argv.is_empty() {
        return Err(CreateContainerError::Invalid("no command specified".into()));
    }
    let program = crate::seccomp::compile(&spec.seccomp, &spec.capabilities.bounding)
        .map_err(|error| CreateContainerError::Invalid(error.to_string()))?;
    crate::spawn::environment::complete(&mut spec.env, &sandbox.hostname, spec.tty);
    add_points(files, &mut spec, sandbox);
    state::write_container(files, &spec, program.as_deref()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateContainerError::Exists(spec.id.to_string()),
        _ => CreateContainerError::Setup(format!("write description: {source}")),
    })
}

/// Puts a layer of mount points below the image. With users of its own a pod makes them in its writable layer, as its own.
fn add_points(files: &Files, spec: &mut ContainerSpec, sandbox: &SandboxSpec) {
    if let (Rootfs::Overlay { layers, .. }, None, Some(run_dir)) = (&mut spec.rootfs, &sandbox.user_ns, files.dir().parent())
        && !layers.is_empty()
    {
        match crate::points::layer(run_dir, &spec.mounts) {
            Ok(points) => layers.insert(0, points),
            Err(error) => tracing::debug!(container = %spec.id, %error, "mount points are made in the writable layer"),
        }
    }
}

fn refusal(id: &ContainerId, reply: Reply) -> ContainerError {
    match reply {
        Reply::Failed(Failure::NotFound) => ContainerError::NotFound(id.to_string()),
        Reply::Failed(Failure::WrongState(text)) => ContainerError::WrongState(text),
        Reply::Failed(failure) => ContainerError::Failed(failure.text()),
        other => ContainerError::Sandbox(unexpected(&other)),
    }
}
