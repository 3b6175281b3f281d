//! Files below one directory, reached by descriptors only.
//!
//! Every path is resolved by `openat2` with `RESOLVE_IN_ROOT`: absolute links and `..` inside links end at the root of
//! the layer, magic links are refused. The last component is always handled without following it, so that a link which
//! an earlier entry planted is replaced, never written through.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::tar::Kind;

const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory tree under construction.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory used last; entries come sorted, so this saves most lookups.
    last: Option<(PathBuf, OwnedFd)>,
    /// Directories made for the sake of their contents, without an entry so far.
    implicit: HashSet<PathBuf>,
}

/// Owner, mode and attributes of an entry.
pub(super) struct Attributes<'a> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: Vec<(&'a str, &'a [u8])>,
}

/// What is at a name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    Directory,
    Whiteout,
    Other,
}

/// Why there is no hard link.
pub(super) enum LinkError {
    Refused(&'static str),
    System(io::Error),
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        let root = rustix::fs::openat(CWD, root, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Tree { root, last: None, implicit: HashSet::new() })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// An existing directory, links on the way resolved inside the root.
    pub(super) fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN means that a rename went on elsewhere; the kernel asks for another try.
        loop {
            match rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Opens a directory, making what is missing of it.
    pub(super) fn make_directories(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return directory.try_clone();
        }
        let directory = match self.open_directory(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => self.make_missing(path)?,
            result => result?,
        };
        self.last = Some((path.to_path_buf(), directory.try_clone()?));
        Ok(directory)
    }

    fn make_missing(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let mut made = PathBuf::new();
        let mut directory = self.root.try_clone()?;
        for component in path {
            made.push(component);
            match self.open_directory(&made) {
                Ok(next) => directory = next,
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                    // A dangling link is an error here: the name exists and cannot be made.
                    rustix::fs::mkdirat(&directory, component, Mode::from_raw_mode(0o700))?;
                    let next = self.child_directory(&directory, component.as_bytes())?;
                    rustix::fs::fchmod(&next, Mode::from_raw_mode(0o755))?;
                    self.implicit.insert(made.clone());
                    directory = next;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(directory)
    }

    /// The archive has an entry for this directory after all.
    pub(super) fn declare(&mut self, path: &Path) {
        self.implicit.remove(path);
    }

    /// Directories that never got an entry, parents first.
    pub(super) fn take_implicit(&mut self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.implicit.drain().collect();
        paths.sort();
        paths
    }

    pub(super) fn existing(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<Option<Existing>> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            result => result?,
        };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Existing::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Existing::Whiteout,
            _ => Existing::Other,
        }))
    }

    /// Removes whatever is at the name, never what a link there points to.
    pub(super) fn remove(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        self.last = None;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                // The standard library descends by descriptors and does not follow links.
                let path = descriptor_path(parent).join(OsStr::from_bytes(name));
                std::fs::remove_dir_all(path)
            }
            result => Ok(result?),
        }
    }

    pub(super) fn make_directory(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?)
    }

    pub(super) fn child_directory(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
    }

    pub(super) fn make_file(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?)
    }

    pub(super) fn make_whiteout(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    /// Links to a file of the same layer. Links on the way to it are resolved inside the root, the last one is not.
    pub(super) fn make_hard_link(&self, target: &Path, parent: &OwnedFd, name: &[u8]) -> Result<(), LinkError> {
        let system = |error: Errno| LinkError::System(error.into());
        let Some(target_name) = target.file_name().map(OsStrExt::as_bytes) else {
            return Err(LinkError::Refused("is a hard link to the root"));
        };
        const MISSING: LinkError = LinkError::Refused("is a hard link to a file that its layer does not have");
        let parent_path = target.parent().unwrap_or(Path::new(""));
        let directory = self.open_directory(parent_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MISSING,
            _ => LinkError::System(error),
        })?;
        match self.existing(&directory, target_name).map_err(LinkError::System)? {
            Some(Existing::Other) => {}
            Some(Existing::Directory) => {
                return Err(LinkError::Refused("is a hard link to a directory"));
            }
            Some(Existing::Whiteout) | None => return Err(MISSING),
        }
        rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty()).map_err(system)
    }

    pub(super) fn make_symlink(
        &self,
        target: &OsStr,
        parent: &OwnedFd,
        name: &[u8],
        attributes: &Attributes<'_>,
        mtime: (i64, u32),
    ) -> io::Result<()> {
        rustix::fs::symlinkat(target, parent, name)?;
        set_owner_and_times(parent, name, attributes, mtime)
    }

    pub(super) fn make_node(
        &self,
        kind: Kind,
        device: (u32, u32),
        parent: &OwnedFd,
        name: &[u8],
        attributes: &Attributes<'_>,
        mtime: (i64, u32),
    ) -> io::Result<()> {
        let file_type = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = if file_type == FileType::Fifo { 0 } else { rustix::fs::makedev(device.0, device.1) };
        rustix::fs::mknodat(parent, name, file_type, Mode::empty(), number)?;
        set_owner_and_times(parent, name, attributes, mtime)?;
        // The node is new and no link, so following it is no question.
        Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?)
    }
}

/// Owner first: a change of owner drops the set-user-id bit and capabilities.
pub(super) fn set_attributes(file: &impl AsFd, attributes: &Attributes<'_>) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in &attributes.xattrs {
        match rustix::fs::fsetxattr(file, *name, value, XattrFlags::empty()) {
            // A file system without user attributes or ACLs loses only these; capabilities must not be lost.
            Err(Errno::OPNOTSUPP) if *name != "security.capability" => {}
            result => result?,
        }
    }
    Ok(())
}

pub(super) fn set_times(file: &impl AsFd, mtime: (i64, u32)) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(mtime))?)
}

pub(super) fn set_opaque(directory: &impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?)
}

/// Owner, mode and times of one directory for another.
pub(super) fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    set_times(to, (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
}

fn set_owner_and_times(parent: &OwnedFd, name: &[u8], attributes: &Attributes<'_>, mtime: (i64, u32)) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(parent, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn timestamps(mtime: (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() },
    }
}

/// The name under which the kernel shows an open directory.
fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
