//! The conversation with one keeper: requests and their replies, notices, commands and sessions that have not ended.
//!
//! A reader task takes packets in order: replies go to whoever waits for them, notices become events. If the conversation
//! breaks while the keeper lives, it begins anew; if the keeper is gone, so is everything that waits for it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use cgroup::Group;
use parking_lot::Mutex;
use rustix::process::PidfdFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot, watch};

use crate::error::{ContainerError, ExecError, SandboxError};
use crate::keeper::state::{self, Files};
use crate::protocol::{self, Message, Notice, Packet, Reply, Request};
use crate::spec::SandboxId;
use crate::status::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, ExitStatus};

/// Tells the end of a command or a session, once.
type EndSender = watch::Sender<Option<ExitStatus>>;

/// The socket with what waits for answers on it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Replaced when the conversation broke and the keeper still lives.
    socket: Mutex<Arc<AsyncFd<OwnedFd>>>,
    next: AtomicU32,
    keeper: AtomicI32,
    /// The keeper itself, for the case that it no longer answers.
    process: Mutex<Option<OwnedFd>>,
    /// Requests without a reply. Cleared once and for all when the keeper is gone.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Answer>>>>,
    /// Execs and attached sessions that have not ended, by the keeper's number.
    ends: Mutex<HashMap<(Kind, u64), EndSender>>,
    gone: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Exec,
    Attach,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    pub fds: Vec<OwnedFd>,
    pub end: Option<Ending>,
}

/// A command or attached session that the keeper has begun. Whoever holds this wants it: dropped before its end, even on the
/// way to somebody who no longer waits, it is ended.
#[derive(Debug)]
pub(crate) struct Ending {
    kind: Kind,
    number: u64,
    link: Arc<Link>,
    end: watch::Receiver<Option<ExitStatus>>,
}

impl Ending {
    async fn wait(&mut self) -> Result<ExitStatus, SandboxError> {
        let ended = self.end.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).ok_or(SandboxError::Gone)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.end.borrow().is_none() {
            self.link.tell(match self.kind {
                Kind::Exec => Request::ExecKill { exec: self.number, signal: 9 },
                Kind::Attach => Request::Detach { attach: self.number },
            });
        }
        self.link.ends.lock().remove(&(self.kind, self.number));
    }
}

#[derive(Debug)]
pub(crate) struct ExecInner {
    pub pid: i32,
    pub terminal: Option<OwnedFd>,
    /// A second descriptor of the terminal for changes of its size.
    control: Option<OwnedFd>,
    end: Ending,
}

#[derive(Debug)]
pub(crate) struct AttachInner {
    pub stdin: Option<OwnedFd>,
    end: Ending,
}

impl Link {
    /// Takes over a conversation, with a task that listens to it.
    pub(crate) fn begin(socket: OwnedFd, about: About) -> io::Result<(Arc<Self>, tokio::task::AbortHandle)> {
        let link = Arc::new(Self {
            socket: Mutex::new(Arc::new(crate::sys::watch(socket)?)),
            next: AtomicU32::new(1),
            keeper: AtomicI32::new(0),
            process: Mutex::new(None),
            waiting: Mutex::new(Some(HashMap::new())),
            ends: Mutex::new(HashMap::new()),
            gone: watch::Sender::new(false),
        });
        let reader = Reader { link: link.clone(), about };
        Ok((link, tokio::spawn(reader.run()).abort_handle()))
    }

    /// The keeper has told its process.
    pub(crate) fn met(&self, keeper: i32) {
        self.keeper.store(keeper, Ordering::Release);
        let pid = rustix::process::Pid::from_raw(keeper);
        let process = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        *self.process.lock() = process;
    }

    /// Process of the keeper; 0 before it was told.
    pub(crate) fn keeper(&self) -> i32 {
        self.keeper.load(Ordering::Acquire)
    }

    /// Whether the keeper is gone, now and from now on.
    pub(crate) fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    pub(crate) async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, SandboxError> {
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
        let socket = self.socket.lock().clone();
        loop {
            match protocol::send(socket.get_ref().as_fd(), encoded, fds) {
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await?.clear_ready();
                }
                done => return done,
            }
        }
    }

    /// Sends without waiting and without wanting an answer, for destructors.
    fn tell(&self, request: Request) {
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        if let Ok(encoded) = protocol::encode(id, &Message::Request(request)) {
            let _unheard = protocol::send(self.socket.lock().get_ref().as_fd(), &encoded, &[]);
        }
    }
}

impl ExecInner {
    pub(crate) fn new(pid: i32, terminal: Option<OwnedFd>, end: Ending) -> Self {
        let control = terminal.as_ref().and_then(|fd| fd.try_clone().ok());
        Self { pid, terminal, control, end }
    }

    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, ExecError> {
        self.end.wait().await.map_err(ExecError::Sandbox)
    }

    pub(crate) async fn resize(&self, columns: u16, rows: u16) -> Result<(), ExecError> {
        let Some(control) = &self.control else {
            return Err(ExecError::Start("the command has no terminal".into()));
        };
        crate::sys::set_size(control, columns, rows).map_err(|source| ExecError::Sandbox(SandboxError::Io(source)))
    }

    pub(crate) async fn kill(&self, signal: i32) -> Result<(), ExecError> {
        match self.end.link.call(Request::ExecKill { exec: self.end.number, signal }, &[]).await?.reply {
            Reply::Failed(failure) => Err(ExecError::Start(failure.text())),
            _ => Ok(()),
        }
    }
}

