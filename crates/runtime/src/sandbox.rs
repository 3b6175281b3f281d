//! One pod as the main process sees it: a conversation with its keeper.
//!
//! A reader task takes packets in order: replies go to whoever waits for them, notices become events. Everything that
//! the kernel can do without the keeper (limits, statistics, signals to groups) is done here directly.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use cgroup::{Group, Limits, Stats};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot, watch};

use crate::error::{ContainerError, CreateContainerError, ExecError, SandboxError, StartError};
use crate::keeper::state::{self, Files};
use crate::protocol::{self, ExecRequest, Failure, Message, Notice, Packet, Reply, Request};
use crate::spec::{ContainerId, ContainerSpec, Mount, SandboxId, SandboxSpec, Source};
use crate::status::{ContainerEvent, ContainerEventKind, ContainerStatus, ExitStatus};
use crate::streams::{AttachHandle, AttachSpec, ExecHandle, ExecOutput, ExecSpec};

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

/// The socket with what waits for answers on it.
#[derive(Debug)]
struct Link {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU32,
    keeper: AtomicI32,
    /// Requests without a reply. Cleared once and for all when the keeper is gone.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Answer>>>>,
    /// Execs and attached sessions that have not ended, by the keeper's number.
    ends: Mutex<HashMap<(Kind, u64), watch::Sender<Option<ExitStatus>>>>,
    gone: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Exec,
    Attach,
}

#[derive(Debug)]
struct Answer {
    reply: Reply,
    fds: Vec<OwnedFd>,
    end: Option<watch::Receiver<Option<ExitStatus>>>,
}

#[derive(Debug)]
pub(crate) struct ExecInner {
    pub pid: i32,
    pub terminal: Option<OwnedFd>,
    /// A second descriptor of the terminal for changes of its size.
    control: Option<OwnedFd>,
    exec: u64,
    link: Arc<Link>,
    end: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
pub(crate) struct AttachInner {
    pub stdin: Option<OwnedFd>,
    attach: u64,
    link: Arc<Link>,
    end: watch::Receiver<Option<ExitStatus>>,
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
        let link = Arc::new(Link {
            socket: crate::sys::watch(socket)?,
            next: AtomicU32::new(1),
            keeper: AtomicI32::new(0),
            waiting: Mutex::new(Some(HashMap::new())),
            ends: Mutex::new(HashMap::new()),
            gone: watch::Sender::new(false),
        });
        let reader = Reader {
            link: link.clone(),
            id: spec.id.clone(),
            files: files.clone(),
            parent: parent.clone(),
            events: events.clone(),
        };
        let reader = tokio::spawn(reader.run()).abort_handle();
        Ok(Self { inner: Arc::new(Inner { spec, files, parent, link, events, reader }) })
    }

