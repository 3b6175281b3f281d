//! Files that can never be changed again through what we hand out: sealed memory files, and a program on a read-only
//! mount of its own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

use super::mount;

/// A memory file with the given bytes.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(&memory, &bytes[done..], done as u64)?;
    }
    seal(&memory)?;
    Ok(memory)
}

/// A program that whoever gets hold of `/proc/<pid>/exe` of its processes cannot write to.
///
/// A mount of that one file, read-only and attached nowhere, costs no memory and shares the pages of the program with
/// us. Where the kernel refuses (before 5.12, or a program that comes from another mount name space), a sealed copy in
/// memory does the same for the price of its size.
pub(crate) fn protected_program(name: &str, path: &Path) -> io::Result<OwnedFd> {
    let mounted = mount::copy_path(path, false).and_then(|tree| {
        mount::set_attributes(&tree, mount::RDONLY | mount::NOSUID | mount::NODEV, false)?;
        Ok(tree)
    });
    mounted.or_else(|_| sealed_copy(name, path))
}

/// A memory file with a copy of a program, which may be executed.
fn sealed_copy(name: &str, path: &Path) -> io::Result<OwnedFd> {
    let source = File::open(path)?;
    let size = usize::try_from(source.metadata()?.len()).map_err(io::Error::other)?;
    // Kernels before 6.3 do not know MFD_EXEC; there every memory file may be executed.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| rustix::fs::memfd_create(name, flags))?;
    let mut done = 0;
    while done < size {
        match rustix::fs::sendfile(&memory, &source, None, size - done)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    seal(&memory)?;
    Ok(memory)
}

fn seal(memory: &OwnedFd) -> io::Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(rustix::fs::fcntl_add_seals(memory, all)?)
}
