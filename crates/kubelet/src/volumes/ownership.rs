//! Gives volumes to the pod's `fsGroup`: group, group bits and the set-group bit of directories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

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

/// Gives everything below a directory to a group. Links are not followed.
///
/// # Errors
/// What the file system said.
pub fn give(path: &Path, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if only_on_mismatch && metadata.gid() == group && metadata.mode() & 0o2770 == 0o2770 {
        return Ok(());
    }
    walk(path, group)
}

fn walk(path: &Path, group: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let directory = metadata.is_dir();
    let mask = if directory { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode((metadata.mode() & 0o7777) | mask))?;
    if directory {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group)?;
        }
    }
    Ok(())
}
