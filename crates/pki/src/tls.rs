//! rustls configurations: one provider (aws-lc-rs), TLS 1.2 and 1.3, hot certificates.

use crate::HotCert;
use std::sync::Arc;

/// Whom a client trusts as a server.
#[derive(Clone)]
pub enum ServerTrust {
    /// CAs from PEM bundles.
    Authorities(Vec<String>),
    /// Only a chain that ends in a CA of the bundle with this hash (`ca_hash`); for a first contact after `/cacerts`.
    Pinned {
        /// The bundle as fetched.
        ca_pem: String,
        /// The hash of the join token.
        hash: String,
    },
    /// Anybody: to fetch `/cacerts`, or `insecure-skip-tls-verify`. The connection proves nothing.
    Anybody,
}

/// Makes aws-lc-rs the provider of the process. Call first in `main`; more than once is harmless.
pub fn install_provider() { todo!() }

/// A server configuration. `ask_clients`: request client certificates (see `ask_client_cert`).
pub fn server_config(cert: &Arc<HotCert>, ask_clients: bool, alpn: &[&str]) -> Result<rustls::ServerConfig, TlsError> { todo!() }

/// A client configuration.
pub fn client_config(trust: &ServerTrust, cert: Option<&Arc<HotCert>>, alpn: &[&str]) -> Result<rustls::ClientConfig, TlsError> { todo!() }

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No usable CA in the bundle.
    #[error("no usable CA certificate in the bundle")]
    NoAuthority,
    /// The bundle is not the pinned one.
    #[error("the server's CA has hash {found}, the token pins {pinned}")]
    PinMismatch {
        /// Hash found.
        found: String,
        /// Hash pinned.
        pinned: String,
    },
    /// rustls refused.
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}
