//! One pull, from reference to committed image.

/// Why a pull failed. The text is complete, causes included, since it ends in a container status and in an event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The reference cannot be parsed: `InvalidImageName`.
    #[error("couldn't parse image name {reference:?}: {error}")]
    InvalidName {
        reference: String,
        error: crate::ReferenceError,
    },
    /// Everything else: `ErrImagePull`.
    #[error("failed to pull and unpack image {reference:?}: {cause}")]
    Failed { reference: String, cause: String },
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes of layers that had to be downloaded.
    pub bytes_total: u64,
    /// Bytes already here.
    pub bytes_done: u64,
    /// Layers that were missing at the start.
    pub layers_total: usize,
    /// Layers downloaded and unpacked.
    pub layers_done: usize,
}
