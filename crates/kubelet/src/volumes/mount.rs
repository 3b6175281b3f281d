//! The few mounts that volumes make on the node's side.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts memory with a size limit in bytes, with this mode and group from the beginning.
///
/// # Errors
/// What the kernel said.
pub fn tmpfs(path: &Path, size: u64, mode: u32, group: Option<u32>) -> io::Result<()> {
    let data = CString::new(format!("size={size},mode={mode:o},gid={}", group.unwrap_or(0))).map_err(io::Error::other)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())?;
    Ok(())
}

/// Mounts huge pages of so many bytes each. How many a pod may use its control group says.
///
/// # Errors
/// What the kernel said.
pub fn huge_pages(path: &Path, size: i64) -> io::Result<()> {
    let data = CString::new(format!("pagesize={size}")).map_err(io::Error::other)?;
    rustix::mount::mount("nodev", path, "hugetlbfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())?;
    Ok(())
}

/// Unmounts, lazily where it is still in use; nothing mounted there is fine.
///
/// # Errors
/// What the kernel said.
pub fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a path is the root of a mount, also of a part of the same file system.
pub fn is_mounted(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(CWD, path, flags, StatxFlags::BASIC_STATS).is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether another file system is mounted right here.
pub fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
    let parent = path.parent().and_then(device);
    device(path).is_some_and(|own| parent.is_some_and(|parent| own != parent))
}
