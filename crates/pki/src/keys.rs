//! Private and public keys, so that nothing else touches key bytes or picks algorithms.

use std::sync::Arc;

/// A P-256 private key with its PKCS#8 form. Cheap to clone.
#[derive(Clone)]
pub struct PrivateKey {
    inner: Arc<Inner>,
}

struct Inner {}

impl PrivateKey {
    /// Makes a new random key.
    pub fn generate() -> Result<Self, KeyError> { todo!() }
    /// Reads a PEM private key (`PRIVATE KEY`, or OpenSSL's `EC PRIVATE KEY`); only P-256 keys are taken.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> { todo!() }
    /// The key as PKCS#8 PEM.
    pub fn to_pem(&self) -> String { todo!() }
    /// The public half.
    pub fn public(&self) -> PublicKey { todo!() }
}

/// A public key in its SubjectPublicKeyInfo DER form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    der: Vec<u8>,
}

impl PublicKey {
    /// Reads a PEM `PUBLIC KEY`, or takes the key out of a `CERTIFICATE` or a private key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> { todo!() }
    /// The key as PEM.
    pub fn to_pem(&self) -> String { todo!() }
    /// SubjectPublicKeyInfo DER.
    pub fn der(&self) -> &[u8] { &self.der }
    /// The key id that Kubernetes uses in tokens: unpadded base64url of the SHA-256 of the DER.
    pub fn key_id(&self) -> String { todo!() }
}

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random generator or the library refused.
    #[error("cannot generate a key")]
    Generate,
    /// The text is no PEM, or holds something else.
    #[error("not a usable PEM key: {0}")]
    Parse(String),
}
