//! The mounts of a container. Sources are taken before the root is entered, targets are opened after.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{Mode, OFlags, mkdirat};

use super::users::Users;
use super::{BadDescription, resolve, root};
use crate::spec::{Bind, Mount, Propagation, Source};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};

/// A detached tree with its place in the container.
pub(super) struct Prepared {
    tree: OwnedFd,
    target: PathBuf,
    /// Propagation after it is attached: a bind inherits that of its source, which must not show through otherwise.
    propagation: Option<u64>,
}

/// Takes copies of all sources, in the order in which they are to be attached: outer targets first.
/// `point` is a directory that images may be put together at.
pub(super) fn prepare(mounts: &[Mount], passed: &[OwnedFd], users: Option<&Users>, point: &Path) -> anyhow::Result<Vec<Prepared>> {
    let mut ordered: Vec<&Mount> = mounts.iter().collect();
    ordered.sort_by_key(|mount| mount.target().components().count());
    ordered.into_iter().map(|mount| prepare_one(mount, passed, users, point)).collect()
}

fn prepare_one(mount: &Mount, passed: &[OwnedFd], users: Option<&Users>, point: &Path) -> anyhow::Result<Prepared> {
    let target = mount.target();
    let bad = |why: &str| BadDescription(format!("mount target {} {why}", target.display()));
    if !target.is_absolute() {
        return Err(bad("is not absolute").into());
    }
    if target == Path::new("/") || target == Path::new("/proc") {
        return Err(bad("would hide what the container needs").into());
    }
    let (tree, propagation) = match mount {
        Mount::Bind(bind) => prepare_bind(bind, passed, users)?,
        Mount::Tmpfs { size, mode, read_only, .. } => {
            let (size, mode) = (size.map(|n| n.to_string()), format!("{mode:o}"));
            let mut options = vec![("source", Some("tmpfs")), ("mode", Some(mode.as_str()))];
            options.extend(size.as_deref().map(|size| ("size", Some(size))));
            let owner = users.and_then(|users| Some((users.uid(0)?.as_raw().to_string(), users.gid(0)?.as_raw().to_string())));
            if let Some((uid, gid)) = &owner {
                options.extend([("uid", Some(uid.as_str())), ("gid", Some(gid.as_str()))]);
            }
            let flags = NOSUID | NODEV | if *read_only { RDONLY } else { 0 };
            (mount::new("tmpfs", &options, flags).context("make tmpfs")?, None)
        }
        Mount::Image(image) => {
            let whole = root::image(&image.layers, users, point)?;
            if image.sub_path.as_os_str().is_empty() {
                (whole, None)
            } else {
                let failed = || format!("open {} in the image volume", image.sub_path.display());
                // Kernels before 6.15 copy nothing of a tree that is attached nowhere.
                mount::attach(&whole, root::open_dir(point)?).with_context(failed)?;
                let part = resolve::open_beneath(&whole, &image.sub_path).with_context(failed);
                let copy = part.and_then(|part| Ok(mount::copy_fd(&part, false).with_context(failed)?));
                rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).with_context(failed)?;
                (copy?, None)
            }
        }
    };
    Ok(Prepared { tree, target: target.to_owned(), propagation })
}

fn prepare_bind(bind: &Bind, passed: &[OwnedFd], users: Option<&Users>) -> anyhow::Result<(OwnedFd, Option<u64>)> {
    let tree = match &bind.source {
        Source::Path(path) => mount::copy_path(path, true).with_context(|| format!("open mount source {}", path.display()))?,
        Source::Beneath { root, path } => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(root, flags, Mode::empty()).with_context(|| format!("open volume {}", root.display()))?;
            let fd = resolve::open_beneath(&dir, path).with_context(|| format!("open {} in volume {}", path.display(), root.display()))?;
            mount::copy_fd(&fd, true).context("copy mount source")?
        }
        Source::Passed(place) => {
            // Already a detached copy: the keeper makes it before the fork, in the mount name space that it was opened in.
            let tree = passed.get(*place).ok_or_else(|| anyhow!("mount source {place} was not passed"))?;
            tree.try_clone().context("take mount source")?
        }
        Source::Fd(_) => return Err(anyhow!("an open mount source cannot be described")),
    };
    let propagation = match bind.propagation {
        Propagation::Private => mount::PRIVATE,
        Propagation::Slave => mount::SLAVE,
        Propagation::Shared => mount::SHARED,
    };
    // A copy of a shared mount is its peer; one that is not to be shared must leave the group before it is attached.
    if bind.propagation != Propagation::Shared {
        mount::set_propagation(&tree, propagation).context("set propagation")?;
    }
    if let Some(users) = users.filter(|_| bind.id_mapped) {
        users.shift(&tree, &bind.target)?;
    }
    if bind.read_only {
        mount::set_attributes(&tree, RDONLY, bind.recursive_read_only).context("make mount read-only")?;
    }
    Ok((tree, Some(propagation)))
}

/// Files of `/proc` that may be covered by others, which tell of the container instead of the node.
const COVERED: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/sys/crypto/fips_enabled",
    "proc/sys/kernel/ns_last_pid",
];

