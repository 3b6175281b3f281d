//! Certificate signing requests (PKCS#10): parsed with all that signers and approvers ask about, and built for ourselves.

use crate::{IssueError, PrivateKey, San, Subject, Usage};
use std::net::IpAddr;

/// A request whose signature has been verified against its own key.
#[derive(Clone, Debug)]
pub struct ParsedCsr {
    /// CN and all O, in order.
    pub subject: Subject,
    /// Whether the subject holds anything but CN and O.
    pub other_subject_attributes: bool,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// E-mail addresses.
    pub email_addresses: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// What sort of key it brings.
    pub key: KeyKind,
}

/// The sort of public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits.
    Rsa(u32),
    /// ECDSA on a curve of this many bits.
    Ecdsa(u32),
    /// Ed25519.
    Ed25519,
}

impl ParsedCsr {
    /// Parses `spec.request`: exactly one PEM block `CERTIFICATE REQUEST` (or `NEW CERTIFICATE REQUEST`).
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> { todo!() }
    /// The reason why the signer `kubernetes.io/kube-apiserver-client-kubelet` must refuse it, if any.
    pub fn check_kubelet_client(&self, usages: &[Usage]) -> Result<(), CsrError> { todo!() }
    /// The reason why the signer `kubernetes.io/kubelet-serving` must refuse it, if any.
    pub fn check_kubelet_serving(&self, usages: &[Usage]) -> Result<(), CsrError> { todo!() }
    /// The reason why the signer `kubernetes.io/kube-apiserver-client` must refuse it, if any.
    pub fn check_client(&self, usages: &[Usage]) -> Result<(), CsrError> { todo!() }
}

/// Builds a PEM request for our own key.
pub fn build_csr(key: &PrivateKey, subject: &Subject, sans: &[San]) -> Result<String, CsrBuildError> { todo!() }

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Not PEM.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    /// Not PKCS#10.
    #[error("not a certificate request: {0}")]
    Parse(String),
    /// Signed by another key, or by an unknown algorithm.
    #[error("the signature of the request does not verify")]
    Signature,
    /// A signer's rule is broken; the text is upstream's.
    #[error("{0}")]
    Refused(&'static str),
}

/// Why a request could not be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot build a certificate request")]
pub struct CsrBuildError(#[source] pub IssueError);
