//! Client certificates: asked for in the handshake, judged afterwards.
//!
//! As upstream does, a server only *requests* a client certificate in TLS and proves possession of its key; whether a CA
//! of ours vouches for it is the authenticator's question, so that a wrong or expired certificate ends in 401 and not in
//! a broken connection, and so that the set of CAs can change while the server runs.

use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// Who a verified client certificate says the caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Common name.
    pub user: String,
    /// Organizations, in order.
    pub groups: Vec<String>,
    /// Attribute 1.3.6.1.4.1.57683.2, if present.
    pub uid: Option<String>,
    /// `X509SHA256=<hex of the leaf's hash>`, for `authentication.kubernetes.io/credential-id`.
    pub credential_id: String,
}

/// The rustls verifier that asks for a client certificate, proves the key and leaves the chain to `ClientAuthorities`.
pub fn ask_client_cert() -> Arc<dyn rustls::server::danger::ClientCertVerifier> { todo!() }

/// A set of CAs that vouch for clients.
#[derive(Clone)]
pub struct ClientAuthorities {}

impl ClientAuthorities {
    /// From one or more PEM bundles.
    pub fn from_pem(bundles: &[&str]) -> Result<Self, ClientCertError> { todo!() }
    /// Verifies the chain that the connection presented (`ServerConnection::peer_certificates`) now, for client use.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, ClientCertError> { todo!() }
}

/// Why a client certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertError {
    /// No certificate was presented.
    #[error("no client certificate")]
    Missing,
    /// The bundle holds no usable CA.
    #[error("no usable CA certificate: {0}")]
    NoAuthority(String),
    /// The chain does not verify.
    #[error("x509: {0}")]
    Untrusted(String),
    /// The leaf cannot be parsed or has no common name.
    #[error("unusable client certificate: {0}")]
    Unusable(String),
}
