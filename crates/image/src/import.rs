//! Archives become images.

/// Why an archive was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("cannot read image archive: {0}")]
    Read(#[source] std::io::Error),
}
