//! The keeper: one small single-threaded process per pod that owns the pod's name spaces and is the parent of its
//! containers.
//!
//! It waits in one `epoll` call and does nothing without an event: a request, a signal that a child ended, output of a
//! container. It keeps in memory only what it must; descriptions stay on disk. See [`state`] for the files.
//!
//! Guarantees: an exit is written to the state file before anyone hears of it; all output that was in the pipes when a
//! container ended is in its log by then; when the keeper ends, for whatever reason, its containers are killed by the
//! kernel.

mod attach;
mod container;
mod exec;
mod logs;
pub(crate) mod sandbox;
pub(crate) mod state;
mod users;
mod zygote;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use cgroup::{Group, JoinHandles, Layout};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::attach::Attach;
use self::container::Container;
use self::exec::Exec;
use self::sandbox::{Ground, PodMemory};
use self::state::{Files, Journal, KeeperSpec};
use crate::protocol::{self, Failure, Message, Notice, Packet, Reply, Request};
use crate::spawn::Users;
use crate::spec::ContainerId;
use crate::status::ExitStatus;
use crate::sys::clone::Side;

pub(crate) use self::zygote::{ask as ask_zygote, ask_ahead as ask_zygote_ahead, run as run_zygote};

/// What an event of `epoll` is about; with a number it makes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Token {
    Signals,
    Listener,
    Client,
    /// Report of a container's first process.
    Container,
    Output,
    ErrorOutput,
    /// Report of a command.
    Exec,
    /// An attached session can take more.
    AttachOutput,
    AttachErrorOutput,
}

impl Token {
    const ALL: [Token; 9] = [
        Token::Signals,
        Token::Listener,
        Token::Client,
        Token::Container,
        Token::Output,
        Token::ErrorOutput,
        Token::Exec,
        Token::AttachOutput,
        Token::AttachErrorOutput,
    ];

    fn with(self, number: u32) -> epoll::EventData {
        epoll::EventData::new_u64((u64::from(self as u32) << 32) | u64::from(number))
    }

    fn split(data: epoll::EventData) -> (Option<Token>, u32) {
        let value = data.u64();
        (Self::ALL.get((value >> 32) as usize).copied(), value as u32)
    }
}

/// Room for a packet, from the kernel rather than from the heap.
const BUFFER: usize = 256 << 10;
const _: () = assert!(BUFFER >= protocol::INLINE + 64);

/// Where an answer goes: connection and request.
#[derive(Clone, Copy, Debug)]
struct Asker {
    client: u32,
    request: u32,
}

struct Keeper {
    files: Files,
    journal: Journal,
    group: Group,
    memory: PodMemory,
    /// The pod's users, where they are not the node's.
    users: Option<Users>,
    epoll: OwnedFd,
    signals: OwnedFd,
    listener: OwnedFd,
    null: OwnedFd,
    /// Our own PID name space, to return to after forking into another.
    own_pids: OwnedFd,
    /// Process 1 of the shared PID name space, once a container needed it.
    pod_init: Option<i32>,
    clients: BTreeMap<u32, OwnedFd>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    attached: Vec<Attach>,
    next: u32,
    ending: bool,
}

/// Lives as the keeper of the sandbox in `dir`. `first` is the conversation with whoever asked for it.
fn run(dir: PathBuf, first: OwnedFd, layout: Arc<Layout>, join: &JoinHandles, ground: Ground) -> ! {
    // A process forked ahead has entered the cgroup already.
    let entered = if ground == Ground::Bare { enter_cgroup(join) } else { Ok(()) };
    match entered.and_then(|()| begin(Files::new(dir), first, layout, ground)).and_then(|mut keeper| keeper.serve()) {
        Ok(()) => {}
        Err(error) => eprintln!("keeper: {error:#}"),
    }
    std::process::exit(1);
}

/// Sets the pod up, or tells why not.
fn begin(files: Files, first: OwnedFd, layout: Arc<Layout>, ground: Ground) -> anyhow::Result<Keeper> {
    let prepared = state::read_keeper(&files).context("read description of the sandbox").and_then(|spec| {
        let group = Group::new(layout, &spec.cgroup)?;
        prepare(&files, &spec, group, ground)
    });
    match prepared {
        Ok(mut keeper) => {
            keeper.add_client(first)?;
            Ok(keeper)
        }
        Err(error) => {
            refuse(&first, &format!("{error:#}"));
            Err(error)
        }
    }
}

