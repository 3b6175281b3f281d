//! A small file system of its own for tests of full disks, those of the server included.

use std::ffi::CStr;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A file system of its own size, gone with the value.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where nothing may be mounted.
    pub fn new(size: &CStr) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size) {
            Ok(()) => Some(Disk(dir)),
            Err(error) => {
                println!("skipped: nothing can be mounted here ({error})");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file until nothing fits any more; removing it makes room again.
    pub fn fill(&self) -> std::path::PathBuf {
        use std::io::Write;
        let neighbour = self.path().join("neighbour");
        let mut file = std::fs::File::create(&neighbour).unwrap();
        while file.write_all(&[0; 65536]).is_ok() {}
        neighbour
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = unmount(self.path(), UnmountFlags::DETACH);
    }
}
