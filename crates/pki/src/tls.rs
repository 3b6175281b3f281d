//! rustls configurations: one provider (aws-lc-rs), TLS 1.2 and 1.3, hot certificates.

use crate::{HotCert, ask_client_cert, ca_hash};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Whom a client trusts as a server.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// CAs from PEM bundles.
    Authorities(Vec<String>),
    /// Only a chain that ends in a CA of the bundle, which must have this hash (`ca_hash`): for the first contact after
    /// `/cacerts` was fetched from `Anybody`.
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
pub fn install_provider() {
    // The error only says that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A server configuration. `ask_clients`: request client certificates (see `ask_client_cert`).
pub fn server_config(cert: &Arc<HotCert>, ask_clients: bool, alpn: &[&str]) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match ask_clients {
        true => builder.with_client_cert_verifier(ask_client_cert()),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(cert.server_resolver());
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client configuration.
pub fn client_config(trust: &ServerTrust, cert: Option<&Arc<HotCert>>, alpn: &[&str]) -> Result<ClientConfig, TlsError> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ServerTrust::Anybody => anybody(),
        ServerTrust::Authorities(bundles) => authorities(bundles)?,
        ServerTrust::Pinned { ca_pem, hash } => {
            let found = ca_hash(ca_pem);
            if found != *hash {
                return Err(TlsError::PinMismatch { found, pinned: hash.clone() });
            }
            authorities(std::slice::from_ref(ca_pem))?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match cert {
        Some(cert) => builder.with_client_cert_resolver(cert.client_resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn authorities(bundles: &[String]) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for bundle in bundles {
        for cert in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(cert.map_err(|_| TlsError::NoAuthority)?)?;
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(verifier.map_err(|_| TlsError::NoAuthority)?)
}

/// Takes any certificate: what is sent stays secret on the way, but nobody knows to whom it goes. For a client
/// configuration of one's own; `ServerTrust::Anybody` is the same for the rest.
pub fn anybody() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(provider().signature_verification_algorithms))
}

#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
