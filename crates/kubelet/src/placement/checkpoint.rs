//! Files in which the kubelet keeps what it gave to whom, in the form of the real one: JSON with a checksum.
//!
//! The checksum is that of the text by which Go's reflection shows the structure, so each file writes that text itself.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file that cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refuses.
    #[error("could not {deed} checkpoint {path}")]
    File {
        /// What was tried.
        deed: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("could not restore state from checkpoint: checkpoint is corrupted")]
    Corrupt,
    /// Another policy wrote it.
    #[error(
        "could not restore state from checkpoint: {prefix}configured policy {configured:?} differs from state checkpoint policy {found:?}, \
         please drain this node and delete the {what} checkpoint file {path:?} before restarting Kubelet"
    )]
    OtherPolicy {
        /// Word before the message.
        prefix: &'static str,
        /// The policy now.
        configured: String,
        /// The policy then.
        found: String,
        /// Whose file it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// What a file holds, beside its checksum.
pub trait Checkpoint: Serialize + DeserializeOwned {
    /// The text over which the checksum is made.
    fn shown(&self) -> String;

    /// The checksum that the file has.
    fn checksum(&self) -> u64;

    /// Notes the checksum.
    fn set_checksum(&mut self, sum: u64);
}

/// A file that belongs to a policy.
pub trait PolicyFile: Checkpoint {
    /// Word before messages about it.
    const PREFIX: &'static str;
    /// Whose file it is.
    const WHAT: &'static str;
    /// Name of the policy that remembers nothing.
    const NONE: &'static str;

    /// The policy that wrote it.
    fn policy(&self) -> &str;

    /// What the policy that remembers nothing writes.
    fn none() -> Self;
}

/// FNV-1a of 32 bits.
pub fn fnv(text: &[u8]) -> u64 {
    let hash = text.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.into()
}

/// Reads a file; none if there is none.
///
/// # Errors
/// It cannot be read or is not whole.
pub fn read<C: Checkpoint>(path: &Path) -> Result<Option<C>, CheckpointError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CheckpointError::File { deed: "read", path: path.to_owned(), source }),
    };
    let found: C = serde_json::from_slice(&bytes).map_err(|_| CheckpointError::Corrupt)?;
    let whole = found.checksum() == 0 || found.checksum() == fnv(found.shown().as_bytes());
    if whole { Ok(Some(found)) } else { Err(CheckpointError::Corrupt) }
}

/// Reads the file of a policy; none if there is none.
///
/// # Errors
/// As [`read`], or another policy wrote it.
pub fn read_of<F: PolicyFile>(path: &Path, policy: &str) -> Result<Option<F>, CheckpointError> {
    match read::<F>(path)? {
        Some(found) if found.policy() != policy => Err(CheckpointError::OtherPolicy {
            prefix: F::PREFIX,
            configured: policy.to_owned(),
            found: found.policy().to_owned(),
            what: F::WHAT,
            path: path.to_owned(),
        }),
        found => Ok(found),
    }
}

/// Without a policy there is nothing to remember but that there is none.
///
/// # Errors
/// An earlier run had a policy.
pub fn none<F: PolicyFile>(path: &Path) -> Result<(), CheckpointError> {
    match read_of::<F>(path, F::NONE)? {
        Some(_) => Ok(()),
        None => write(path, F::none()),
    }
}

/// Replaces a file as a whole.
///
/// # Errors
/// The disk refuses.
pub fn write<C: Checkpoint>(path: &Path, mut checkpoint: C) -> Result<(), CheckpointError> {
    let sum = fnv(checkpoint.shown().as_bytes());
    checkpoint.set_checksum(sum);
    let bytes = serde_json::to_vec(&checkpoint).map_err(|_| CheckpointError::Corrupt)?;
    let failed = |source| CheckpointError::File { deed: "write", path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let sync = |bytes: &[u8]| {
        use std::io::Write;
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    sync(&bytes).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}
