//! Mounting by descriptor: detached trees that are attached to open directories, never to path strings.
#![allow(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

/// Mount attribute: read-only.
pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Mount attribute: no set-user-id programs.
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Mount attribute: no device nodes.
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Mount attribute: no programs.
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// A new file system that is attached nowhere yet. Options without a value are flags.
pub(crate) fn new(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mounts at a path of ours.
pub(crate) fn copy_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, tree_flags(recursive))?)
}

/// A detached copy of the mounts at an open file.
pub(crate) fn copy_fd(fd: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(fd, c"", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches a detached tree to an open file or directory.
pub(crate) fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, c"", target, c"", flags)?)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets attributes of the mount at an open file, and of all below it.
pub(crate) fn set_attributes(tree: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    change(tree, MountAttr { set: attributes, clear: 0, propagation: 0, userns: 0 }, recursive)
}

/// Shows the files of a detached tree with the owners that a user name space maps theirs to; mounts below keep theirs.
pub(crate) fn shift_owners(tree: impl AsFd, users: impl AsFd) -> io::Result<()> {
    let users = users.as_fd().as_raw_fd() as u64;
    change(tree, MountAttr { set: libc::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns: users }, false)
}

/// Sets how the mounts at an open file and below it exchange later mounts (`MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`).
pub(crate) fn set_propagation(tree: impl AsFd, kind: u64) -> io::Result<()> {
    change(tree, MountAttr { set: 0, clear: 0, propagation: kind, userns: 0 }, true)
}

fn change(tree: impl AsFd, attr: MountAttr, recursive: bool) -> io::Result<()> {
    let empty: &CStr = c"";
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` is a valid mount_attr of the given size, the descriptor is open.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_fd().as_raw_fd(), empty.as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Propagation: none.
pub(crate) const PRIVATE: u64 = libc::MS_PRIVATE;
/// Propagation: from the original only.
pub(crate) const SLAVE: u64 = libc::MS_SLAVE;
/// Propagation: both ways.
pub(crate) const SHARED: u64 = libc::MS_SHARED;
