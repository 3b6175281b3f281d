//! Makes the directory of a subPath where it is missing, without ever leaving the volume.
//!
//! The volume is written by pods: every step is resolved by the kernel inside the volume's root, so that a link that is
//! exchanged meanwhile leads nowhere else.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::UnmountFlags;

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

/// Shows a path of a volume at a place of the node that no pod can write to, for a runtime that only takes paths. What
/// stood there before goes.
///
/// # Errors
/// What the kernel said.
pub fn bind(root: &Path, path: &Path, place: &Path) -> io::Result<()> {
    let base = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let inside = open_inside(&base, path, OFlags::PATH)?;
    unbind(place)?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&inside)?.st_mode) == rustix::fs::FileType::Directory {
        std::fs::create_dir_all(place)?;
    } else {
        place.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(place, b"")?;
    }
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", inside.as_raw_fd()), place)?;
    Ok(())
}

/// Takes back what was bound below a directory. Only what is empty is removed, so that no volume is ever emptied by it.
///
/// # Errors
/// What the kernel said; something may still be bound then.
pub fn unbind_all(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        unbind(&entry?.path())?;
    }
    std::fs::remove_dir(directory)
}

fn unbind(place: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(place, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::symlink_metadata(place)?.is_dir() {
        true => std::fs::remove_dir(place),
        false => std::fs::remove_file(place),
    }
}

fn open_inside(base: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_made_inside_only() {
        let top = tempfile::tempdir().unwrap();
        let (volume, outside) = (top.path().join("volume"), top.path().join("outside"));
        std::fs::create_dir_all(volume.join("there")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink("there", volume.join("near")).unwrap();
        symlink("/proc/self/cwd", volume.join("magic")).unwrap();
        for path in ["made/deep", "there/new", "near/new2", "there"] {
            ensure(&volume, Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(volume.join(path).is_dir(), "{path}");
        }
        for path in ["absolute/made", "relative/made", "magic/made", "../outside/made"] {
            assert!(ensure(&volume, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        for path in ["absolute", "relative", "magic"] {
            assert!(bind(&volume, Path::new(path), &top.path().join("place")).is_err(), "{path}");
        }
    }
}