fn enter_cgroup(join: &JoinHandles) -> anyhow::Result<()> {
    join.join_current().context("enter the keepers' cgroup")
}

fn prepare(files: &Files, spec: &KeeperSpec, group: Group, ground: Ground) -> anyhow::Result<Keeper> {
    let log = rustix::fs::open(files.log(), OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    rustix::stdio::dup2_stderr(&log.context("open keeper.log")?)?;
    crate::sys::process::set_title(format!("knarr keeper {}", spec.sandbox.id).as_bytes());
    let _leader_already = rustix::process::setsid();
    let _cosmetic = rustix::thread::set_name(c"knarr-keeper");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become subreaper")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).context("hide from the containers")?;
    // Not allowed everywhere; then the kernel may choose us like any other.
    let _not_allowed = std::fs::write("/proc/self/oom_score_adj", "-999");
    let (memory, users) = sandbox::set_up(&spec.sandbox, files, ground)?;
    let signals = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];
    let signals = crate::sys::process::signal_fd(&signals).context("receive signals")?;
    let listener = crate::sys::socket::listen(&files.socket()).context("listen")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")?;
    let own_pids =
        rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("open own PID name space")?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make epoll")?;
    epoll::add(&epoll, &signals, Token::Signals.with(0), epoll::EventFlags::IN)?;
    epoll::add(&epoll, &listener, Token::Listener.with(0), epoll::EventFlags::IN)?;
    Ok(Keeper {
        files: files.clone(),
        journal: Journal::create(files).context("begin journal")?,
        group,
        memory,
        users,
        epoll,
        signals,
        listener,
        null,
        own_pids,
        pod_init: None,
        clients: BTreeMap::new(),
        containers: Vec::new(),
        execs: Vec::new(),
        attached: Vec::new(),
        next: 1,
        ending: false,
    })
}

/// Answers the first request with the reason why there is no sandbox.
fn refuse(socket: &OwnedFd, why: &str) {
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    let _asked = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience));
    let mut buffer = vec![0; protocol::INLINE + 64];
    if let Ok(Some(packet)) = protocol::receive(socket.as_fd(), &mut buffer) {
        let reply = Message::Reply(Reply::Failed(Failure::Failed(why.to_owned())));
        if let Ok(encoded) = protocol::encode(packet.id, &reply) {
            let _gone = protocol::send(socket.as_fd(), &encoded, &[]);
        }
    }
}

