//! Network name spaces: naming one, entering one on a thread of its own, making one.

use std::os::fd::BorrowedFd;
use std::path::Path;

/// A network name space that exists already.
#[derive(Debug, Clone, Copy)]
pub enum NetnsRef<'a> {
    /// A bind-mounted name space file or a link below `/proc`.
    Path(&'a Path),
    /// The name space of a process.
    Pid(u32),
    /// An open name space file.
    Fd(BorrowedFd<'a>),
}

/// Makes a new network name space with `lo` up and keeps it by a bind mount on `path`.
pub fn create(path: &Path) -> std::io::Result<()> {
    let _ = path;
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Takes the bind mount away and the file with it; fine if there is none.
pub fn remove(path: &Path) -> std::io::Result<()> {
    let _ = path;
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Runs `f` on a thread of its own inside a network name space. Sockets opened by `f` stay in it.
pub fn within<T: Send>(netns: NetnsRef<'_>, f: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    let _ = (netns, f);
    Err(std::io::ErrorKind::Unsupported.into())
}
