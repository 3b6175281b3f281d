//! A layer becomes a directory: decompress, check the digest, write every entry inside a root that cannot be left.
//!
//! Guarantees: nothing outside the root is read or written, whatever names, links and orders of entries the archive has
//! (all access is relative to a descriptor of the root, links are resolved inside it); the limits hold before the bytes
//! are written; the digest covers every byte of the uncompressed stream. On an error the directory is incomplete and
//! the caller removes it.
//!
//! Whiteouts become what overlayfs understands: `.wh.NAME` a character device 0/0, `.wh..wh..opq` the attribute
//! `trusted.overlay.opaque`. The root of a layer cannot carry that attribute (overlayfs ignores it there), so it is
//! reported instead, and so are directories that the archive uses without an entry of their own.

mod decompress;
mod digest;
mod tar;
mod tar_fields;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) use decompress::decompress;
pub(crate) use digest::{Hasher, HashingReader};
pub(crate) use tar::{Entry, Kind, Skip, TarError, TarReader};

use crate::store::Limits;
use tree::{Attributes, Existing, Tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is damaged or cannot be read.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The archive asks for something that no layer may do.
    #[error("layer entry {path:?} {reason}")]
    Refused { path: String, reason: &'static str },
    /// A limit is exceeded.
    #[error("layer exceeds the limit of {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    /// The digest differs from what the image config says.
    #[error("wrong diff id calculated on extraction: expected {expected}, got {got}")]
    DiffId { expected: String, got: String },
    /// The file system refused.
    #[error("cannot write layer entry {path:?}: {error}")]
    Write { path: String, error: io::Error },
}

/// What an unpacked layer holds.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// `sha256:` of the uncompressed archive.
    pub diff_id: String,
    pub bytes: u64,
    pub inodes: u64,
    /// The layer hides everything below it.
    pub opaque_root: bool,
    /// Directories without an entry: their attributes must come from the layers below.
    pub implicit: Vec<PathBuf>,
}

/// Unpacks a plain or compressed layer into the existing, empty directory `root`.
pub(crate) fn unpack(archive: impl Read, root: &Path, limits: &Limits, expected: Option<&str>) -> Result<Unpacked, UnpackError> {
    let plain = decompress(archive).map_err(TarError::Read)?;
    let tree = Tree::open(root).map_err(|error| write_error(b"", error))?;
    let mut unpacker = Unpacker { tree, limits, report: Unpacked::default(), directory_times: Vec::new(), entries: 0 };
    let mut tar = TarReader::new(HashingReader::new(plain));
    while let Some(entry) = tar.next_entry()? {
        unpacker.add(&entry, &mut tar)?;
    }
    unpacker.set_directory_times();
    let mut rest = tar.into_inner();
    // What follows the end mark belongs to the digest; its length is bounded like the layer itself.
    let limit = limits.layer_bytes;
    let followed = io::copy(&mut rest.by_ref().take(limit), &mut io::sink()).map_err(TarError::Read)?;
    if followed == limit {
        return Err(UnpackError::Limit { what: "bytes", limit });
    }
    let mut report = unpacker.report;
    report.implicit = unpacker.tree.take_implicit();
    report.diff_id = rest.finish();
    match expected {
        Some(expected) if expected != report.diff_id => Err(UnpackError::DiffId { expected: expected.to_string(), got: report.diff_id }),
        _ => Ok(report),
    }
}