    /// Asks for the keeper's first answer.
    pub(crate) async fn handshake(&self) -> Result<(), SandboxError> {
        match self.call(Request::List, &[]).await?.reply {
            Reply::List { keeper, .. } => {
                self.inner.link.keeper.store(keeper, Ordering::Release);
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
        self.inner.link.keeper.load(Ordering::Acquire)
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
        *self.inner.link.gone.borrow()
    }

    /// Waits until the keeper is gone.
    pub async fn lost(&self) {
        let mut gone = self.inner.link.gone.subscribe();
        let _closed = gone.wait_for(|gone| *gone).await;
    }

    /// Sets a container up: cgroup, name spaces, root, mounts. It then waits for [`Sandbox::start`].
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerStatus, CreateContainerError> {
        let (spec, passed) = take_descriptors(spec)?;
        let id = spec.id.clone();
        // A few small files in memory: cheaper done here than handed to another thread.
        write_container(&self.inner.files, spec, &self.inner.spec.hostname)?;
        let fds: Vec<BorrowedFd<'_>> = passed.iter().map(|fd| fd.as_fd()).collect();
        let outcome = self.call(Request::Create { id: id.clone() }, &fds).await;
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
        self.inner.files.remove_container(&id);
        Err(error)
    }

    /// Starts the program of a created container.
    pub async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, StartError> {
        match self.call(Request::Start { id: id.clone() }, &[]).await?.reply {
            Reply::Container(status) => Ok(self.with_metadata(*status)),
            Reply::Failed(Failure::Exec(text)) => Err(StartError::Exec(text)),
            Reply::Failed(Failure::NotFound | Failure::WrongState(_)) => Err(StartError::NotCreated(id.to_string())),
            Reply::Failed(failure) => Err(StartError::Exec(failure.text())),
            other => Err(StartError::Sandbox(unexpected(&other))),
        }
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
        let fds: Vec<BorrowedFd<'_>> =
            streams.into_iter().flatten().filter(|_| !tty).map(|fd| fd.as_fd()).collect();
        let mut answer = self.call(Request::Exec(Box::new(request)), &fds).await?;
        match answer.reply {
            Reply::Exec { exec, pid } => {
                let end = answer.end.take().ok_or(ExecError::Sandbox(SandboxError::Gone))?;
                let terminal = if tty { answer.fds.pop() } else { None };
                let control = terminal.as_ref().and_then(|fd| fd.try_clone().ok());
                let link = self.inner.link.clone();
                Ok(ExecHandle { inner: ExecInner { pid, terminal, control, exec, link, end } })
            }
            Reply::Failed(Failure::NotFound | Failure::WrongState(_)) => Err(ExecError::NotRunning(id.to_string())),
            Reply::Failed(failure) => Err(ExecError::Start(failure.text())),
            other => Err(ExecError::Sandbox(unexpected(&other))),
        }
    }

    /// Joins the streams of a running container.
    pub async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<AttachHandle, ContainerError> {
        let fds: Vec<BorrowedFd<'_>> =
            [&spec.stdout, &spec.stderr].into_iter().flatten().map(|fd| fd.as_fd()).collect();
        let request = Request::Attach {
            id: id.clone(),
            stdin: spec.stdin,
            stdout: spec.stdout.is_some(),
            stderr: spec.stderr.is_some(),
        };
        let mut answer = self.call(request, &fds).await?;
        let (Reply::Attach { attach }, Some(end)) = (&answer.reply, answer.end.take()) else {
            return Err(refusal(id, answer.reply));
        };
        let inner = AttachInner { stdin: answer.fds.pop(), attach: *attach, link: self.inner.link.clone(), end };
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
        let (files, parent) = (self.inner.files.clone(), self.inner.parent.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            crate::runtime::clear_groups(&parent, &containers);
            files.remove();
            parent.remove_if_empty();
        });
        cleared.await.map_err(|error| SandboxError::Io(io::Error::other(error)))
    }

    async fn exit_of(
        &self,
        id: &ContainerId,
        events: &mut broadcast::Receiver<ContainerEvent>,
    ) -> Result<ExitStatus, ContainerError> {
        loop {
            match events.recv().await {
                Ok(event) if event.sandbox != self.inner.spec.id => {}
                Ok(ContainerEvent { kind: ContainerEventKind::Exited(status), .. }) if &status.id == id => {
                    if let Some(exit) = status.exit {
                        return Ok(exit);
                    }
                }
                Ok(ContainerEvent { kind: ContainerEventKind::SandboxLost, .. })
                | Err(broadcast::error::RecvError::Lagged(_)) => {
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

impl Link {
    async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, SandboxError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        let (sender, receiver) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(SandboxError::Gone),
        };
        let encoded = protocol::encode(id, &Message::Request(request)).map_err(SandboxError::Io)?;
        if let Err(source) = self.send(&encoded, fds).await {
            if let Some(waiting) = self.waiting.lock().as_mut() {
                waiting.remove(&id);
            }
            let closed = matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
            return Err(if closed { SandboxError::Gone } else { SandboxError::Io(source) });
        }
        receiver.await.map_err(|_| SandboxError::Gone)
    }

    async fn send(&self, encoded: &protocol::Encoded, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match protocol::send(self.socket.get_ref().as_fd(), encoded, fds) {
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?.clear_ready();
                }
                done => return done,
            }
        }
    }

    /// Sends without waiting and without wanting an answer, for destructors.
    fn tell(&self, request: Request) {
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        if let Ok(encoded) = protocol::encode(id, &Message::Request(request)) {
            let _unheard = protocol::send(self.socket.get_ref().as_fd(), &encoded, &[]);
        }
    }
}

impl ExecInner {
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, ExecError> {
        let ended = self.end.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).ok_or(ExecError::Sandbox(SandboxError::Gone))
    }

    pub(crate) async fn resize(&self, columns: u16, rows: u16) -> Result<(), ExecError> {
        let Some(control) = &self.control else {
            return Err(ExecError::Start("the command has no terminal".into()));
        };
        crate::sys::set_size(control, columns, rows).map_err(|source| ExecError::Sandbox(SandboxError::Io(source)))
    }

    pub(crate) async fn kill(&self, signal: i32) -> Result<(), ExecError> {
        match self.link.call(Request::ExecKill { exec: self.exec, signal }, &[]).await?.reply {
            Reply::Failed(failure) => Err(ExecError::Start(failure.text())),
            _ => Ok(()),
        }
    }
}

impl Drop for ExecInner {
    fn drop(&mut self) {
        if self.end.borrow().is_none() {
            self.link.tell(Request::ExecKill { exec: self.exec, signal: 9 });
        }
        self.link.ends.lock().remove(&(Kind::Exec, self.exec));
    }
}

impl AttachInner {
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, ContainerError> {
        let ended = self.end.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).ok_or(ContainerError::Sandbox(SandboxError::Gone))
    }
}

impl Drop for AttachInner {
    fn drop(&mut self) {
        if self.end.borrow().is_none() {
            self.link.tell(Request::Detach { attach: self.attach });
        }
        self.link.ends.lock().remove(&(Kind::Attach, self.attach));
    }
}

