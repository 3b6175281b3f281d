//! Atomic file writes with the right mode from the first byte, so that a key is never readable by others, not even briefly.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes `content` to `path` with mode 0600 through a temporary file, sync and rename.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    write(path, content, 0o600).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Like `write_private`, with mode 0644.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    write(path, content, 0o644).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Makes a directory (and its parents) that only its owner may enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), WriteError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| WriteError { path: path.to_owned(), source })
}

fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if result.is_err() {
        // The temporary file is of no use to anybody; a failure to remove it adds nothing to the first error.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct WriteError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}