/// Gives `directory` of the layer at `layer` the attributes of the same directory in the topmost of `lower` that has
/// it. A file or a whiteout on the way ends the search, as it does in the mounted image.
pub(crate) fn adopt_attributes(layer: &Path, directory: &Path, lower: &[PathBuf]) -> io::Result<()> {
    let target = Tree::open(layer)?.open_directory(directory)?;
    for below in lower {
        match Tree::open(below)?.open_directory(directory) {
            Ok(source) => return tree::copy_attributes(&source, &target),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {}
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

struct Unpacker<'a> {
    tree: Tree,
    limits: &'a Limits,
    report: Unpacked,
    /// Times of directories are set last, since every new entry changes them.
    directory_times: Vec<(PathBuf, (i64, u32))>,
    entries: u64,
}

impl Unpacker<'_> {
    fn add(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.layer_entries {
            return Err(UnpackError::Limit { what: "entries", limit: self.limits.layer_entries });
        }
        let path = self.clean(&entry.path)?;
        let Some(name) = path.file_name().map(OsStrExt::as_bytes) else {
            return self.add_root(entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let failed = |error| write_error(&entry.path, error);
        let parent = self.tree.make_directories(parent_path).map_err(failed)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.add_whiteout(entry, parent_path, &parent, name, hidden);
        }
        let existing = self.tree.existing(&parent, name).map_err(failed)?;
        let keeps_directory = existing == Some(Existing::Directory) && entry.kind == Kind::Directory;
        if existing.is_some() && !keeps_directory {
            self.tree.remove(&parent, name).map_err(failed)?;
        }
        let attributes = attributes(entry)?;
        match entry.kind {
            Kind::Directory => {
                if !keeps_directory {
                    self.tree.make_directory(&parent, name).map_err(failed)?;
                    self.report.inodes += 1;
                }
                let directory = self.tree.child_directory(&parent, name).map_err(failed)?;
                tree::set_attributes(&directory, &attributes).map_err(failed)?;
                if existing == Some(Existing::Whiteout) {
                    tree::set_opaque(&directory).map_err(failed)?;
                }
                self.tree.declare(&path);
                self.directory_times.push((path, entry.mtime));
            }
            Kind::File => {
                self.count_bytes(entry.size)?;
                let file = self.tree.make_file(&parent, name).map_err(failed)?;
                let mut file = File::from(file);
                write_data(&mut file, entry, data).map_err(|error| data_error(entry, error))?;
                let file = OwnedFd::from(file);
                tree::set_attributes(&file, &attributes).map_err(failed)?;
                tree::set_times(&file, entry.mtime).map_err(failed)?;
                self.report.inodes += 1;
            }
            Kind::HardLink => {
                let target = self.clean(&entry.link)?;
                self.tree.make_hard_link(&target, &parent, name).map_err(|error| match error {
                    tree::LinkError::Refused(reason) => refused(entry, reason),
                    tree::LinkError::System(error) => failed(error),
                })?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= 4096 {
                    return Err(refused(entry, "is a symbolic link with an impossible target"));
                }
                self.tree.make_symlink(OsStr::from_bytes(&entry.link), &parent, name, &attributes, entry.mtime).map_err(failed)?;
                self.report.inodes += 1;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                if entry.kind == Kind::CharDevice && entry.device == (0, 0) {
                    return Err(refused(entry, "is a device 0/0, which overlayfs takes for a removal"));
                }
                self.tree.make_node(entry.kind, entry.device, &parent, name, &attributes, entry.mtime).map_err(failed)?;
                self.report.inodes += 1;
            }
            Kind::Other(_) => return Err(refused(entry, "has a type that no layer may have")),
        }
        Ok(())
    }

    /// The entry `./` sets the attributes of the layer's root.
    fn add_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(entry, "would replace the root"));
        }
        let root = self.tree.root().as_fd();
        tree::set_attributes(&root, &attributes(entry)?).map_err(|error| write_error(&entry.path, error))?;
        self.directory_times.push((PathBuf::new(), entry.mtime));
        Ok(())
    }

    /// Whiteouts speak of the layers below only: what this layer itself brings stays, but hides what is below it.
    fn add_whiteout(&mut self, entry: &Entry, parent_path: &Path, parent: &OwnedFd, name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        let failed = |error| write_error(&entry.path, error);
        if name == OPAQUE {
            if parent_path.as_os_str().is_empty() {
                self.report.opaque_root = true;
                return Ok(());
            }
            return tree::set_opaque(parent).map_err(failed);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(entry, "is a whiteout of nothing"));
        }
        match self.tree.existing(parent, hidden).map_err(failed)? {
            None => {
                self.tree.make_whiteout(parent, hidden).map_err(failed)?;
                self.report.inodes += 1;
                Ok(())
            }
            Some(Existing::Directory) => {
                let directory = self.tree.child_directory(parent, hidden).map_err(failed)?;
                tree::set_opaque(&directory).map_err(failed)
            }
            Some(_) => Ok(()),
        }
    }

    /// Components below the root. Absolute names are taken relative to it; `..` is refused.
    fn clean(&self, path: &[u8]) -> Result<PathBuf, UnpackError> {
        let bad = |reason| UnpackError::Refused { path: String::from_utf8_lossy(path).into_owned(), reason };
        if path.len() >= 4096 {
            return Err(bad("has too long a name"));
        }
        let mut clean = PathBuf::new();
        let mut depth = 0;
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(bad("leaves the root")),
                _ if component.len() > 255 => return Err(bad("has too long a name")),
                _ => {
                    depth += 1;
                    clean.push(OsStr::from_bytes(component));
                }
            }
        }
        if depth > self.limits.path_depth {
            return Err(UnpackError::Limit { what: "path components", limit: self.limits.path_depth as u64 });
        }
        Ok(clean)
    }

    fn count_bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let limit = self.limits.layer_bytes;
        let sum = self.report.bytes.checked_add(bytes).filter(|sum| *sum <= limit);
        self.report.bytes = sum.ok_or(UnpackError::Limit { what: "bytes", limit })?;
        Ok(())
    }

    /// A directory that a later entry replaced has no time to set any more.
    fn set_directory_times(&mut self) {
        for (path, mtime) in self.directory_times.drain(..).rev() {
            if let Ok(directory) = self.tree.open_directory(&path) {
                let _replaced = tree::set_times(&directory, mtime);
            }
        }
    }
}

