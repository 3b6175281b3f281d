//! `hostPath`: a path of the node, checked and made as its type says.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, VolumeError, VolumeType, nothing};

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "hostPath",
        directory: "kubernetes.io~host-path",
        is: |volume| volume.host_path.is_some(),
        set_up,
        tear_down: nothing,
        live: false,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.host_path.clone().unwrap_or_default();
        check(Path::new(&source.path), source.type_.as_deref().unwrap_or(""))
    })
}

/// Checks a path of the node against a hostPath type and makes it where the type says so.
///
/// # Errors
/// The path is not what the type says.
pub fn check(path: &Path, kind: &str) -> Result<Mounted, VolumeError> {
    let failed = |source| VolumeError::io("make", path, source);
    let refused = |what: &str| Err(VolumeError::Refused(format!("hostPath type check failed: {} is not {what}", path.display())));
    let found = std::fs::metadata(path).ok();
    let kind_is = |holds: fn(&std::fs::Metadata) -> bool| found.as_ref().is_some_and(holds);
    match kind {
        "" if found.is_none() => std::fs::create_dir_all(path).map_err(failed)?,
        "DirectoryOrCreate" if found.is_none() => {
            std::fs::create_dir_all(path).map_err(failed)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        "FileOrCreate" if found.is_none() => {
            std::fs::write(path, b"").map_err(failed)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
        }
        "Directory" | "DirectoryOrCreate" if !kind_is(std::fs::Metadata::is_dir) => return refused("a directory"),
        "File" | "FileOrCreate" if !kind_is(std::fs::Metadata::is_file) => return refused("a file"),
        "Socket" if !kind_is(|found| found.file_type().is_socket()) => return refused("a socket file"),
        "CharDevice" if !kind_is(|found| found.file_type().is_char_device()) => return refused("a character device"),
        "BlockDevice" if !kind_is(|found| found.file_type().is_block_device()) => return refused("a block device"),
        _ => {}
    }
    Ok(Mounted::Path { path: path.to_owned(), read_only: false })
}
