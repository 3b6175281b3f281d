//! The directory that all pods have theirs in.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Makes the kubelet's directory and that of the pods in it; fine if they are there. Below are volumes that everybody may
/// write, secrets that everybody may read, and programs of images (CVE-2021-41103).
///
/// # Errors
/// They cannot be made.
pub fn open(root: &Path) -> io::Result<()> {
    let pods = root.join("pods");
    for directory in [root, &pods] {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    if let Err(error) = spread(&pods) {
        tracing::debug!(%error, "the file system puts pods where it likes");
    }
    Ok(())
}

/// Has each pod's files lie together and away from those of other pods, where the file system can (`chattr +T`, ext4's Orlov
/// allocator). All in one place, each new file of a pod is looked for among those of pods that were deleted just now.
fn spread(pods: &Path) -> io::Result<()> {
    let directory = File::open(pods)?;
    let flags = ioctl_getflags(&directory)?;
    Ok(ioctl_setflags(&directory, flags | IFlags::TOPDIR)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn pods_are_closed_to_others_and_spread_where_that_is_known() {
        const EXT: i64 = 0xef53;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("kubelet");
        for _ in 0..2 {
            open(&root).unwrap();
            let pods = root.join("pods");
            for directory in [&root, &pods] {
                assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o750);
            }
            let known = rustix::fs::statfs(&pods).unwrap().f_type == EXT;
            let flags = ioctl_getflags(File::open(&pods).unwrap());
            assert_eq!(known, flags.is_ok_and(|flags| flags.contains(IFlags::TOPDIR)));
        }
    }
}
