//! Finds where a subPath leads, and makes its directory where it is missing, without ever leaving the volume.
//!
//! The volume is written by pods. Links are followed as the node sees them, and one that leads out of the volume is refused,
//! though it might mean something inside of it. What was found is opened without links then, so that a link that is put there
//! meanwhile leads nowhere.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::UnmountFlags;

/// Makes every missing directory of `path` below `root`. What is there, a file for instance, stays. Says where the path leads:
/// the same below `root`, without links.
///
/// # Errors
/// What the kernel said, or a path that is not inside.
pub fn ensure(root: &Path, path: &Path) -> io::Result<PathBuf> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must be relative and without .."));
    }
    let (top, (there, missing)) = (root.canonicalize()?, existing(root, path)?);
    let inside = there.strip_prefix(&top).map_err(|_outside| io::Error::other("it leads out of the volume"))?;
    let mut found = inside.to_owned();
    let base = open_top(&top)?;
    if missing.as_os_str().is_empty() {
        return Ok(found);
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&base)?.st_mode & 0o7777);
    for name in &missing {
        let directory = match found.as_os_str().is_empty() {
            true => rustix::fs::open(&top, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
            false => open_inside(&base, &found, OFlags::RDONLY | OFlags::DIRECTORY)?,
        };
        found.push(name);
        match rustix::fs::mkdirat(&directory, name, mode) {
            // Another container of the pod may just have made it; a link that leads nowhere is not opened.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let next = open_inside(&base, &found, OFlags::RDONLY | OFlags::DIRECTORY)?;
        // The process's mask does not count here.
        rustix::fs::fchmod(&next, mode)?;
    }
    Ok(found)
}

/// The longest part of a path that is there, as the node sees it, and the rest.
fn existing(root: &Path, path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let mut part = path;
    loop {
        let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
        match (root.join(part).canonicalize(), part.parent()) {
            (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => part = parent,
            (found, _) => return Ok((found?, rest.to_owned())),
        }
    }
}

/// Shows a path of a volume, as [`ensure`] has found it, at a place of the node that no pod can write to, for a runtime that
/// only takes paths. What stood there before goes.
///
/// # Errors
/// What the kernel said.
pub fn bind(root: &Path, path: &Path, place: &Path) -> io::Result<()> {
    let base = open_top(root)?;
    let inside = if path.as_os_str().is_empty() { base } else { open_inside(&base, path, OFlags::PATH)? };
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

fn open_top(root: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_inside(base: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
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
        symlink(volume.join("there"), volume.join("whole")).unwrap();
        symlink("/proc/self/cwd", volume.join("magic")).unwrap();
        symlink("..", volume.join("back")).unwrap();
        symlink("/there", volume.join("seen-from-inside")).unwrap();
        symlink("/nothing", volume.join("dangling")).unwrap();
        std::fs::write(volume.join("file"), "").unwrap();
        let inside = [
            ("made/deep", "made/deep"),
            ("there/new", "there/new"),
            ("near/new2", "there/new2"),
            ("there", "there"),
            ("near", "there"),
            ("whole/new3", "there/new3"),
            ("file", "file"),
        ];
        for (path, leads) in inside {
            let found = ensure(&volume, Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(found, Path::new(leads), "{path}");
            assert!(volume.join(path).exists(), "{path}");
        }
        let out = ["absolute", "relative", "magic", "back", "seen-from-inside", "dangling"];
        for path in out.iter().flat_map(|name| [(*name).to_owned(), format!("{name}/made")]).chain(["../outside/made".into()]) {
            assert!(ensure(&volume, Path::new(&path)).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        for path in out.iter().chain(&["near", "whole"]) {
            assert!(bind(&volume, Path::new(path), &top.path().join("place")).is_err(), "{path}");
        }
    }
}
