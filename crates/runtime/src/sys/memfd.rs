//! Sealed memory files: what is in them can never be changed again, by anyone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

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

/// A memory file with a copy of a program, which may be executed.
pub(crate) fn sealed_copy(name: &str, path: &Path) -> io::Result<OwnedFd> {
    let source = File::open(path)?;
    let size = usize::try_from(source.metadata()?.len()).map_err(io::Error::other)?;
    // Kernels before 6.3 do not know MFD_EXEC; there every memory file may be executed.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?;
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
