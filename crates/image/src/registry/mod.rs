//! The pull side of the OCI distribution protocol, on hyper and rustls.
//!
//! ```text
//! repository.rs   one repository at one endpoint: manifests, blobs, redirects, authorization
//!   challenge.rs  what a 401 asks for        token.rs  how it is answered
//!   transport.rs  connections and their reuse, bodies under limits and time-outs
//!     tls.rs      trust and client certificates by host
//! ```

mod challenge;
mod proxy;
mod repository;
mod tls;
mod token;
mod transport;

pub use proxy::ProxySettings;
pub(crate) use repository::{FetchedManifest, Repository};
pub(crate) use transport::Transport;

/// Why a registry did not give what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Nobody answered, or the connection broke. Another try may help.
    #[error("failed to do request: {method} {url:?}: {reason}")]
    Unreachable { method: &'static str, url: String, reason: String },
    /// The registry does not have it.
    #[error("not found")]
    NotFound,
    /// Credentials are missing or not good enough.
    #[error("{0}")]
    Denied(String),
    /// Another answer than the protocol foresees.
    #[error("unexpected status from {method} request to {url}: {status}{message}")]
    Status { method: &'static str, url: String, status: http::StatusCode, message: String },
    /// The answer is refused.
    #[error("{0}")]
    Refused(String),
}

impl FetchError {
    /// Whether the same request may succeed later, or elsewhere.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            FetchError::Unreachable { .. } => true,
            FetchError::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 429),
            _ => false,
        }
    }
}
