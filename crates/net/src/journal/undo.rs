//! Undoing one change of the host journal. What is gone already counts as undone.

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::Change;
use crate::netlink::{NetlinkError, Socket, Subsystem, link, route};

/// How long processes may take to die before their cgroup can be removed.
const DEATH: Duration = Duration::from_secs(5);

/// Undoes a change.
pub(super) fn undo(change: &Change) -> Result<()> {
    match change {
        Change::Link { name } => delete_links(|link| link == name),
        Change::LinkPrefix { prefix } => delete_links(|link| link.starts_with(prefix)),
        Change::NftTable { family, name } => crate::nft::delete_table(family, name).map_err(Error::other),
        Change::Sysctl { path, old, new } => crate::sysctl::restore(path, old, new),
        Change::Address { link, address } => with_link(link, |socket, index| {
            socket.request(route::delete_address(index, ipnet::IpNet::from(*address)))?;
            Ok(())
        }),
        Change::Route { link, destination } => {
            let destination = destination.parse().map_err(Error::other)?;
            with_link(link, |socket, index| {
                socket.request(route::delete_route(destination, index))?;
                Ok(())
            })
        }
        Change::Mount { target } => detach(target),
        Change::MountsBelow { dir } => mounts_below(dir)?.iter().rev().try_for_each(|target| detach(target)),
        Change::CgroupTree { path } => remove_cgroups(path),
        Change::File { path } => gone_is_fine(std::fs::remove_file(path)),
        Change::Dir { path } => match std::fs::remove_dir(path) {
            // Somebody else uses it now.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            result => gone_is_fine(result),
        },
        Change::DirTree { path } => remove_tree(path),
    }
}

fn delete_links(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let delete = || -> std::result::Result<(), NetlinkError> {
        let mut socket = Socket::open(Subsystem::Route)?;
        let links = link::links(&mut socket)?;
        // Deleting one end of a veth pair deletes the other, so that "gone" is fine here.
        let messages = links.iter().filter(|link| wanted(&link.name)).map(|link| link::delete_link(&link.name));
        socket.exchange(messages.collect())?;
        Ok(())
    };
    delete().map_err(Error::other)
}

fn with_link(name: &str, f: impl FnOnce(&mut Socket, u32) -> std::result::Result<(), NetlinkError>) -> Result<()> {
    let attempt = || -> std::result::Result<(), NetlinkError> {
        let mut socket = Socket::open(Subsystem::Route)?;
        match link::link(&mut socket, name)? {
            Some(link) => f(&mut socket, link.index),
            None => Ok(()),
        }
    };
    attempt().map_err(Error::other)
}

fn detach(target: &Path) -> Result<()> {
    match unmount(target, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Mounts at or below a directory, in the order in which they were mounted.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path)));
    Ok(targets.filter(|target| target.starts_with(dir)).collect())
}

/// The kernel writes blanks in mount paths as octal numbers.
fn unescape(path: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

fn remove_tree(path: &Path) -> Result<()> {
    if let Some(mount) = mounts_below(path)?.first() {
        return Err(Error::other(format!("{} is still mounted", mount.display())));
    }
    gone_is_fine(std::fs::remove_dir_all(path))
}

fn remove_cgroups(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return gone_is_fine(Err(error)),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    let deadline = Instant::now() + DEATH;
    loop {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                kill_members(path)?;
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return gone_is_fine(result),
        }
    }
}

fn kill_members(cgroup: &Path) -> Result<()> {
    let members = std::fs::read_to_string(cgroup.join("cgroup.procs"))?;
    for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
