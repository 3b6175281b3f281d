//! `emptyDir`: a directory for the life of the pod, on disk or in memory.
//!
//! Memory volumes are mounted on the node's side, so that they survive restarts of containers.

use std::os::unix::fs::PermissionsExt;

use api::Quantity;
use futures_util::future::BoxFuture;

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

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let failed = |source| VolumeError::io("make", order.directory, source);
        let path = order.directory.to_owned();
        if path.exists() {
            return Ok(Mounted::Path { path, read_only: false });
        }
        let source = order.volume.empty_dir.clone().unwrap_or_default();
        std::fs::create_dir_all(&path).map_err(failed)?;
        match source.medium.as_deref() {
            None | Some("") => {}
            Some("Memory") => {
                let given = source.size_limit.as_ref().and_then(|size| Quantity::parse(&size.0)).map(Quantity::value);
                let size = given.filter(|size| *size > 0).unwrap_or(order.kubelet.node.memory_bytes() / 2);
                mount::tmpfs(&path, size as u64).map_err(failed)?;
            }
            Some(other) => return Err(VolumeError::Refused(format!("unknown storage medium {other:?}"))),
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
        if let Some(group) = ownership::group(order.pod) {
            std::os::unix::fs::chown(&path, None, Some(group)).map_err(failed)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2777)).map_err(failed)?;
        }
        Ok(Mounted::Path { path, read_only: false })
    })
}

fn tear_down<'a>(order: &'a TearDown<'a>) -> BoxFuture<'a, Result<(), VolumeError>> {
    Box::pin(async move { mount::unmount(order.directory).map_err(|source| VolumeError::io("unmount", order.directory, source)) })
}
