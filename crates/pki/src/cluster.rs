//! The cluster's own authorities and keys in one directory.
//!
//! ```text
//! <dir>/format.json              magic, format number, writer (directory 0700, keys 0600)
//! <dir>/server-ca.{crt,key}      signs API server and kubelet serving certificates; its hash pins join tokens
//! <dir>/client-ca.{crt,key}      signs client certificates: nodes, components, users by CSR
//! <dir>/request-header-ca.{crt,key}   signs the front proxy's client certificate (aggregated APIs)
//! <dir>/service-account.{key,pub}     signs service account tokens
//! <dir>/<name>.{crt,key}         leaves, renewed at two thirds of their life
//! ```

use crate::{Authority, HotCert, IssueError, KeyError, PrivateKey, San, Subject, WriteError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Authorities and keys of one cluster.
pub struct ClusterPki {
    /// Signs serving certificates (API server, kubelets).
    pub server_ca: Authority,
    /// Signs client certificates.
    pub client_ca: Authority,
    /// Signs front-proxy client certificates.
    pub request_header_ca: Authority,
    /// Signs service account tokens.
    pub service_account_key: PrivateKey,
    dir: PathBuf,
}

impl ClusterPki {
    /// Opens the directory, making what is missing. An authority is never replaced once it exists.
    pub fn load_or_create(dir: &Path) -> Result<Self, PkiError> { todo!() }
    /// The directory.
    pub fn dir(&self) -> &Path { &self.dir }
    /// Lifetime of the leaves that `serving_cert` and `client_cert` issue; 30 days unless set.
    pub fn set_leaf_lifetime(&mut self, lifetime: std::time::Duration) { todo!() }
    /// The serving certificate kept as `<name>.crt`, issued again when expired, due or when the SANs differ.
    /// Run `HotCert::keep_renewed` on it.
    pub fn serving_cert(&self, name: &str, common_name: &str, sans: &[San]) -> Result<Arc<HotCert>, PkiError> { todo!() }
    /// The client certificate kept as `<name>.crt`, issued by the client CA.
    pub fn client_cert(&self, name: &str, subject: &Subject) -> Result<Arc<HotCert>, PkiError> { todo!() }
    /// The front proxy's client certificate (`front-proxy-client`), issued by the request-header CA.
    pub fn front_proxy_cert(&self, common_name: &str) -> Result<Arc<HotCert>, PkiError> { todo!() }
}

/// Why the directory could not be opened or filled.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write the certificate directory")]
    Write(#[from] WriteError),
    /// Written by a newer version.
    #[error("{path} has format {found}, this version knows up to {known}")]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Newest known format.
        known: u64,
    },
    /// A certificate could not be issued or is unreadable.
    #[error("certificate {name}")]
    Issue {
        /// Which certificate.
        name: String,
        /// Why.
        #[source]
        source: IssueError,
    },
    /// A key could not be made or is unreadable.
    #[error("key {name}")]
    Key {
        /// Which key.
        name: String,
        /// Why.
        #[source]
        source: KeyError,
    },
}