/// Attaches what was prepared below the root, but not to the container's own `/proc`, wherever links of the image lead: who
/// stands in for its files decides what is masked there and what we and others believe of its processes.
pub(super) fn attach(prepared: &[Prepared], root: impl AsFd, kernel: &Kernel) -> anyhow::Result<()> {
    let file_system = rustix::fs::fstat(&kernel.proc)?.st_dev;
    for mount in prepared {
        let failed = || format!("attach mount at {}", mount.target.display());
        let point = resolve::point(root.as_fd(), &mount.tree, &mount.target).with_context(failed)?;
        let found = rustix::fs::fstat(&point).with_context(failed)?;
        if found.st_dev == file_system && !may_be_covered(root.as_fd(), &found) {
            return Err(BadDescription(format!("mount target {} is inside /proc", mount.target.display())).into());
        }
        mount::attach(&mount.tree, &point).with_context(failed)?;
        if let Some(kind) = mount.propagation {
            mount::set_propagation(&mount.tree, kind).with_context(failed)?;
        }
    }
    Ok(())
}

fn may_be_covered(root: impl AsFd, found: &rustix::fs::Stat) -> bool {
    let same = |path: &str| {
        let known = resolve::open_path(root.as_fd(), Path::new(path)).and_then(|file| Ok(rustix::fs::fstat(&file)?));
        known.is_ok_and(|known| (known.st_dev, known.st_ino) == (found.st_dev, found.st_ino))
    };
    COVERED.iter().any(|path| same(path))
}

/// What the kernel tells of itself, attached nowhere yet. A pod with users of its own gets it only while the node's is in
/// sight.
pub(super) struct Kernel {
    proc: OwnedFd,
    sys: OwnedFd,
}

/// Makes `/proc` and `/sys` of the name spaces that this process is in.
pub(super) fn make_proc_and_sys(writable_sys: bool) -> anyhow::Result<Kernel> {
    let proc = mount::new("proc", &[("source", Some("proc"))], NOSUID | NODEV | NOEXEC).context("make proc")?;
    let flags = NOSUID | NODEV | NOEXEC | if writable_sys { 0 } else { RDONLY };
    let sys = mount::new("sysfs", &[("source", Some("sysfs"))], flags).context("make sysfs")?;
    Ok(Kernel { proc, sys })
}

/// Attaches them. Both must be real directories of the image: a link there would redirect what we write.
pub(super) fn attach_proc_and_sys(kernel: &Kernel, root: impl AsFd) -> anyhow::Result<()> {
    resolve::attach_plain(root.as_fd(), &kernel.proc, "proc").context("attach /proc")?;
    resolve::attach_plain(root.as_fd(), &kernel.sys, "sys").context("attach /sys")
}

/// The container's own part of the control groups, ready to be attached.
pub(super) enum CgroupView {
    /// Version 2: one file system, made in the container's cgroup name space.
    Unified,
    /// Version 1: the container's directory of each hierarchy by the name of its mount.
    Hierarchies(Vec<(String, OwnedFd)>),
}

/// Takes copies of the container's directories while the node's paths are still there.
pub(super) fn prepare_cgroups(group: &cgroup::Group) -> anyhow::Result<CgroupView> {
    let roots = group.layout().hierarchies();
    if roots.is_empty() {
        return Ok(CgroupView::Unified);
    }
    let mut views = Vec::with_capacity(roots.len());
    for root in roots {
        let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = root.join(group.path());
        let tree = mount::copy_path(&dir, false).with_context(|| format!("open cgroup {}", dir.display()))?;
        mount::set_propagation(&tree, mount::PRIVATE).context("make cgroup private")?;
        views.push((name, tree));
    }
    Ok(CgroupView::Hierarchies(views))
}

/// Attaches the view at `/sys/fs/cgroup`.
pub(super) fn attach_cgroups(view: &CgroupView, root: impl AsFd, writable: bool) -> anyhow::Result<()> {
    let flags = NOSUID | NODEV | NOEXEC | if writable { 0 } else { RDONLY };
    let place = Path::new("/sys/fs/cgroup");
    let views = match view {
        CgroupView::Unified => {
            let tree = mount::new("cgroup2", &[("source", Some("cgroup"))], flags).context("make cgroup2")?;
            return resolve::attach(root, &tree, place).context("attach /sys/fs/cgroup");
        }
        CgroupView::Hierarchies(views) => views,
    };
    let options = [("source", Some("cgroup")), ("mode", Some("755"))];
    let top = mount::new("tmpfs", &options, NOSUID | NODEV | NOEXEC).context("make tmpfs")?;
    for (name, _) in views {
        mkdirat(&top, name.as_str(), Mode::from_raw_mode(0o755)).context("make cgroup directory")?;
    }
    resolve::attach(&root, &top, place).context("attach /sys/fs/cgroup")?;
    for (name, tree) in views {
        mount::set_attributes(tree, flags, false).context("set attributes of cgroup")?;
        resolve::attach(&root, tree, &place.join(name)).with_context(|| format!("attach cgroup {name}"))?;
        // Programs look for each controller by its own name where several share a mount.
        for alias in name.split(',').filter(|alias| *alias != name) {
            let _exists = rustix::fs::symlinkat(name.as_str(), &top, alias);
        }
    }
    mount::set_attributes(&top, RDONLY, false).context("make /sys/fs/cgroup read-only")
}
