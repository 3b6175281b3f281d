//! `emptyDir`: a directory for the life of the pod, on disk, in memory or of huge pages.
//!
//! Volumes that are not on the disk are mounted on the node's side, so that they survive restarts of containers. A directory on
//! the disk appears with all that belongs to it, or not at all: a kubelet that is killed meanwhile finds nothing half made.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::Quantity;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::PodSpec;

use crate::pods::huge_pages;

use super::{Mounted, SetUp, TearDown, VolumeError, VolumeType, mount, ownership};

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "emptyDir",
        directory: "kubernetes.io~empty-dir",
        is: |volume| volume.empty_dir.is_some(),
        set_up,
        tear_down,
        live: false,
    }
}

/// Where the files of a volume are.
enum Medium {
    Disk,
    /// So many bytes of memory at most.
    Memory(u64),
    /// Pages of so many bytes.
    HugePages(i64),
}

fn medium(order: &SetUp<'_>) -> Result<Medium, VolumeError> {
    let source = order.volume.empty_dir.clone().unwrap_or_default();
    match source.medium.as_deref() {
        None | Some("") => Ok(Medium::Disk),
        Some("Memory") => {
            let given = source.size_limit.as_ref().and_then(|size| Quantity::parse(&size.0)).map(Quantity::value);
            let size = given.filter(|size| *size > 0).unwrap_or(order.kubelet.node.memory_bytes() / 2);
            Ok(Medium::Memory(size as u64))
        }
        Some(medium) if huge_pages::is_medium(medium) => {
            let empty = PodSpec::default();
            let spec = order.pod.spec.as_ref().unwrap_or(&empty);
            huge_pages::page_size(spec, medium).map(Medium::HugePages).map_err(VolumeError::Refused)
        }
        Some(other) => Err(VolumeError::Refused(format!("unknown storage medium {other:?}"))),
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let failed = |source| VolumeError::io("make", order.directory, source);
        let path = order.directory.to_owned();
        let medium = medium(order)?;
        let there = match medium {
            Medium::Disk => path.exists(),
            // The folder stays where its mount does not: after a restart of the machine, or where mounting failed.
            Medium::Memory(_) | Medium::HugePages(_) => mount::is_mounted(&path),
        };
        if there {
            return Ok(Mounted::Path { path, read_only: false });
        }
        let group = ownership::group(order.pod);
        let folder = || std::fs::create_dir_all(&path).map_err(failed);
        match medium {
            Medium::Disk => make(&path, group).map_err(failed)?,
            Medium::Memory(size) => {
                folder()?;
                mount::tmpfs(&path, size, mode(group), group).map_err(failed)?;
            }
            Medium::HugePages(size) => {
                folder()?;
                mount::huge_pages(&path, size).map_err(failed)?;
                if let Some(group) = group {
                    std::os::unix::fs::chown(&path, None, Some(group)).map_err(failed)?;
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2775)).map_err(failed)?;
                }
            }
        }
        Ok(Mounted::Path { path, read_only: false })
    })
}

/// Everybody may write, and what is written belongs to the pod's group.
fn mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2777 } else { 0o777 }
}

fn make(path: &Path, group: Option<u32>) -> io::Result<()> {
    // No volume has a name with a dot.
    let fresh = path.with_extension("new");
    std::fs::create_dir_all(&fresh)?;
    std::os::unix::fs::chown(&fresh, None, group)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode(group)))?;
    std::fs::rename(&fresh, path)
}

fn tear_down<'a>(order: &'a TearDown<'a>) -> BoxFuture<'a, Result<(), VolumeError>> {
    Box::pin(async move { mount::unmount(order.directory).map_err(|source| VolumeError::io("unmount", order.directory, source)) })
}
