//! Network name spaces: naming one, entering one on a thread of its own, making one.
//!
//! Entering happens on a fresh thread that ends afterwards, so that no pooled thread can be left
//! behind in the wrong name space. A netlink socket opened inside keeps belonging to it, which is
//! all that most callers need.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::{Socket, Subsystem, link};

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

impl NetnsRef<'_> {
    /// Opens the name space's file.
    pub fn open(&self) -> std::io::Result<OwnedFd> {
        match self {
            Self::Path(path) => Ok(File::open(path)?.into()),
            Self::Pid(pid) => Ok(File::open(format!("/proc/{pid}/ns/net"))?.into()),
            Self::Fd(fd) => fd.try_clone_to_owned(),
        }
    }
}

/// Runs `f` on a thread of its own inside a network name space. Sockets opened by `f` stay in it.
pub fn within<T: Send>(netns: NetnsRef<'_>, f: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    let fd = netns.open()?;
    on_own_thread(move || {
        move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(f())
    })
}

/// Opens a socket in a network name space, without a thread for it: this one enters, opens, and comes back. `home` is the
/// name space that it is in. Should it ever fail to come back, the process ends, since nothing else would be safe.
pub(crate) fn socket_in(netns: BorrowedFd<'_>, home: BorrowedFd<'_>) -> std::io::Result<Socket> {
    struct Return<'a>(BorrowedFd<'a>);
    impl Drop for Return<'_> {
        fn drop(&mut self) {
            if move_into_link_name_space(self.0, Some(LinkNameSpaceType::Network)).is_err() {
                std::process::abort();
            }
        }
    }
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    let _return = Return(home);
    Socket::open(Subsystem::Route).map_err(std::io::Error::other)
}

/// Runs `f` on a thread of its own inside a new network name space that ends with it, unless `f`
/// keeps something that holds it open.
pub fn within_new<T: Send>(f: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    on_own_thread(|| {
        crate::sys::unshare_network()?;
        Ok(f())
    })
}

/// Makes a new network name space with `lo` up and keeps it by a bind mount on `path`.
pub fn create(path: &Path) -> std::io::Result<()> {
    File::options().write(true).create(true).truncate(false).open(path)?;
    let made = within_new(|| {
        let mut socket = Socket::open(Subsystem::Route).map_err(std::io::Error::other)?;
        let up = link::LinkChange { up: true, ..Default::default() };
        socket.request(link::set_link("lo", &up)).map_err(std::io::Error::other)?;
        let own = format!("/proc/self/task/{}/ns/net", rustix::thread::gettid().as_raw_nonzero());
        Ok(mount_bind(own, path)?)
    });
    match made {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) | Err(error) => {
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

/// Takes the bind mount away and the file with it; fine if there is none.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> std::io::Result<T> + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn_scoped(scope, f)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
