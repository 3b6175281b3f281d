//! Paths inside a root, resolved by the kernel so that no symbolic link leads out of it.
//!
//! Guarantees: every function works from an open directory and never follows a magic link; what is returned is a
//! descriptor, so nothing that is exchanged afterwards changes what it means.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};

use crate::sys::mount;

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path as a process with this root would, for reference only.
pub(super) fn open_path(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open(root, path, OFlags::PATH)
}

/// Opens a path as a process with this root would.
pub(super) fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    retry(|| openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE))
}

/// Opens a path that must lie below `root` without absolute links or `..` leading out of it: those are errors.
pub(super) fn open_beneath(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let relative: PathBuf = path.components().filter(|c| !matches!(c, Component::RootDir)).collect();
    let relative = if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    retry(|| openat2(root.as_fd(), &relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath))
}

/// The kernel answers AGAIN when a rename raced with `..`; the question is simply asked again.
fn retry(mut ask: impl FnMut() -> rustix::io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    for _ in 0..64 {
        match ask() {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Most links on one path, as the kernel counts.
const MOST_LINKS: u32 = 40;

/// The directory at a path, made with all above it where missing. A link to nowhere makes what it names, inside.
pub(super) fn ensure_dir(root: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    ensure_dir_within(root.as_fd(), path, mode, MOST_LINKS)
}

fn ensure_dir_within(root: BorrowedFd<'_>, path: &Path, mode: u32, links: u32) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let mut so_far = PathBuf::from("/");
    let mut at = open(root, &so_far, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut components = path.components();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => OsStr::new(".."),
            _ => continue,
        };
        let above = so_far.clone();
        so_far.push(name);
        at = match open(root, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&at, name, Mode::from_raw_mode(mode)) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::EXIST) => {
                        if let Some(target) = link_target(&at, &above, name)? {
                            let rest = target.join(components.as_path());
                            return ensure_dir_within(root, &rest, mode, one_less(links)?);
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                open(root, &so_far, OFlags::PATH | OFlags::DIRECTORY)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

/// The file at a path, made empty with the directories above it where missing.
pub(super) fn ensure_file(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    ensure_file_within(root.as_fd(), path, MOST_LINKS)
}

fn ensure_file_within(root: BorrowedFd<'_>, path: &Path, links: u32) -> io::Result<OwnedFd> {
    match open_path(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = ensure_dir(root, parent, 0o755)?;
    if let Some(target) = link_target(&dir, parent, name)? {
        return ensure_file_within(root, &target, one_less(links)?);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    drop(openat(&dir, name, flags, Mode::from_raw_mode(0o644))?);
    open_path(root, path)
}

/// Where a link in `dir` points, as a path from the root; none when it is not a link.
fn link_target(dir: &OwnedFd, dir_path: &Path, name: &OsStr) -> io::Result<Option<PathBuf>> {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => Ok(Some(dir_path.join(OsStr::from_bytes(target.as_bytes())))),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn one_less(links: u32) -> io::Result<u32> {
    links.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(libc::ELOOP))
}

/// Attaches a detached tree at a path of the root; the mount point is made where missing, as a directory or as a file
/// like the tree's own top.
pub(super) fn attach(root: impl AsFd, tree: &OwnedFd, path: &Path) -> io::Result<()> {
    mount::attach(tree, &point(root, tree, path)?)
}

/// The mount point for a tree at a path of the root, made where missing.
pub(super) fn point(root: impl AsFd, tree: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
    if kind == FileType::Directory { ensure_dir(&root, path, 0o755) } else { ensure_file(&root, path) }
}

/// Attaches a detached tree at a directory of the root that must be a real one, not a link: `/proc`, `/sys`, `/dev`.
pub(super) fn attach_plain(root: impl AsFd, tree: &OwnedFd, name: &str) -> io::Result<()> {
    match mkdirat(&root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(&root, name, flags, Mode::empty())?;
    mount::attach(tree, &target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (std::path::PathBuf, OwnedFd) {
        let name = format!("knarr-resolve-{}-{:?}", std::process::id(), std::thread::current().id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let fd = rustix::fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        (dir, fd)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, fd) = root();
        symlink("/etc", dir.join("abs")).expect("link");
        symlink("../../../../../../etc", dir.join("rel")).expect("link");
        symlink("/proc/self/root", dir.join("magic")).expect("link");
        std::fs::create_dir(dir.join("etc")).expect("mkdir");
        std::fs::write(dir.join("etc/inner"), "").expect("write");
        for path in ["abs/inner", "rel/inner", "/abs/inner", "../../abs/inner"] {
            assert!(open_path(&fd, Path::new(path)).is_ok(), "{path}");
        }
        for path in ["abs/passwd", "rel/passwd", "magic/etc/passwd"] {
            assert!(open_path(&fd, Path::new(path)).is_err(), "{path}");
        }
        for path in ["abs", "rel", "../x", "magic"] {
            assert!(open_beneath(&fd, Path::new(path)).is_err(), "{path}");
        }
        assert!(open_beneath(&fd, Path::new("etc/inner")).is_ok());
        assert!(open_beneath(&fd, Path::new("")).is_ok());
        ensure_dir(&fd, Path::new("/abs/made/deep"), 0o755).expect("made inside");
        ensure_file(&fd, Path::new("/rel/made/file")).expect("made inside");
        assert!(dir.join("etc/made/deep").is_dir() && dir.join("etc/made/file").is_file());
        symlink("../../nowhere/./file", dir.join("etc/dangling")).expect("link");
        symlink("/nothing/here", dir.join("missing")).expect("link");
        symlink("loop", dir.join("loop")).expect("link");
        ensure_file(&fd, Path::new("/etc/dangling")).expect("made inside");
        ensure_dir(&fd, Path::new("/missing/deeper"), 0o755).expect("made inside");
        assert!(dir.join("nowhere/file").is_file() && dir.join("nothing/here/deeper").is_dir());
        assert!(ensure_dir(&fd, Path::new("/loop/x"), 0o755).is_err());
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
