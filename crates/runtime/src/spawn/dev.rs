//! `/dev` of a container: a memory file system with the nodes that every program expects, and what it was given besides.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::pty::OpenptFlags;

use super::resolve;
use crate::spec::{Device, DeviceNode};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID};

/// Group `tty`, which owns terminals.
const TTY_GROUP: &str = "5";

/// Where `/dev/shm` and message queues come from.
pub(super) enum SharedMemory {
    /// Those of the pod: a detached copy of its memory file system.
    Pod(OwnedFd),
    /// Those of the node.
    Host { shm: Option<OwnedFd>, mqueue: Option<OwnedFd> },
}

/// A node to be made.
pub(super) struct Node {
    path: PathBuf,
    kind: FileType,
    device: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Where the node has it.
    source: PathBuf,
    /// The node's own, for pods with users of their own, which may make none.
    tree: Option<OwnedFd>,
}

impl Node {
    /// With the mode and owners that are said of it.
    fn like(self, said: &DeviceNode) -> Self {
        let (uid, gid) = (said.uid.unwrap_or(self.uid), said.gid.unwrap_or(self.gid));
        Self { mode: said.mode.map_or(self.mode, |mode| mode & 0o7777), uid, gid, ..self }
    }
}

/// What every program expects, with its minor number among the memory devices.
const STANDARD: [(&str, u32); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];

/// Looks at the node's devices while its paths are still there, and takes them where none can be made later.
pub(super) fn prepare(devices: &[Device], all: bool, take: bool) -> anyhow::Result<Vec<Node>> {
    let mut nodes = look(devices, all)?;
    if take {
        for name in STANDARD.iter().map(|(name, _)| *name).chain(["tty"]) {
            if nodes.iter().all(|node| node.path != Path::new(name)) {
                let path = Path::new("/dev").join(name);
                let found = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
                nodes.extend(node(name.into(), path, &found));
            }
        }
        for node in &mut nodes {
            let tree = mount::copy_path(&node.source, false).with_context(|| format!("take device {}", node.source.display()))?;
            mount::set_propagation(&tree, mount::PRIVATE).context("make device private")?;
            node.tree = Some(tree);
        }
    }
    Ok(nodes)
}

fn look(devices: &[Device], all: bool) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    if all {
        collect(Path::new("/dev"), Path::new(""), &mut nodes, 0);
    }
    for device in devices.iter().filter(|device| !device.is_elsewhere()) {
        let path = device.container_path.strip_prefix("/dev").unwrap_or(&device.container_path);
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        if let Some((kind, major, minor)) = device.node.number {
            let kind = match kind {
                'b' => FileType::BlockDevice,
                'p' => FileType::Fifo,
                _ => FileType::CharacterDevice,
            };
            let (device_number, source) = (makedev(major, minor), device.host_path.clone());
            let described = Node { path, kind, device: device_number, mode: 0o666, uid: 0, gid: 0, source, tree: None };
            nodes.push(described.like(&device.node));
            continue;
        }
        let failed = || format!("look at device {}", device.host_path.display());
        let found = fs::metadata(&device.host_path).with_context(failed)?;
        if found.is_dir() {
            collect(&device.host_path, &path, &mut nodes, 0);
        } else {
            let node = node(path, device.host_path.clone(), &found);
            let node = node.ok_or_else(|| anyhow!("{} is not a device", device.host_path.display()))?;
            nodes.push(node.like(&device.node));
        }
    }
    Ok(nodes)
}

fn node(path: PathBuf, source: PathBuf, found: &fs::Metadata) -> Option<Node> {
    let kind = match found.file_type() {
        kind if kind.is_char_device() => FileType::CharacterDevice,
        kind if kind.is_block_device() => FileType::BlockDevice,
        _ => return None,
    };
    let mode = found.mode() & 0o7777;
    Some(Node { path, kind, device: found.rdev(), mode, uid: found.uid(), gid: found.gid(), source, tree: None })
}

/// All devices below a directory but terminals and what belongs to a mount of its own.
fn collect(dir: &Path, below: &Path, nodes: &mut Vec<Node>, depth: usize) {
    if depth > 8 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        if found.is_dir() {
            let own = matches!(path.to_str(), Some("pts" | "shm" | "mqueue" | "fd" | ".lxc" | ".lxd-mounts" | ".udev"));
            if !own {
                collect(&entry.path(), &path, nodes, depth + 1);
            }
        } else if !matches!(path.to_str(), Some("console" | "ptmx")) {
            nodes.extend(node(path, entry.path(), &found));
        }
    }
}

/// A terminal: our end, and the end of the container's program.
pub(super) struct Terminal {
    pub ours: OwnedFd,
    pub theirs: OwnedFd,
}

