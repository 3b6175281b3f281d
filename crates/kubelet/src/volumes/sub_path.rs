//! Makes the directory of a subPath where it is missing, without ever leaving the volume.
//!
//! The volume is written by pods: every step is resolved by the kernel inside the volume's root, so that a link that is
//! exchanged meanwhile leads nowhere else.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Makes every missing directory of `path` below `root`. What is there, a file for instance, stays.
///
/// # Errors
/// What the kernel said, or a path that is not inside.
pub fn ensure(root: &Path, path: &Path) -> io::Result<()> {
    let base = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if open_inside(&base, path, OFlags::PATH).is_ok() {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&base)?.st_mode & 0o7777);
    let mut done = std::path::PathBuf::new();
    let mut directory = rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in path.components() {
        let Component::Normal(name) = part else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must be relative and without .."));
        };
        done.push(name);
        directory = match open_inside(&base, &done, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&directory, name, mode)?;
                let next = open_inside(&base, &done, OFlags::RDONLY | OFlags::DIRECTORY)?;
                // The process's mask does not count here.
                rustix::fs::fchmod(&next, mode)?;
                next
            }
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

fn open_inside(base: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}
