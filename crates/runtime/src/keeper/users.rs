//! Makes the user name space of a pod, with the other name spaces that shall belong to it.
//!
//! A keeper stays a process of the node: it writes logs and opens layers. So a child makes the name spaces, the keeper
//! writes what is mapped and enters all but the one of users, and the child ends.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Keeper;
use crate::spawn::{Users, check_users};
use crate::spec::{IdMapping, NameSpace, NetNs, SandboxSpec, UserNs};
use crate::sys::clone::{self, NEW_IPC, NEW_NET, NEW_USER, NEW_UTS, Side};

/// Makes the name space of users and those of network, host name and IPC that the pod has for itself, and enters the
/// latter.
pub(super) fn make(map: &UserNs, spec: &SandboxSpec) -> anyhow::Result<Users> {
    check_users(map)?;
    let mut others = Vec::new();
    if spec.net == NetNs::New {
        others.push((NEW_NET, "net", LinkNameSpaceType::Network));
    }
    if spec.uts == NameSpace::Pod {
        others.push((NEW_UTS, "uts", LinkNameSpaceType::HostNameAndNISDomainName));
    }
    if spec.ipc == NameSpace::Pod {
        others.push((NEW_IPC, "ipc", LinkNameSpaceType::InterProcessCommunication));
    }
    let flags = others.iter().fold(NEW_USER, |flags, (flag, _, _)| flags | flag);
    let (wait, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make pipe")?;
    match clone::fork(flags, None).context("make user name space")? {
        Side::Child => {
            drop(hold);
            let _end = rustix::io::read(&wait, &mut [0; 1]);
            clone::exit_now(0)
        }
        Side::Parent(pid) => {
            let made = adopt(pid, map, &others);
            drop(hold);
            if let Some(pid) = Pid::from_raw(pid) {
                let _gone = rustix::process::kill_process(pid, Signal::KILL);
                let _reaped = waitpid(Some(pid), WaitOptions::empty());
            }
            made
        }
    }
}

fn adopt(pid: i32, map: &UserNs, others: &[(u64, &str, LinkNameSpaceType)]) -> anyhow::Result<Users> {
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(|| format!("open {name} name space"))
    };
    fs::write(format!("/proc/{pid}/uid_map"), lines(&map.uids)).context("map users")?;
    fs::write(format!("/proc/{pid}/gid_map"), lines(&map.gids)).context("map groups")?;
    let fd = open("user")?;
    for (_, name, kind) in others {
        move_into_link_name_space(open(name)?.as_fd(), Some(*kind)).with_context(|| format!("enter {name} name space"))?;
    }
    Ok(Users { fd, map: map.clone() })
}

/// Does something as user 0 of the pod.
pub(super) fn within(users: &Users, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make pipe")?;
    match clone::fork(0, None).context("fork")? {
        Side::Child => {
            drop(read);
            if let Err(error) = users.enter().and_then(|()| act()) {
                let _nobody = rustix::io::write(&write, format!("{error:#}").as_bytes());
            }
            clone::exit_now(0)
        }
        Side::Parent(pid) => {
            drop(write);
            let mut said = String::new();
            let heard = fs::File::from(read).read_to_string(&mut said);
            let _reaped = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            heard.context("listen to the pod's user 0")?;
            if said.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(said)) }
        }
    }
}

fn lines(map: &[IdMapping]) -> String {
    map.iter().map(|range| format!("{} {} {}\n", range.container_id, range.host_id, range.size)).collect()
}

impl Keeper {
    /// Process 1 of a shared name space of processes that belongs to the pod's users.
    pub(super) fn pod_init_of(users: &Users) -> anyhow::Result<i32> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make pipe")?;
        match clone::fork(0, None).context("fork")? {
            Side::Child => {
                let made = users.enter().and_then(|()| {
                    clone::unshare(rustix::thread::UnshareFlags::NEWPID).context("make PID name space")?;
                    clone::fork_sibling().context("fork process 1 of the pod")
                });
                match made {
                    Ok(Side::Child) => super::pause(),
                    Ok(Side::Parent(pid)) => {
                        let told = rustix::io::write(&write, &pid.to_ne_bytes()).is_ok();
                        clone::exit_now(i32::from(!told))
                    }
                    Err(error) => {
                        eprintln!("keeper: {error:#}");
                        clone::exit_now(1)
                    }
                }
            }
            Side::Parent(helper) => {
                drop(write);
                let pid = read_pid(&read);
                let _reaped = waitpid(Pid::from_raw(helper), WaitOptions::empty());
                pid.context("process 1 of the pod could not be made")
            }
        }
    }
}

fn read_pid(from: &OwnedFd) -> Option<i32> {
    let mut bytes = [0; 4];
    match rustix::io::retry_on_intr(|| rustix::io::read(from, &mut bytes)) {
        Ok(4) => Some(i32::from_ne_bytes(bytes)),
        _ => None,
    }
}