/// Makes `/dev` below the root; with a terminal it also becomes `/dev/console`.
pub(super) fn attach(
    root: impl AsFd,
    nodes: &[Node],
    shared: &SharedMemory,
    with_terminal: bool,
) -> anyhow::Result<(Option<Terminal>, OwnedFd)> {
    let options = [("source", Some("tmpfs")), ("mode", Some("755")), ("size", Some("65536k"))];
    let dev = mount::new("tmpfs", &options, NOSUID | NOEXEC).context("make /dev")?;
    resolve::attach_plain(&root, &dev, "dev").context("attach /dev")?;
    if nodes.iter().all(|node| node.tree.is_none()) {
        standard_nodes(&dev).context("fill /dev")?;
    }
    standard(&dev).context("fill /dev")?;
    for node in nodes {
        let made = match &node.tree {
            Some(tree) => resolve::attach(&dev, tree, &node.path),
            None => make(&dev, node),
        };
        made.with_context(|| format!("make device {}", node.path.display()))?;
    }
    let options =
        [("source", Some("devpts")), ("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some(TTY_GROUP))];
    let pts = mount::new("devpts", &options, NOSUID | NOEXEC).context("make devpts")?;
    mount::attach(&pts, open_dir(&dev, "pts")?).context("attach /dev/pts")?;
    match shared {
        SharedMemory::Pod(shm) => {
            mount::attach(shm, open_dir(&dev, "shm")?).context("attach /dev/shm")?;
            let flags = NOSUID | NODEV | NOEXEC;
            // A kernel without message queues has none to show.
            if let Ok(queues) = mount::new("mqueue", &[("source", Some("mqueue"))], flags) {
                mount::attach(&queues, open_dir(&dev, "mqueue")?).context("attach /dev/mqueue")?;
            }
        }
        SharedMemory::Host { shm, mqueue } => {
            for (tree, name) in [(shm, "shm"), (mqueue, "mqueue")] {
                if let Some(tree) = tree {
                    mount::attach(tree, open_dir(&dev, name)?).with_context(|| format!("attach /dev/{name}"))?;
                }
            }
        }
    }
    let terminal = if with_terminal { Some(open_terminal(&dev, &pts)?) } else { None };
    Ok((terminal, dev))
}

/// Copies of the node's shared memory and queues.
pub(super) fn host_shared_memory() -> SharedMemory {
    let copy = |path: &str| {
        let tree = mount::copy_path(Path::new(path), false).ok()?;
        mount::set_propagation(&tree, mount::PRIVATE).ok().map(|()| tree)
    };
    SharedMemory::Host { shm: copy("/dev/shm"), mqueue: copy("/dev/mqueue") }
}

fn standard_nodes(dev: &OwnedFd) -> std::io::Result<()> {
    for (name, minor) in STANDARD {
        make_node(dev, Path::new(name), FileType::CharacterDevice, 0o666, makedev(1, minor))?;
    }
    make_node(dev, Path::new("tty"), FileType::CharacterDevice, 0o666, makedev(5, 0))
}

fn standard(dev: &OwnedFd) -> std::io::Result<()> {
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        symlinkat(target, dev, name)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o755)] {
        mkdirat(dev, name, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// Makes one node with its mode, whatever the umask.
fn make_node(dev: &OwnedFd, path: &Path, kind: FileType, mode: u32, device: u64) -> std::io::Result<()> {
    match mknodat(dev, path, kind, Mode::from_raw_mode(mode), device) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::chmodat(dev, path, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())?)
}

fn make(dev: &OwnedFd, node: &Node) -> std::io::Result<()> {
    if let Some(parent) = node.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        resolve::ensure_dir(dev, parent, 0o755)?;
    }
    make_node(dev, &node.path, node.kind, node.mode, node.device)?;
    let (uid, gid) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    Ok(chownat(dev, &node.path, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open_dir(dev: &OwnedFd, name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dev, name, flags, Mode::empty())?)
}

/// Opens a new terminal of the container's own instance. The other end comes from the first by an ioctl, so no path
/// that the container could exchange is looked up.
fn open_terminal(dev: &OwnedFd, pts: &OwnedFd) -> anyhow::Result<Terminal> {
    let terminal = new_terminal(pts)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(dev, "console", flags, Mode::from_raw_mode(0o620)).context("make /dev/console")?);
    let place = openat(dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let tree = mount::copy_fd(&terminal.theirs, false).context("copy terminal")?;
    mount::attach(&tree, &place).context("attach /dev/console")?;
    Ok(terminal)
}

/// Opens a new terminal of an instance given by its root directory, after making sure that it is one: in a running
/// container anything may stand at its path.
pub(super) fn new_terminal(pts: &OwnedFd) -> anyhow::Result<Terminal> {
    const DEVPTS: i64 = 0x1cd1;
    if rustix::fs::fstatfs(pts).context("look at /dev/pts")?.f_type != DEVPTS {
        return Err(anyhow!("/dev/pts of the container is not a terminal file system"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = openat(pts, "ptmx", flags, Mode::empty()).context("open ptmx")?;
    rustix::pty::unlockpt(&ours).context("unlock terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).context("open terminal")?;
    Ok(Terminal { ours, theirs })
}
