//! Client certificates: asked for in the handshake, judged afterwards.
//!
//! As upstream does, a server only *requests* a client certificate in TLS and proves possession of its key; whether a CA
//! of ours vouches for it is the authenticator's question, so that a wrong or expired certificate ends in 401 and not in
//! a broken connection, and so that the set of CAs can change while the server runs.

use crate::names;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
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
pub fn ask_client_cert() -> Arc<dyn ClientCertVerifier> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(AskOnly(provider.signature_verification_algorithms))
}

#[derive(Debug)]
struct AskOnly(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Empty: any certificate may be offered. Clients that choose by issuer then offer the one they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// A set of CAs that vouch for clients.
#[derive(Clone)]
pub struct ClientAuthorities {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthorities {
    /// From one or more PEM bundles.
    pub fn from_pem(bundles: &[&str]) -> Result<Self, ClientCertError> {
        let mut roots = RootCertStore::empty();
        for bundle in bundles {
            for cert in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
                let cert = cert.map_err(|error| ClientCertError::NoAuthority(error.to_string()))?;
                roots.add(cert).map_err(|error| ClientCertError::NoAuthority(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.map_err(|error| ClientCertError::NoAuthority(error.to_string()))?;
        Ok(Self { verifier })
    }

    /// Verifies the chain that the connection presented (`ServerConnection::peer_certificates`) now, for client use.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, ClientCertError> {
        let (leaf, intermediates) = chain.split_first().ok_or(ClientCertError::Missing)?;
        self.verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map_err(|error| ClientCertError::Untrusted(error.to_string()))?;
        let certificate = crate::authority::parse(leaf).map_err(|error| ClientCertError::Unusable(error.to_string()))?;
        let (subject, uid, _) = names::read_subject(certificate.tbs_certificate().subject());
        if subject.common_name.is_empty() {
            return Err(ClientCertError::Unusable("the subject has no common name".into()));
        }
        let hash: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Identity { user: subject.common_name, groups: subject.organizations, uid, credential_id: format!("X509SHA256={hash}") })
    }
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
