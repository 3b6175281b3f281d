//! Atomic file writes with the right mode from the first byte, so that a key is never readable by others, not even briefly.

use std::path::{Path, PathBuf};

/// Writes `content` to `path` with mode 0600 through a temporary file, sync and rename.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), WriteError> { todo!() }

/// Like `write_private`, with mode 0644.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), WriteError> { todo!() }

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
