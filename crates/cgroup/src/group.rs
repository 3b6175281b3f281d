//! A group in every hierarchy at once: made, joined, emptied, removed.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use crate::error::Error;
use crate::layout::{Layout, Version};

/// A group by its path below the visible root of each hierarchy. Cheap to clone; makes nothing by itself.
#[derive(Clone, Debug)]
pub struct Group {
    layout: Arc<Layout>,
    path: String,
}

/// Open descriptors by which a new process enters a group without waiting for the kernel's grace periods.
///
/// A process that writes `0` to the `tasks` file of version 1 moves itself and takes no global lock; moving another
/// process takes one and costs 5 to 10 ms on an idle machine. For the unified hierarchy the descriptor goes to
/// `CLONE_INTO_CGROUP`.
#[derive(Debug)]
pub struct JoinHandles {
    tasks: Vec<OwnedFd>,
    unified: Option<OwnedFd>,
}

impl JoinHandles {
    /// Directory for `CLONE_INTO_CGROUP`.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process, which must have one thread, into the version 1 groups.
    pub fn join_current(&self) -> io::Result<()> {
        for tasks in &self.tasks {
            rustix::io::write(tasks, b"0")?;
        }
        Ok(())
    }
}

impl Group {
    /// Names a group. The path is relative, of plain names; empty is the visible root itself.
    pub fn new(layout: Arc<Layout>, path: &str) -> Result<Self, Error> {
        let path = path.trim_matches('/');
        let plain = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
        if !path.is_empty() && !path.split('/').all(plain) {
            return Err(Error::BadPath(path.to_owned()));
        }
        Ok(Self { layout, path: path.to_owned() })
    }

    /// A group below this one.
    pub fn child(&self, name: &str) -> Result<Self, Error> {
        let name = name.trim_matches('/');
        if self.path.is_empty() {
            Self::new(self.layout.clone(), name)
        } else {
            Self::new(self.layout.clone(), &format!("{}/{name}", self.path))
        }
    }

