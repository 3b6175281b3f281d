//! The user name space of a pod (`hostUsers: false`) as its processes enter it.
//!
//! The node's files, devices and layers can be opened only before: afterwards the process is as powerful as ever over what
//! belongs to the pod, and a stranger to the node. So a container's first process takes everything that it needs from the
//! node first, as detached mounts, and enters then. Name spaces of mounts, control groups and processes that it makes
//! afterwards belong to the pod.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{Report, Streams};
use crate::spec::{IdMapping, UserNs};
use crate::status::ResolvedUser;
use crate::sys::clone::{self, Side};
use crate::sys::mount;

/// A pod's user name space.
#[derive(Debug)]
pub(crate) struct Users {
    /// Keeps it alive.
    pub fd: OwnedFd,
    /// What it maps.
    pub map: UserNs,
}

/// Whose name space of processes a process shall be in after it has entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processes {
    /// The one that it is in.
    Same,
    /// A new one.
    New,
}

impl Users {
    /// The node's user for one of the pod; none when the pod has no such user.
    pub(crate) fn uid(&self, inside: u32) -> Option<Uid> {
        outside(&self.map.uids, inside).map(Uid::from_raw)
    }

    /// The node's group for one of the pod.
    pub(crate) fn gid(&self, inside: u32) -> Option<Gid> {
        outside(&self.map.gids, inside).map(Gid::from_raw)
    }

    /// Shows a detached tree with the pod's owners.
    pub(crate) fn shift(&self, tree: impl AsFd, what: &Path) -> anyhow::Result<()> {
        mount::shift_owners(tree, &self.fd).with_context(|| {
            format!(
                "shift the owners of {}, which a pod with users of its own needs and its file system may not be able to do",
                what.display()
            )
        })
    }

    /// Makes streams that the node made belong to a user of the pod, or it could not open `/dev/stdout`.
    pub(crate) fn give(&self, streams: &[BorrowedFd<'_>], user: &ResolvedUser) {
        for fd in streams {
            let kind = rustix::fs::fstat(fd).map(|found| found.st_mode).unwrap_or_default();
            if rustix::fs::FileType::from_raw_mode(kind) == rustix::fs::FileType::Fifo {
                let _kept = rustix::fs::fchown(fd, self.uid(user.uid), self.gid(user.gid));
            }
        }
    }

    /// The same for the streams of a command.
    pub(super) fn give_all(&self, streams: &Streams, user: &ResolvedUser) {
        if let Streams::Files { input, output, error } = streams {
            self.give(&[input.as_fd(), output.as_fd(), error.as_fd()], user);
        }
    }

    /// Becomes user 0 of the pod, with every capability over what is the pod's.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::User)).context("enter user name space")?;
        let (user, group) = (Uid::ROOT, Gid::ROOT);
        set_thread_groups(&[]).context("leave the node's groups")?;
        set_thread_res_gid(group, group, group).context("become group 0 of the pod")?;
        set_thread_res_uid(user, user, user).context("become user 0 of the pod")
    }

    /// Enters with mounts and control groups of the pod's own. For a new name space of processes another process has to
    /// take this one's place: it returns there, after the keeper has been told, and this one ends.
    pub(super) fn enter_as_container(&self, processes: Processes, keeper: BorrowedFd<'_>) -> anyhow::Result<()> {
        self.enter()?;
        let mut spaces = UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
        if processes == Processes::New {
            spaces |= UnshareFlags::NEWPID;
        }
        clone::unshare(spaces).context("make name spaces")?;
        if processes == Processes::New {
            let (wait, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make pipe")?;
            match clone::fork_sibling().context("fork process 1 of the container")? {
                Side::Parent(pid) => {
                    Report::Moved(pid).send(keeper, &[]).context("tell the keeper")?;
                    drop(told);
                    clone::exit_now(0);
                }
                Side::Child => {
                    drop(told);
                    // Nothing else is reported before the keeper knows whom it hears.
                    let _end = rustix::io::read(&wait, &mut [0; 1]);
                }
            }
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie life to the keeper's")
    }

    /// Attaches layers with shifted owners where an overlay finds them; they go when the guard is dropped.
    pub(super) fn shifted_layers(&self, layers: &[PathBuf], point: &Path) -> anyhow::Result<Shifted> {
        let scratch = mount::new("tmpfs", &[("source", Some("layers")), ("mode", Some("700"))], 0).context("make place for layers")?;
        let place = super::root::open_dir(point)?;
        mount::attach(&scratch, &place).context("attach place for layers")?;
        rustix::fs::mkdirat(&scratch, "stack", Mode::from_raw_mode(0o700)).context("make place for the stack")?;
        let mut shifted = Shifted { point: point.to_owned(), place: point.join("stack"), layers: Vec::with_capacity(layers.len()) };
        for (number, layer) in layers.iter().enumerate() {
            if let Some(first) = layers[..number].iter().position(|earlier| earlier == layer) {
                let path = shifted.layers[first].clone();
                shifted.layers.push(path);
                continue;
            }
            let tree = mount::copy_path(layer, false).with_context(|| format!("open layer {}", layer.display()))?;
            self.shift(&tree, layer)?;
            let name = number.to_string();
            rustix::fs::mkdirat(&scratch, name.as_str(), Mode::from_raw_mode(0o700)).context("make place for a layer")?;
            let path = point.join(&name);
            mount::attach(&tree, super::root::open_dir(&path)?).context("attach layer")?;
            shifted.layers.push(path);
        }
        Ok(shifted)
    }
}

/// Layers with shifted owners, by path. Must not be made before the mounts of this process are hidden from the node's.
pub(super) struct Shifted {
    point: PathBuf,
    /// Where something may be mounted for a moment.
    pub place: PathBuf,
    pub layers: Vec<PathBuf>,
}

impl Drop for Shifted {
    fn drop(&mut self) {
        let _goes_with_the_process = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
    }
}

fn outside(map: &[IdMapping], inside: u32) -> Option<u32> {
    let range = map.iter().find(|range| inside.checked_sub(range.container_id).is_some_and(|offset| offset < range.size))?;
    range.host_id.checked_add(inside - range.container_id)
}

/// Checks that a map can be the one of a pod: user and group 0 are there, nothing runs over.
pub(crate) fn check(map: &UserNs) -> anyhow::Result<()> {
    for (kind, ranges) in [("user", &map.uids), ("group", &map.gids)] {
        let fits =
            |range: &IdMapping| range.container_id.checked_add(range.size).is_some() && range.host_id.checked_add(range.size).is_some();
        if ranges.iter().any(|range| range.size == 0 || !fits(range)) {
            return Err(anyhow!("a range of {kind} ids is empty or too long"));
        }
        if outside(ranges, 0).is_none() {
            return Err(anyhow!("{kind} 0 of the pod is not mapped"));
        }
    }
    Ok(())
}