impl Keeper {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(16);
        // Of a piece as large as this nothing is in memory but what was written to; a smaller one would be cleared by hand.
        let mut buffer = vec![0; BUFFER];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for events"),
            }
            for event in events.drain(..) {
                let (token, number) = Token::split(event.data);
                match token {
                    Some(Token::Signals) => self.take_signals(),
                    Some(Token::Listener) => self.accept(),
                    Some(Token::Client) => self.hear(number, &mut buffer),
                    Some(Token::Container) => self.container_reported(number),
                    Some(Token::Output) => self.container_wrote(number, logs::Stream::Output),
                    Some(Token::ErrorOutput) => self.container_wrote(number, logs::Stream::Error),
                    Some(Token::Exec) => self.exec_reported(number),
                    Some(Token::AttachOutput) => self.attach_writable(number, logs::Stream::Output),
                    Some(Token::AttachErrorOutput) => self.attach_writable(number, logs::Stream::Error),
                    None => {}
                }
            }
            if self.ending && self.nothing_lives() {
                self.end();
            }
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1).max(1);
        self.next
    }

    fn take_signals(&mut self) {
        // Only SIGCHLD means something; the others are taken so that they do not end us.
        while crate::sys::process::next_signal(&self.signals).is_some() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.reaped(pid.as_raw_nonzero().get(), exit_status(status));
        }
    }

    fn reaped(&mut self, pid: i32, exit: ExitStatus) {
        if let Some(place) = self.containers.iter().position(|c| c.status.pid == Some(pid)) {
            // One that has put another in its place has said so before it ended.
            self.container_reported(self.containers[place].number);
            if self.containers[place].status.pid == Some(pid) {
                self.container_ended(place, exit);
            }
        } else if let Some(place) = self.execs.iter().position(|e| e.pid == pid) {
            self.exec_ended(place, exit);
        } else if self.pod_init == Some(pid) {
            self.pod_init = None;
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let trusted = crate::sys::socket::peer_uid(&socket).is_ok_and(|uid| uid == rustix::process::geteuid().as_raw());
            if trusted && let Err(error) = self.add_client(socket) {
                eprintln!("keeper: take connection: {error:#}");
            }
        }
    }

    fn add_client(&mut self, socket: OwnedFd) -> anyhow::Result<()> {
        let number = self.number();
        epoll::add(&self.epoll, &socket, Token::Client.with(number), epoll::EventFlags::IN)?;
        self.clients.insert(number, socket);
        Ok(())
    }

    /// Before a descriptor is closed: a process that is being made may hold it too for a moment, or for as long as its set-up
    /// hangs, and the kernel would go on telling of its end.
    fn unwatch(&self, fd: &OwnedFd) {
        let _not_watched = epoll::delete(&self.epoll, fd);
    }

    fn hear(&mut self, client: u32, buffer: &mut [u8]) {
        loop {
            let Some(socket) = self.clients.get(&client) else { return };
            match protocol::receive(socket.as_fd(), buffer) {
                Ok(Some(Packet { id, body: Ok(Message::Request(request)), fds })) => {
                    self.answer(Asker { client, request: id }, request, fds);
                }
                Ok(Some(Packet { id, .. })) => {
                    let text = "the keeper of this pod is of an earlier version and does not know the request";
                    self.reply(Asker { client, request: id }, Reply::Failed(Failure::Failed(text.into())), &[]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => return self.forget_client(client),
            }
        }
    }

    /// A client that goes takes its commands and attached sessions with it; containers stay.
    fn forget_client(&mut self, client: u32) {
        if let Some(socket) = self.clients.remove(&client) {
            self.unwatch(&socket);
        }
        for exec in self.execs.iter().filter(|exec| exec.client == client) {
            exec.kill(Signal::KILL);
        }
        let gone: Vec<u32> = self.attached.iter().filter(|a| a.client == client).map(|a| a.number).collect();
        for number in gone {
            self.detach(number);
        }
    }

    fn answer(&mut self, asker: Asker, request: Request, fds: Vec<OwnedFd>) {
        let outcome = match request {
            Request::List => {
                let containers = self.containers.iter().map(|c| c.status.clone()).collect();
                Ok(Some(Reply::List { keeper: rustix::process::getpid().as_raw_nonzero().get(), containers }))
            }
            Request::Create { id } => self.create_container(asker, &id, fds),
            Request::Proceed { id } => self.proceed(asker, &id),
            Request::Start { id } => self.start_container(asker, &id),
            Request::Kill { id, signal, all } => self.kill_container(&id, signal, all),
            Request::Remove { id } => self.remove_container(asker, &id),
            Request::Exec(request) => self.create_exec(asker, &request, fds),
            Request::ExecKill { exec, signal } => self.kill_exec(exec, signal),
            Request::Attach { id, stdin, stdout, stderr } => self.attach(asker, &id, [stdin, stdout, stderr], fds),
            Request::Detach { attach } => {
                self.detach(attach as u32);
                Ok(Some(Reply::Done))
            }
            Request::Resize { id, columns, rows } => self.resize(&id, columns, rows),
            Request::ReopenLog { id } => self.reopen_log(&id),
            Request::Socket { v6 } => return self.give_socket(asker, v6),
            Request::Shutdown => {
                self.shut_down();
                Ok(Some(Reply::Done))
            }
        };
        match outcome {
            Ok(Some(reply)) => self.reply(asker, reply, &[]),
            Ok(None) => {}
            Err(failure) => self.reply(asker, Reply::Failed(failure), &[]),
        }
    }

    fn give_socket(&mut self, asker: Asker, v6: bool) {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::socket_with(family, SocketType::STREAM, flags, None) {
            Ok(socket) => self.reply(asker, Reply::Socket, &[socket.as_fd()]),
            Err(error) => self.reply(asker, Reply::Failed(Failure::Failed(format!("make socket: {error}"))), &[]),
        }
    }

    fn reply(&mut self, asker: Asker, reply: Reply, fds: &[BorrowedFd<'_>]) {
        self.send(asker.client, asker.request, &Message::Reply(reply), fds);
    }

    fn notify(&mut self, notice: Notice) {
        let message = Message::Notice(notice);
        let clients: Vec<u32> = self.clients.keys().copied().collect();
        for client in clients {
            self.send(client, 0, &message, &[]);
        }
    }

    /// Sends to one client. One that does not read for five seconds is let go, so that it cannot hold the pod up.
    fn send(&mut self, client: u32, request: u32, message: &Message, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.clients.get(&client) else { return };
        let encoded = match protocol::encode(request, message) {
            Ok(encoded) => encoded,
            Err(error) => return eprintln!("keeper: encode message: {error}"),
        };
        let mut sent = protocol::send(socket.as_fd(), &encoded, fds);
        if sent.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
            let _ready = poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience));
            sent = protocol::send(socket.as_fd(), &encoded, fds);
        }
        if sent.is_err() {
            // The end of the conversation is noticed when it is next read; forgetting it here would change lists that
            // callers are walking.
            let _closed = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }

    /// Notes the state of a container before anyone hears of it.
    fn note(&mut self, place: usize) {
        let all: Vec<_> = self.containers.iter().filter(|c| c.is_known()).map(|c| &c.status).collect();
        if let Err(error) = self.journal.note(&self.containers[place].status, &all) {
            eprintln!("keeper: write journal: {error}");
        }
    }

    fn note_removed(&mut self, id: &ContainerId) {
        if let Err(error) = self.journal.forget(id) {
            eprintln!("keeper: write journal: {error}");
        }
    }

    fn place(&self, id: &ContainerId) -> Result<usize, Failure> {
        self.containers.iter().position(|c| &c.status.id == id).ok_or(Failure::NotFound)
    }

    /// Process 1 of the shared PID name space: adopts and forgets orphans, and does nothing else.
    fn pod_init(&mut self) -> anyhow::Result<i32> {
        if let Some(pid) = self.pod_init {
            return Ok(pid);
        }
        let pid = match &self.users {
            Some(users) => Self::pod_init_of(users)?,
            None => match crate::sys::clone::fork(crate::sys::clone::NEW_PID, None).context("fork process 1 of the pod")? {
                Side::Parent(pid) => pid,
                Side::Child => pause(),
            },
        };
        self.pod_init = Some(pid);
        Ok(pid)
    }

    /// Forks into the PID name space of another process, and returns to our own.
    fn fork_into_pids_of(&self, pid: i32, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> anyhow::Result<Side> {
        let path = format!("/proc/{pid}/ns/pid");
        let theirs = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("open PID name space")?;
        move_into_link_name_space(theirs.as_fd(), Some(LinkNameSpaceType::ProcessID)).context("enter PID name space")?;
        let side = crate::sys::clone::fork(flags, cgroup);
        if !matches!(side, Ok(Side::Child)) {
            let back = move_into_link_name_space(self.own_pids.as_fd(), Some(LinkNameSpaceType::ProcessID));
            back.context("return to own PID name space")?;
        }
        side.context("fork")
    }

    fn shut_down(&mut self) {
        self.ending = true;
        for container in &self.containers {
            container.kill_all();
        }
        if let Some(pid) = self.pod_init.and_then(Pid::from_raw) {
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    fn nothing_lives(&self) -> bool {
        self.pod_init.is_none() && self.execs.is_empty() && self.containers.iter().all(|c| c.status.pid.is_none())
    }

    fn end(&mut self) -> ! {
        let _missing = std::fs::remove_file(self.files.socket());
        if let PodMemory::Mounted(path) = &self.memory {
            let _not_mounted = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
        std::process::exit(0);
    }
}

/// Lives as process 1 of a shared PID name space.
fn pause() -> ! {
    let _keeper_gone = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _cosmetic = rustix::thread::set_name(c"pause");
    crate::sys::process::set_title(b"/pause");
    crate::sys::process::close_inherited();
    crate::sys::process::unblock_signals();
    crate::sys::process::ignore_signal(libc::SIGCHLD);
    loop {
        crate::sys::process::pause();
    }
}

/// How a child ended.
fn exit_status(status: WaitStatus) -> ExitStatus {
    match status.terminating_signal() {
        Some(signal) => ExitStatus { code: 128 + signal, signal: Some(signal) },
        None => ExitStatus { code: status.exit_status().unwrap_or(255), signal: None },
    }
}
