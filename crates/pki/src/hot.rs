//! A certificate that is swapped while connections use it, and the task that renews it.

use crate::{Issued, IssueError};
use std::sync::Arc;
use tokio::sync::watch;

/// The current certificate and key of one name. Readers always see a whole pair; replacing it needs no restart.
pub struct HotCert {}

impl HotCert {
    /// Starts with a pair that somebody else renews through `replace` (a kubelet by CSR).
    pub fn new(issued: Issued) -> Result<Arc<Self>, IssueError> { todo!() }
    /// The current pair.
    pub fn current(&self) -> Arc<Issued> { todo!() }
    /// Puts a new pair in place.
    pub fn replace(&self, issued: Issued) -> Result<(), IssueError> { todo!() }
    /// Wakes after each replacement.
    pub fn subscribe(&self) -> watch::Receiver<u64> { todo!() }
    /// For `rustls::ServerConfig`.
    pub fn server_resolver(self: &Arc<Self>) -> Arc<dyn rustls::server::ResolvesServerCert> { todo!() }
    /// For `rustls::ClientConfig`.
    pub fn client_resolver(self: &Arc<Self>) -> Arc<dyn rustls::client::ResolvesClientCert> { todo!() }
    /// Waits until the current pair should be renewed (two thirds of its life), through clock jumps and replacements.
    pub async fn renewal_due(&self) { todo!() }
    /// Renews for ever with what the certificate was made by (`ClusterPki`); returns only for pairs from `new`.
    /// A failed renewal is logged and tried again after a growing pause of at most an hour.
    pub async fn keep_renewed(self: Arc<Self>) { todo!() }
}

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot renew the certificate: {0}")]
pub struct RenewError(pub String);
