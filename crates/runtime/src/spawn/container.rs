//! The first process of a container, from fork to execve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Context;
use cgroup::{Group, JoinHandles};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::capabilities::{self, Prepared};
use super::dev::{self, SharedMemory};
use super::identity::{self, Identity};
use super::users::{Processes, Users};
use super::{BadDescription, Report, Streams, environment, give_up, masks, mounts, program, root, user};
use crate::hooks;
use crate::keeper::sandbox::PodMemory;
use crate::keeper::state::Files;
use crate::spec::{ContainerSpec, HookKind, PidMode};
use crate::status::ResolvedUser;
use crate::sys::mount;

/// All that a new container needs from the keeper. Borrowed from the keeper's memory, which the fork has copied.
pub(crate) struct Launch<'a> {
    pub spec: &'a ContainerSpec,
    /// Where the root is attached, in the container's own mount name space.
    pub root_point: PathBuf,
    pub group: &'a Group,
    pub join: &'a JoinHandles,
    pub streams: &'a Streams,
    pub passed: &'a [OwnedFd],
    pub memory: &'a PodMemory,
    /// The pod's users, where they are not the node's.
    pub users: Option<&'a Users>,
    pub filter: Option<&'a [u8]>,
    /// The folders of the pod, where the container has hooks.
    pub hooked: Option<&'a Files>,
    /// Conversation with the keeper.
    pub socket: &'a OwnedFd,
}

/// What is known once the set-up is done.
struct Ready {
    user: ResolvedUser,
    env: Vec<String>,
    terminal: Option<dev::Terminal>,
    capabilities: Prepared,
    /// The number of this process on the node, known where there are hooks.
    pid: Option<i32>,
    /// Why there is no working directory.
    no_directory: Option<String>,
}

/// Becomes the container.
pub(crate) fn run(launch: &Launch<'_>) -> ! {
    let socket = launch.socket.as_fd();
    let ready = match set_up(launch) {
        Ok(ready) => ready,
        Err(error) if error.downcast_ref::<BadDescription>().is_some() => give_up(socket, Report::Invalid(format!("{error:#}"))),
        Err(error) => give_up(socket, Report::Failed(format!("{error:#}"))),
    };
    let fds: Vec<BorrowedFd<'_>> = ready.terminal.iter().map(|terminal| terminal.ours.as_fd()).collect();
    if Report::Ready(ready.user.clone()).send(socket, &fds).is_err() {
        crate::sys::clone::exit_now(0);
    }
    // While this process waits it must not hold open what belongs to the keeper's other children: an input whose writer
    // it shares would never end.
    let mut keep = vec![socket];
    keep.extend(ready.terminal.iter().map(|terminal| terminal.theirs.as_fd()));
    if let Streams::Files { input, output, error } = launch.streams {
        keep.extend([input.as_fd(), output.as_fd(), error.as_fd()]);
    }
    crate::sys::process::close_all_but(&keep);
    if wait_for_word(launch.socket).is_none() {
        crate::sys::clone::exit_now(0);
    }
    let ready_to_enter = match &ready.no_directory {
        Some(text) => Err(anyhow::anyhow!(text.clone())),
        None => Ok(()),
    };
    let why = match ready_to_enter
        .and_then(|()| take_over(launch, &ready))
        .and_then(|()| run_hooks(launch, HookKind::StartContainer, "created", ready.pid))
    {
        Ok(()) => program::execute(&launch.spec.argv, &ready.env),
        Err(error) => format!("{error:#}"),
    };
    give_up(socket, Report::Refused(format!("unable to start container process: {why}")))
}

