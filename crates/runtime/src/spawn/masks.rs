//! Hides and protects paths of a container that tell or give too much about the node.
//!
//! Each path is opened inside the root; what is mounted over it comes from descriptors that we made ourselves, so nothing
//! in the image can stand in for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, anyhow};
use rustix::fs::{FileType, Mode, OFlags, openat};

use super::resolve;
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};

/// Covers files with the null device of our own `/dev` and directories with an empty read-only one.
pub(super) fn mask(root: impl AsFd, dev: &OwnedFd, paths: &[String]) -> anyhow::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = openat(dev, "null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&null)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || found.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(anyhow!("/dev/null of the container is not the null device"));
    }
    for path in paths {
        let Some((target, kind)) = open(root.as_fd(), path)? else { continue };
        let tree = if kind == FileType::Directory {
            let options = [("source", Some("tmpfs")), ("size", Some("0")), ("mode", Some("755"))];
            mount::new("tmpfs", &options, RDONLY | NOSUID | NODEV | NOEXEC).context("make empty directory")?
        } else {
            mount::copy_fd(&null, false).context("copy null device")?
        };
        mount::attach(&tree, &target).with_context(|| format!("mask {path}"))?;
    }
    Ok(())
}

/// Makes paths read-only, with all that is mounted below them.
pub(super) fn protect(root: impl AsFd, paths: &[String]) -> anyhow::Result<()> {
    for path in paths {
        let Some((target, _)) = open(root.as_fd(), path)? else { continue };
        let failed = || format!("make {path} read-only");
        let tree = mount::copy_fd(&target, true).with_context(failed)?;
        mount::set_attributes(&tree, RDONLY | NOSUID | NODEV | NOEXEC, true).with_context(failed)?;
        mount::attach(&tree, &target).with_context(failed)?;
    }
    Ok(())
}

/// A path that need not exist.
fn open(root: impl AsFd, path: &str) -> anyhow::Result<Option<(OwnedFd, FileType)>> {
    match resolve::open_path(root, Path::new(path)) {
        Ok(fd) => {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
            Ok(Some((fd, kind)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENOTDIR) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {path}")),
    }
}
