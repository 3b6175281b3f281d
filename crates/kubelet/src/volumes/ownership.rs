//! Gives volumes to the pod's `fsGroup`: group, group bits and the set-group bit of directories.
//!
//! Another pod may be at work in the volume meanwhile: every step is taken from an open directory and follows no link, so that
//! nothing that is exchanged leads out of the volume.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags};

/// Directories in directories that are walked; each costs a descriptor while those in it are given.
const DEEPEST: usize = 256;

/// The pod's `fsGroup`.
pub fn group(pod: &Pod) -> Option<u32> {
    let security = pod.spec.as_ref()?.security_context.as_ref()?;
    security.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// Whether only a root that does not fit makes a walk necessary (`fsGroupChangePolicy`).
pub fn only_on_mismatch(pod: &Pod) -> bool {
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    security.and_then(|security| security.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

/// Gives everything below a directory to a group. Links are not followed, but for the way to the directory itself.
///
/// # Errors
/// What the file system said.
pub fn give(path: &Path, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if only_on_mismatch && metadata.gid() == group && metadata.mode() & 0o2770 == 0o2770 {
        return Ok(());
    }
    let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    give_one(top, group, DEEPEST)
}

/// Gives what is open, and everything below it.
fn give_one(place: OwnedFd, group: u32, levels: usize) -> io::Result<()> {
    let found = rustix::fs::fstat(&place)?;
    rustix::fs::chownat(&place, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Symlink {
        return Ok(());
    }
    let mask = if kind == FileType::Directory { 0o2770 } else { 0o660 };
    // What is open for reference only can be changed by the name that the kernel has for it, which no exchange reaches.
    let name = format!("/proc/self/fd/{}", place.as_raw_fd());
    std::fs::set_permissions(name, std::fs::Permissions::from_mode((found.st_mode & 0o7777) | mask))?;
    if kind != FileType::Directory {
        return Ok(());
    }
    let levels = levels.checked_sub(1).ok_or_else(|| io::Error::other(format!("directories are nested more than {DEEPEST} deep")))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = Dir::new(rustix::fs::openat(&place, ".", flags, Mode::empty())?)?;
    drop(place);
    while let Some(entry) = directory.read() {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = match rustix::fs::openat(directory.fd()?, entry.file_name(), flags, Mode::empty()) {
            // Whoever made it has removed it.
            Err(rustix::io::Errno::NOENT) => continue,
            place => place?,
        };
        give_one(place, group, levels)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn mode(path: &Path) -> (u32, u32) {
        let found = std::fs::symlink_metadata(path).unwrap();
        (found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn what_is_in_the_volume_is_given() {
        let top = tempfile::tempdir().unwrap();
        let (volume, outside) = (top.path().join("volume"), top.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        for path in [volume.join("a/b/file"), outside.clone()] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("a/link")).unwrap();
        // A volume may be reached by a link of the node.
        symlink(&volume, top.path().join("way")).unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        give(&top.path().join("way"), 4000, false).unwrap();
        assert_eq!(mode(&volume.join("a/b/file")), (4000, 0o660));
        assert_eq!(mode(&volume.join("a/b")).0, 4000);
        assert_eq!(mode(&volume.join("a/b")).1 & 0o2770, 0o2770);
        assert_eq!(mode(&volume.join("a/link")).0, 4000);
        assert_eq!(mode(&outside), (0, 0o600), "links are given, not followed");
    }

    /// A pod exchanges a directory and a file of its volume for links while the volume is given to another.
    #[test]
    fn exchanged_links_lead_nowhere() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let (volume, outside) = (top.path().join("volume"), top.path().join("outside"));
        for directory in [&volume.join("part"), &outside] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(volume.join("part/inner"), "").unwrap();
        std::fs::write(volume.join("file"), "").unwrap();
        std::fs::write(outside.join("secret"), "").unwrap();
        std::fs::set_permissions(outside.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        symlink(outside.join("secret"), volume.join("name")).unwrap();
        let before = (mode(&outside), mode(&outside.join("secret")));
        let stop = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let (stop, volume) = (stop.clone(), rustix::fs::open(&volume, OFlags::PATH, Mode::empty()).unwrap());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for (one, other) in [("part", "link"), ("file", "name")] {
                        rustix::fs::renameat_with(&volume, one, &volume, other, rustix::fs::RenameFlags::EXCHANGE).unwrap();
                    }
                }
            }
        });
        let ended = std::time::Instant::now() + std::time::Duration::from_millis(1500);
        let mut rounds = 0;
        while std::time::Instant::now() < ended {
            // An entry that became a link between its listing and its opening is a link then.
            give(&volume, 4000, false).unwrap();
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        assert!(rounds > 10, "{rounds}");
        assert_eq!((mode(&outside), mode(&outside.join("secret"))), before);
    }
}