/// Only what a container may carry: capabilities, ACLs and `user.*`. Attributes that steer overlayfs are an attack.
fn attributes(entry: &Entry) -> Result<Attributes<'_>, UnpackError> {
    let mut xattrs = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            return Err(refused(entry, "has an attribute that steers overlayfs"));
        }
        if name.contains('\0') || value.len() > 65536 {
            return Err(refused(entry, "has an impossible extended attribute"));
        }
        let kept = name.starts_with("user.")
            || matches!(name.as_str(), "security.capability" | "system.posix_acl_access" | "system.posix_acl_default");
        if kept {
            xattrs.push((name.as_str(), value.as_slice()));
        }
    }
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(refused(entry, "has an impossible owner"));
    }
    Ok(Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid, xattrs })
}

fn write_data(file: &mut File, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
    let Some(pieces) = &entry.sparse else {
        let written = copy(&mut data.take(entry.size), file)?;
        return if written == entry.size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
    };
    file.set_len(entry.size)?;
    let mut buffer = vec![0; 64 << 10];
    for (offset, length) in pieces {
        let mut done = 0;
        while done < *length {
            let part = (length - done).min(buffer.len() as u64) as usize;
            data.read_exact(&mut buffer[..part])?;
            file.write_all_at(&buffer[..part], offset + done)?;
            done += part as u64;
        }
    }
    Ok(())
}

/// `io::copy` would use a small buffer on the stack or try to be clever with descriptors; this has one of its own.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut sum = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(sum),
            Ok(got) => {
                to.write_all(&buffer[..got])?;
                sum += got as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn data_error(entry: &Entry, error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated.into(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => TarError::Read(error).into(),
        _ => write_error(&entry.path, error),
    }
}

fn refused(entry: &Entry, reason: &'static str) -> UnpackError {
    UnpackError::Refused { path: String::from_utf8_lossy(&entry.path).into_owned(), reason }
}

fn write_error(path: &[u8], error: impl Into<io::Error>) -> UnpackError {
    UnpackError::Write { path: String::from_utf8_lossy(path).into_owned(), error: error.into() }
}