/// Waits for the keeper's word; none when it is gone. Nothing runs here but this wait.
fn wait_for_word(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut word = [0; 16];
    loop {
        let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        match rustix::io::read(socket, &mut word) {
            Ok(size) if size > 0 => return Some(word[..size].to_vec()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}

/// Lets the node's hooks run and waits for their end; the number that this process has on the node.
fn pause(socket: &OwnedFd) -> anyhow::Result<i32> {
    Report::Paused.send(socket.as_fd(), &[]).context("tell that hooks may run")?;
    let Some(word) = wait_for_word(socket) else { crate::sys::clone::exit_now(0) };
    std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok()).context("started before its hooks have run")
}

/// Runs hooks here and now.
fn run_hooks(launch: &Launch<'_>, kind: HookKind, status: &str, pid: Option<i32>) -> anyhow::Result<()> {
    let Some(files) = launch.hooked else { return Ok(()) };
    let state = hooks::bundle::state(files, launch.spec, status, pid);
    hooks::run_all(&launch.spec.hooks, kind, &state).map_err(|error| anyhow::anyhow!(hooks::told(&error)))
}

fn set_up(launch: &Launch<'_>) -> anyhow::Result<Ready> {
    let spec = launch.spec;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")?;
    launch.join.join_current().context("enter cgroup")?;
    if launch.users.is_none() {
        crate::sys::clone::unshare(UnshareFlags::NEWCGROUP).context("make cgroup name space")?;
    }
    identity::set_oom_score(spec.oom_score_adj.unwrap_or(0))?;
    // In a user name space limits could not be raised any more.
    identity::set_rlimits(&spec.rlimits)?;

    let top = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Mounts with users of their own never reach the node, and layers with shifted owners must not show there.
    if launch.users.is_some() {
        mount::set_propagation(&top, mount::SLAVE).context("leave the node's mount groups")?;
    }
    // The node's paths end here: copies first, while shared mounts are still peers of the node's own.
    let binds = mounts::prepare(&spec.mounts, launch.passed, launch.users, &launch.root_point)?;
    let cgroups = mounts::prepare_cgroups(launch.group)?;
    let nodes = dev::prepare(&spec.devices, spec.privileged, launch.users.is_some())?;
    let shared_memory = match launch.memory {
        PodMemory::Host => dev::host_shared_memory(),
        PodMemory::Detached(fd) => SharedMemory::Pod(mount::copy_fd(fd, false).context("share memory of the pod")?),
        PodMemory::Mounted(path) => SharedMemory::Pod(mount::copy_path(path, false).context("share memory of the pod")?),
    };
    let root = match launch.users {
        None => {
            mount::set_propagation(&top, mount::SLAVE).context("leave the node's mount groups")?;
            root::attach(&spec.rootfs, &launch.root_point)?
        }
        Some(users) => {
            let root = root::shifted(&spec.rootfs, users, &launch.root_point)?;
            let processes = if spec.pid == PidMode::Container { Processes::New } else { Processes::Same };
            users.enter_as_container(processes, launch.socket.as_fd())?;
            root::attach_over_top(&root)?;
            root
        }
    };
    let kernel = mounts::make_proc_and_sys(spec.privileged)?;
    // With users of its own the container has left the node's paths already.
    let stays = launch.hooked.is_some() && launch.users.is_none();
    if !stays {
        root::enter(&root)?;
    }

    mounts::attach_proc_and_sys(&kernel, &root)?;
    mounts::attach_cgroups(&cgroups, &root, spec.privileged)?;
    let with_terminal = matches!(launch.streams, Streams::Terminal);
    let (terminal, dev) = dev::attach(&root, &nodes, &shared_memory, with_terminal)?;
    mounts::attach(&binds, &root, &kernel)?;
    let pid = launch.hooked.map(|_| pause(launch.socket)).transpose()?;
    run_hooks(launch, HookKind::CreateContainer, "creating", pid)?;
    if stays {
        root::enter(&root)?;
    }
    let account = user::resolve(&root, &spec.user)?;
    let no_directory = identity::ensure_cwd(&root, &spec.cwd)?;
    masks::mask(&root, &dev, &spec.masked_paths)?;
    masks::protect(&root, &spec.read_only_paths)?;
    if spec.read_only_root {
        mount::set_attributes(&root, mount::RDONLY, false).context("make root read-only")?;
    }
    let mut env = spec.env.clone();
    if environment::value(&env, "HOME").is_none() {
        env.push(format!("HOME={}", account.home));
    }
    let capabilities = capabilities::prepare(&spec.capabilities).map_err(BadDescription)?;
    Ok(Ready { user: account.user, env, terminal, capabilities, pid, no_directory })
}

/// The last steps, after the word to go.
fn take_over(launch: &Launch<'_>, ready: &Ready) -> anyhow::Result<()> {
    let spec = launch.spec;
    rustix::process::setsid().context("begin session")?;
    connect(launch.streams, ready.terminal.as_ref(), &ready.user)?;
    identity::set_umask();
    crate::sys::process::close_on_exec_all().context("close descriptors")?;
    // The keeper handles nothing and ignores only this one; a new program expects neither.
    crate::sys::process::default_signal(libc::SIGPIPE);
    crate::sys::process::unblock_signals();
    identity::assume(&Identity {
        user: &ready.user,
        capabilities: &ready.capabilities,
        no_new_privs: spec.no_new_privs,
        filter: launch.filter,
        cwd: &spec.cwd,
    })?;
    // A change of user forgets the tie to the keeper.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")
}

/// Puts input and output in place. The user becomes owner of pipes and terminal, or it could not open `/dev/stdout`.
pub(super) fn connect(streams: &Streams, terminal: Option<&dev::Terminal>, user: &ResolvedUser) -> anyhow::Result<()> {
    let uid = Some(Uid::from_raw(user.uid));
    match (streams, terminal) {
        (Streams::Terminal, Some(terminal)) => {
            let theirs = terminal.theirs.as_fd();
            rustix::process::ioctl_tiocsctty(theirs).context("take terminal")?;
            let _kept = rustix::fs::fchown(theirs, uid, None);
            crate::sys::process::set_stdio(theirs, theirs, theirs).context("connect terminal")
        }
        (Streams::Files { input, output, error }, _) => {
            for fd in [input, output, error] {
                let kind = rustix::fs::fstat(fd).map(|found| found.st_mode).unwrap_or_default();
                if rustix::fs::FileType::from_raw_mode(kind) == rustix::fs::FileType::Fifo {
                    let _kept = rustix::fs::fchown(fd, uid, Some(Gid::from_raw(user.gid)));
                }
            }
            crate::sys::process::set_stdio(input.as_fd(), output.as_fd(), error.as_fd()).context("connect streams")
        }
        (Streams::Terminal, None) => Err(anyhow::anyhow!("no terminal was opened")),
    }
}
