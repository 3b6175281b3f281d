//! What a keeper makes for its pod before anything else: name spaces, kernel parameters, shared memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::state::Files;
use crate::spawn::Users;
use crate::spec::{NameSpace, NetNs, SandboxSpec};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID};

/// The shared memory of a pod.
pub(crate) enum PodMemory {
    /// The node's.
    Host,
    /// A file system that is attached nowhere and lives as long as the keeper.
    Detached(OwnedFd),
    /// The same where the kernel cannot copy a detached one (before 6.15): attached in the pod's folder.
    Mounted(PathBuf),
}

/// What a process has when it becomes a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// The name spaces of the main process.
    Bare,
    /// Those that [`make_ordinary`] makes.
    Ordinary,
}

/// Whether a sandbox wants what [`make_ordinary`] makes.
pub(super) fn is_ordinary(spec: &SandboxSpec) -> bool {
    spec.net == NetNs::New && spec.uts == NameSpace::Pod && spec.ipc == NameSpace::Pod && spec.user_ns.is_none()
}

/// Makes the name spaces of an ordinary pod, with loopback up.
pub(super) fn make_ordinary() -> anyhow::Result<()> {
    let all = UnshareFlags::NEWNET | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    crate::sys::clone::unshare(all).context("make name spaces")?;
    crate::sys::process::loopback_up().context("bring loopback up")
}

/// Makes all of it.
pub(super) fn set_up(spec: &SandboxSpec, files: &Files, ground: Ground) -> anyhow::Result<(PodMemory, Option<Users>)> {
    let mut users = None;
    if let Some(map) = &spec.user_ns {
        if spec.net != NetNs::New || spec.ipc == NameSpace::Host {
            return Err(anyhow!("a pod with users of its own needs a network and IPC of its own"));
        }
        users = Some(super::users::make(map, spec)?);
        crate::sys::process::loopback_up().context("bring loopback up")?;
    } else if !is_ordinary(spec) {
        make_special(spec)?;
    } else if ground == Ground::Bare {
        make_ordinary()?;
    }
    if spec.uts == NameSpace::Pod && !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).context("set host name")?;
    }
    let set_all = || with_defaults(spec).iter().try_for_each(|(name, value)| set_sysctl(spec, name, value));
    match &users {
        // Some may be set by user 0 of the pod only, and numbers of groups are the pod's.
        Some(users) => super::users::within(users, set_all)?,
        None => set_all()?,
    }
    let memory = match spec.ipc {
        NameSpace::Host => PodMemory::Host,
        NameSpace::Pod => shared_memory(spec.shm_size, files, users.as_ref())?,
    };
    Ok((memory, users))
}

/// Makes or enters name spaces one by one.
fn make_special(spec: &SandboxSpec) -> anyhow::Result<()> {
    match &spec.net {
        NetNs::New => {
            crate::sys::clone::unshare(UnshareFlags::NEWNET).context("make network name space")?;
            crate::sys::process::loopback_up().context("bring loopback up")?;
        }
        NetNs::Host => {}
        NetNs::Path(path) => {
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| format!("open network name space {}", path.display()))?;
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)).context("enter network name space")?;
        }
    }
    if spec.uts == NameSpace::Pod {
        crate::sys::clone::unshare(UnshareFlags::NEWUTS).context("make UTS name space")?;
    }
    if spec.ipc == NameSpace::Pod {
        crate::sys::clone::unshare(UnshareFlags::NEWIPC).context("make IPC name space")?;
    }
    Ok(())
}

/// A pod with a network of its own may use low ports and ping without privileges, as with other runtimes.
fn with_defaults(spec: &SandboxSpec) -> BTreeMap<String, String> {
    let mut sysctls = spec.sysctls.clone();
    if spec.net == NetNs::New {
        sysctls.entry("net.ipv4.ip_unprivileged_port_start".into()).or_insert_with(|| "0".into());
        let groups = spec.user_ns.as_ref().and_then(|map| map.gids.iter().find(|range| range.container_id == 0));
        let last = groups.map_or(i32::MAX as u32, |range| range.size - 1);
        sysctls.entry("net.ipv4.ping_group_range".into()).or_insert_with(|| format!("0 {last}"));
    }
    sysctls
}

/// Sets one kernel parameter, if it belongs to a name space that the pod does not share with the node.
fn set_sysctl(spec: &SandboxSpec, name: &str, value: &str) -> anyhow::Result<()> {
    let path = name.replace('.', "/");
    let plain = path.split('/').all(|part| !part.is_empty() && part != ".." && !part.contains('\0'));
    let ipc = ["kernel/shm", "kernel/msg", "fs/mqueue/"].iter().any(|prefix| path.starts_with(prefix)) || path == "kernel/sem";
    let own = match path.as_str() {
        _ if ipc => spec.ipc == NameSpace::Pod,
        "kernel/domainname" => spec.uts == NameSpace::Pod,
        path => path.starts_with("net/") && spec.net != NetNs::Host,
    };
    if !plain || !own {
        return Err(anyhow!("sysctl {name:?} is not in a separate kernel namespace"));
    }
    fs::write(format!("/proc/sys/{path}"), value).with_context(|| format!("set sysctl {name} to {value:?}"))
}

fn shared_memory(size: u64, files: &Files, users: Option<&Users>) -> anyhow::Result<PodMemory> {
    let size = size.to_string();
    let owner = users.and_then(|users| Some((users.uid(0)?.as_raw().to_string(), users.gid(0)?.as_raw().to_string())));
    let mut options = vec![("source", Some("shm")), ("mode", Some("1777")), ("size", Some(size.as_str()))];
    if let Some((uid, gid)) = &owner {
        options.extend([("uid", Some(uid.as_str())), ("gid", Some(gid.as_str()))]);
    }
    let memory = mount::new("tmpfs", &options, NOSUID | NODEV | NOEXEC).context("make shared memory")?;
    // To try it would be to wait for all readers of the kernel's mounts, when the copy is let go of.
    if crate::kernel::is_at_least((6, 15)) {
        return Ok(PodMemory::Detached(memory));
    }
    let path = files.shm();
    fs::create_dir(&path).context("make folder of shared memory")?;
    let target = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(&memory, &target).context("attach shared memory")?;
    Ok(PodMemory::Mounted(path))
}