impl AttachInner {
    pub(crate) fn new(stdin: Option<OwnedFd>, end: Ending) -> Self {
        Self { stdin, end }
    }

    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, ContainerError> {
        self.end.wait().await.map_err(ContainerError::Sandbox)
    }
}

/// Whose conversation it is, and who hears of events.
#[derive(Debug)]
pub(crate) struct About {
    pub id: SandboxId,
    pub files: Files,
    pub parent: Group,
    pub events: broadcast::Sender<ContainerEvent>,
}

/// Reads packets until the keeper is gone, then clears up after it.
struct Reader {
    link: Arc<Link>,
    about: About,
}

impl Reader {
    async fn run(self) {
        let mut socket = self.link.socket.lock().clone();
        while let Some(next) = self.listen(&socket).await {
            socket = next;
        }
        self.clear().await;
    }

    /// Hears one conversation to its end, and begins the next if the keeper still answers.
    async fn listen(&self, socket: &AsyncFd<OwnedFd>) -> Option<Arc<AsyncFd<OwnedFd>>> {
        let mut buffer = vec![0; protocol::INLINE + 64];
        loop {
            match protocol::receive(socket.get_ref().as_fd(), &mut buffer) {
                Ok(Some(packet)) => self.take(packet),
                Ok(None) => break,
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => match socket.readable().await {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => break,
                },
                Err(source) => {
                    tracing::warn!(sandbox = %self.about.id, error = %source, "conversation with a keeper broke");
                    break;
                }
            }
        }
        // Whoever waits on the old conversation must ask again; commands and sessions have ended with it.
        if let Some(waiting) = self.link.waiting.lock().as_mut() {
            waiting.clear();
        }
        self.link.ends.lock().clear();
        let next = crate::sys::socket::connect(&self.about.files.socket()).and_then(crate::sys::watch).ok().map(Arc::new)?;
        tracing::warn!(sandbox = %self.about.id, "conversation with a keeper begins anew");
        *self.link.socket.lock() = next.clone();
        self.link.tell(Request::List);
        Some(next)
    }

    fn take(&self, packet: Packet) {
        match packet.body {
            Ok(Message::Reply(reply)) => self.take_reply(packet.id, reply, packet.fds),
            Ok(Message::Notice(Notice::Started(status))) => self.publish(*status, ContainerEventKind::Started),
            Ok(Message::Notice(Notice::Exited(status))) => self.publish(*status, ContainerEventKind::Exited),
            Ok(Message::Notice(Notice::ExecExited { exec, exit })) => self.end(Kind::Exec, exec, exit),
            Ok(Message::Notice(Notice::AttachEnded { attach, exit })) => self.end(Kind::Attach, attach, exit),
            Ok(Message::Request(_)) => tracing::warn!(sandbox = %self.about.id, "a keeper sent a request"),
            Err(error) => tracing::warn!(sandbox = %self.about.id, %error, "a keeper said what we do not understand"),
        }
    }

    fn take_reply(&self, id: u32, reply: Reply, fds: Vec<OwnedFd>) {
        let end = match &reply {
            Reply::Exec { exec, .. } => Some(self.expect_end(Kind::Exec, *exec)),
            Reply::Attach { attach } => Some(self.expect_end(Kind::Attach, *attach)),
            _ => None,
        };
        let waiter = self.link.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        match (waiter, reply) {
            (Some(waiter), reply) => {
                let _nobody = waiter.send(Answer { reply, fds, end });
            }
            // Asked for by ourselves after a broken conversation, to make up for what was missed.
            (None, Reply::List { containers, .. }) => {
                for status in containers.into_iter().filter(|status| status.state == ContainerState::Exited) {
                    self.publish(status, ContainerEventKind::Exited);
                }
            }
            (None, _) => {}
        }
    }

    fn expect_end(&self, kind: Kind, number: u64) -> Ending {
        let sender = watch::Sender::new(None);
        let end = sender.subscribe();
        self.link.ends.lock().insert((kind, number), sender);
        Ending { kind, number, link: self.link.clone(), end }
    }

    fn end(&self, kind: Kind, number: u64, exit: ExitStatus) {
        if let Some(sender) = self.link.ends.lock().remove(&(kind, number)) {
            sender.send_replace(Some(exit));
        }
    }

    fn publish(&self, mut status: ContainerStatus, kind: fn(ContainerStatus) -> ContainerEventKind) {
        (status.labels, status.annotations) = state::read_metadata(&self.about.files, &status.id);
        let _nobody = self.about.events.send(ContainerEvent { sandbox: self.about.id.clone(), kind: kind(status) });
    }

    async fn clear(self) {
        self.link.waiting.lock().take();
        self.link.ends.lock().clear();
        if let Some(process) = self.link.process.lock().take() {
            let _gone_already = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
        }
        let (parent, ids) = (self.about.parent.clone(), state::container_ids(&self.about.files));
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
        let event = ContainerEvent { sandbox: self.about.id.clone(), kind: ContainerEventKind::SandboxLost };
        let _nobody = self.about.events.send(event);
    }
}

/// An answer that does not belong to its question.
pub(crate) fn unexpected(reply: &Reply) -> SandboxError {
    SandboxError::Io(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {reply:?}")))
}