/// Reads packets until the keeper is gone, then clears up after it.
struct Reader {
    link: Arc<Link>,
    id: SandboxId,
    files: Files,
    parent: Group,
    events: broadcast::Sender<ContainerEvent>,
}

impl Reader {
    async fn run(self) {
        let mut buffer = vec![0; protocol::INLINE + 64];
        loop {
            let packet = match protocol::receive::<Message>(self.link.socket.get_ref().as_fd(), &mut buffer) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                    match self.link.socket.readable().await {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => break,
                    }
                    continue;
                }
                Err(source) => {
                    tracing::warn!(sandbox = %self.id, error = %source, "conversation with a keeper broke");
                    break;
                }
            };
            self.take(packet);
        }
        self.clear().await;
    }

    fn take(&self, packet: Packet<Message>) {
        match packet.body {
            Message::Reply(reply) => {
                let end = match &reply {
                    Reply::Exec { exec, .. } => Some(self.expect_end(Kind::Exec, *exec)),
                    Reply::Attach { attach } => Some(self.expect_end(Kind::Attach, *attach)),
                    _ => None,
                };
                let waiter = self.link.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&packet.id));
                if let Some(waiter) = waiter {
                    let _nobody = waiter.send(Answer { reply, fds: packet.fds, end });
                }
            }
            Message::Notice(Notice::Started(status)) => self.publish(*status, ContainerEventKind::Started),
            Message::Notice(Notice::Exited(status)) => self.publish(*status, ContainerEventKind::Exited),
            Message::Notice(Notice::ExecExited { exec, exit }) => self.end(Kind::Exec, exec, exit),
            Message::Notice(Notice::AttachEnded { attach, exit }) => self.end(Kind::Attach, attach, exit),
            Message::Request(_) => tracing::warn!(sandbox = %self.id, "a keeper sent a request"),
        }
    }

    fn expect_end(&self, kind: Kind, number: u64) -> watch::Receiver<Option<ExitStatus>> {
        let sender = watch::Sender::new(None);
        let receiver = sender.subscribe();
        self.link.ends.lock().insert((kind, number), sender);
        receiver
    }

    fn end(&self, kind: Kind, number: u64, exit: ExitStatus) {
        if let Some(sender) = self.link.ends.lock().remove(&(kind, number)) {
            sender.send_replace(Some(exit));
        }
    }

    fn publish(&self, mut status: ContainerStatus, kind: fn(ContainerStatus) -> ContainerEventKind) {
        (status.labels, status.annotations) = state::read_metadata(&self.files, &status.id);
        let _nobody = self.events.send(ContainerEvent { sandbox: self.id.clone(), kind: kind(status) });
    }

    async fn clear(self) {
        self.link.waiting.lock().take();
        self.link.ends.lock().clear();
        let (parent, ids) = (self.parent.clone(), state::container_ids(&self.files));
        let cleared = tokio::task::spawn_blocking(move || {
            for id in &ids {
                if let Ok(group) = parent.child(id)
                    && group.exists()
                {
                    let _removed_already = group.kill_all();
                }
            }
        });
        let _panicked = cleared.await;
        self.link.gone.send_replace(true);
        let event = ContainerEvent { sandbox: self.id.clone(), kind: ContainerEventKind::SandboxLost };
        let _nobody = self.events.send(event);
    }
}

/// Replaces open descriptors in the description by their places in the message.
fn take_descriptors(mut spec: ContainerSpec) -> Result<(ContainerSpec, Vec<Arc<OwnedFd>>), CreateContainerError> {
    let mut passed = Vec::new();
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
fn write_container(files: &Files, mut spec: ContainerSpec, hostname: &str) -> Result<(), CreateContainerError> {
    if spec.argv.is_empty() {
        return Err(CreateContainerError::Invalid("no command specified".into()));
    }
    let program = crate::seccomp::compile(&spec.seccomp, &spec.capabilities.bounding)
        .map_err(|error| CreateContainerError::Invalid(error.to_string()))?;
    crate::spawn::environment::complete(&mut spec.env, hostname, spec.tty);
    state::write_container(files, &spec, program.as_deref()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateContainerError::Exists(spec.id.to_string()),
        _ => CreateContainerError::Setup(format!("write description: {source}")),
    })
}

fn unexpected(reply: &Reply) -> SandboxError {
    SandboxError::Io(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {reply:?}")))
}

fn refusal(id: &ContainerId, reply: Reply) -> ContainerError {
    match reply {
        Reply::Failed(Failure::NotFound) => ContainerError::NotFound(id.to_string()),
        Reply::Failed(Failure::WrongState(text)) => ContainerError::WrongState(text),
        Reply::Failed(failure) => ContainerError::Failed(failure.text()),
        other => ContainerError::Sandbox(unexpected(&other)),
    }
}

/// Runs a command and collects what it writes.
pub(crate) async fn exec_sync(
    sandbox: &Sandbox,
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
        let mut handle = sandbox.exec(id, spec).await?;
        let collect = async {
            tokio::join!(
                collect(out_read, &mut stdout, max_output),
                collect(err_read, &mut stderr, max_output)
            )
        };
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