    /// The group above; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.path.is_empty() {
            return None;
        }
        let path = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(Self { layout: self.layout.clone(), path: path.to_owned() })
    }

    /// Path below the visible root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the controllers are.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Directory of the group in the hierarchy of a controller.
    pub fn dir(&self, controller: &str) -> Option<PathBuf> {
        self.layout.controller(controller).map(|root| root.join(&self.path))
    }

    /// Directory of the group in the unified hierarchy.
    pub fn unified_dir(&self) -> Option<PathBuf> {
        self.layout.unified().map(|root| root.join(&self.path))
    }

    /// Version 1 directories and the unified one, in this order.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let roots = self.layout.hierarchies().iter().map(PathBuf::as_path).chain(self.layout.unified());
        roots.map(|root| root.join(&self.path)).collect()
    }

    /// Whether it exists, in the first hierarchy at least.
    pub fn exists(&self) -> bool {
        self.dirs().first().is_some_and(|dir| dir.is_dir())
    }

    /// Makes the group and those above it where missing, in every hierarchy, with the controllers enabled.
    pub fn create(&self) -> Result<(), Error> {
        for root in self.layout.hierarchies() {
            self.create_in(root, Some(root.as_path()) == self.layout.controller("cpuset"))?;
        }
        if let Some(root) = self.layout.unified() {
            let dir = root.join(&self.path);
            if let Some(parent) = dir.parent()
                && dir != root
            {
                fs::create_dir_all(parent).map_err(|source| file("create", parent, source))?;
                // Beside version 1 hierarchies the unified one only knows who is in which group.
                if self.layout.version() == Version::V2 {
                    self.enable_controllers(root, parent)?;
                }
            }
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Passes controllers on from the root of the unified hierarchy to the groups below `dir`.
    pub(crate) fn enable_controllers(&self, root: &Path, dir: &Path) -> Result<(), Error> {
        let control = dir.join("cgroup.subtree_control");
        let enabled = read(&control)?;
        let on = |name: &&&'static str| enabled.split_whitespace().any(|word| word == **name);
        if self.layout.offered().iter().all(|name| on(&name)) {
            return Ok(());
        }
        if dir != root
            && let Some(parent) = dir.parent()
        {
            self.enable_controllers(root, parent)?;
        }
        for name in self.layout.offered().iter().filter(|name| !on(name)) {
            write(&control, &format!("+{name}"))?;
        }
        Ok(())
    }

    fn create_in(&self, root: &Path, cpuset: bool) -> Result<(), Error> {
        let dir = root.join(&self.path);
        match fs::create_dir(&dir) {
            Ok(()) if !cpuset => return Ok(()),
            Ok(()) => return fill_cpuset(&dir),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file("create", &dir, source)),
        }
        if let Some(parent) = self.parent() {
            parent.create_in(root, cpuset)?;
        }
        make_dir(&dir)?;
        if cpuset { fill_cpuset(&dir) } else { Ok(()) }
    }

    /// Opens what a new process needs to enter the group.
    pub fn join_handles(&self) -> Result<JoinHandles, Error> {
        let mut tasks = Vec::with_capacity(self.layout.hierarchies().len());
        for root in self.layout.hierarchies() {
            let path = root.join(&self.path).join("tasks");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| file("open", &path, e.into()))?;
            tasks.push(fd);
        }
        let mut unified = None;
        if let Some(dir) = self.unified_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&dir, flags, Mode::empty()).map_err(|e| file("open", &dir, e.into()))?;
            unified = Some(fd);
        }
        Ok(JoinHandles { tasks, unified })
    }

    /// Moves a process with all its threads into the group. Slow on version 1, see [`JoinHandles`].
    pub fn add_pid(&self, pid: i32) -> Result<(), Error> {
        for dir in self.dirs() {
            write(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Processes of the group itself, without those below.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let Some(dir) = self.process_dir() else { return Ok(Vec::new()) };
        pids_in(&dir)
    }

    /// Processes of the group and of all groups below it.
    pub fn all_pids(&self) -> Result<Vec<i32>, Error> {
        let Some(dir) = self.process_dir() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for below in tree(&dir)? {
            match pids_in(&below) {
                Ok(pids) => found.extend(pids),
                // One that was removed meanwhile has no processes.
                Err(error) if below != dir && is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The hierarchy in which membership is read: the unified one where there is one.
    fn process_dir(&self) -> Option<PathBuf> {
        self.unified_dir().or_else(|| self.dirs().into_iter().next())
    }

    /// Sends SIGKILL to every process of the group and below, so that none escapes by forking.
    pub fn kill_all(&self) -> Result<(), Error> {
        if let Some(dir) = self.unified_dir() {
            match fs::write(dir.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                Err(source) if source.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
                Err(_) => {}
            }
        }
        let frozen = self.set_frozen(true).is_ok();
        let mut rounds = 0;
        loop {
            let pids = match self.all_pids() {
                Ok(pids) => pids,
                Err(error) if is_gone(&error) => Vec::new(),
                Err(error) => return Err(error),
            };
            for pid in &pids {
                if let Some(pid) = Pid::from_raw(*pid) {
                    let _gone = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            rounds += 1;
            if pids.is_empty() || frozen || rounds > 32 {
                break;
            }
        }
        if frozen { self.set_frozen(false) } else { Ok(()) }
    }

    /// Stops or continues every process of the group.
    pub fn set_frozen(&self, frozen: bool) -> Result<(), Error> {
        if let Some(dir) = self.unified_dir() {
            return write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
        let dir = self.dir("freezer").ok_or(Error::NoController("freezer"))?;
        write(&dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
    }

    /// Removes the group and all below it. Waits for processes that are on their way out, at most until `patience` ends.
    pub fn remove(&self, patience: Duration) -> Result<(), Error> {
        if self.path.is_empty() {
            return Err(Error::BadPath(String::new()));
        }
        let deadline = Instant::now() + patience;
        for dir in self.dirs() {
            remove_tree(&dir, self.unified_dir().as_deref(), deadline)?;
        }
        Ok(())
    }

    /// Removes the group if nothing is in it; whether it is gone.
    pub fn remove_if_empty(&self) -> bool {
        self.dirs().iter().rev().all(|dir| match fs::remove_dir(dir) {
            Ok(()) => true,
            Err(source) => source.kind() == io::ErrorKind::NotFound,
        })
    }

    /// Makes this group usable as the top of our own tree: on version 2 the groups above must have no processes of their
    /// own, so those of a delegated root that is not the machine's move into a leaf named `knarr-init`.
    pub fn create_top(&self) -> Result<(), Error> {
        match self.create() {
            Err(Error::Write { source, .. })
                if self.layout.version() == Version::V2 && source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) =>
            {
                let root = Self { layout: self.layout.clone(), path: String::new() };
                let leaf = root.child("knarr-init")?;
                if let Some(dir) = leaf.unified_dir() {
                    make_dir(&dir)?;
                }
                for pid in root.pids()? {
                    let _ended = leaf.add_pid(pid);
                }
                self.create()
            }
            done => done,
        }
    }
}

pub(crate) fn file(deed: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { deed, path: path.to_owned(), source }
}

pub(crate) fn write(path: &Path, value: &str) -> Result<(), Error> {
    let failed = |source| Error::Write { value: value.to_owned(), path: path.to_owned(), source };
    let mut open = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
    open.write_all(value.as_bytes()).map_err(failed)
}

/// Writes several values to a file that takes one per call.
pub(crate) fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> Result<(), Error> {
    let failed = |value: &str, source| Error::Write { value: value.to_owned(), path: path.to_owned(), source };
    let mut open = fs::OpenOptions::new().write(true).open(path).map_err(|source| failed("", source))?;
    for line in lines {
        open.write_all(line.as_bytes()).map_err(|source| failed(&line, source))?;
    }
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| file("read", path, source))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(file("create", dir, source)),
        _ => Ok(()),
    }
}

/// A version 1 cpuset without processors and nodes takes no process; with `clone_children` the groups below inherit.
fn fill_cpuset(dir: &Path) -> Result<(), Error> {
    if read(&dir.join("cgroup.clone_children"))?.trim() == "1" {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if read(&dir.join(name))?.trim().is_empty() {
            let inherited = read(&parent.join(name))?;
            write(&dir.join(name), inherited.trim())?;
        }
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

fn pids_in(dir: &Path) -> Result<Vec<i32>, Error> {
    Ok(read(&dir.join("cgroup.procs"))?.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Whether a group is not there any more; the kernel says so in other words to whoever has one of its files open.
fn is_gone(error: &Error) -> bool {
    error.io().is_some_and(|e| e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()))
}

/// The directory and all below it that stay while it is read, deepest first.
fn tree(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(|source| file("list", dir, source))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match tree(&entry.path()) {
                Ok(below) => found.extend(below),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    found.push(dir.to_owned());
    Ok(found)
}

#[allow(clippy::disallowed_methods, reason = "version 1 has nothing to wait for; this is never called on an asynchronous thread")]
fn remove_tree(dir: &Path, unified: Option<&Path>, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) if source.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                return Err(file("remove", dir, source));
            }
            Err(_) => {}
        }
        for below in fs::read_dir(dir).into_iter().flatten().flatten() {
            if below.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&below.path(), None, deadline)?;
            }
        }
        if fs::remove_dir(dir).is_ok() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Busy { path: dir.to_owned() });
        }
        // Version 1 tells nobody when a group becomes empty; the unified hierarchy does.
        if !unified.is_some_and(|dir| wait_empty(dir, left).unwrap_or(false)) {
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// Waits for `populated 0`; whether there was something to wait for.
fn wait_empty(dir: &Path, patience: Duration) -> io::Result<bool> {
    let events = fs::File::open(dir.join("cgroup.events"))?;
    let mut text = [0; 128];
    let size = rustix::io::pread(&events, &mut text, 0)?;
    if !text[..size].windows(11).any(|window| window == b"populated 1") {
        return Ok(false);
    }
    let mut fds = [PollFd::new(&events, PollFlags::PRI)];
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    poll(&mut fds, Some(&timeout))?;
    Ok(true)
}
