//! Who vouches for clients, and who for front proxies: bundles of authorities that may be exchanged while the server runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pki::{ClientAuthorities, ClientCertError, Identity};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

/// The authorities that are in force.
pub struct Trust(ArcSwap<Bundle>);

struct Bundle {
    pem: String,
    authorities: ClientAuthorities,
    since: Instant,
}

impl Bundle {
    fn read(pem: &str) -> Result<Bundle, ClientCertError> {
        Ok(Bundle { pem: pem.to_owned(), authorities: ClientAuthorities::from_pem(&[pem])?, since: Instant::now() })
    }
}

impl Trust {
    /// Starts with a bundle.
    ///
    /// # Errors
    /// It holds no usable authority.
    pub fn new(pem: &str) -> Result<Trust, ClientCertError> {
        Ok(Trust(ArcSwap::from_pointee(Bundle::read(pem)?)))
    }

    /// Puts another bundle in force.
    ///
    /// # Errors
    /// It holds no usable authority; the old one stays.
    pub fn replace(&self, pem: &str) -> Result<(), ClientCertError> {
        self.0.store(Arc::new(Bundle::read(pem)?));
        Ok(())
    }

    /// The bundle as text.
    pub fn pem(&self) -> String {
        self.0.load().pem.clone()
    }

    /// Since when these authorities are in force. What was verified before has to be verified again.
    pub fn since(&self) -> Instant {
        self.0.load().since
    }

    /// Verifies the chain that a connection presented.
    ///
    /// # Errors
    /// Nobody here vouches for it.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, ClientCertError> {
        self.0.load().authorities.verify(chain)
    }
}
