//! A certificate authority: issues serving and client certificates and signs requests.

use crate::{CsrError, KeyError, ParsedCsr, PrivateKey};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::time::Duration;

/// A certificate authority with its key.
#[derive(Clone)]
pub struct Authority {}

impl Authority {
    /// Makes a self-signed authority, valid for `lifetime` from now.
    pub fn create(common_name: &str, lifetime: Duration) -> Result<Self, IssueError> { todo!() }
    /// Takes an existing authority from PEM.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IssueError> { todo!() }
    /// The authority's certificate as PEM.
    pub fn cert_pem(&self) -> &str { todo!() }
    /// The authority's certificate as DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> { todo!() }
    /// The authority's key.
    pub fn key(&self) -> &PrivateKey { todo!() }
    /// End of the authority's validity.
    pub fn not_after(&self) -> Timestamp { todo!() }
    /// Issues a certificate for a new key.
    pub fn issue(&self, request: &IssueRequest) -> Result<Issued, IssueError> { todo!() }
    /// Signs a request: subject and SANs are the request's, usages and lifetime are the signer's choice.
    /// Returns the certificate as PEM. The lifetime is cut at the authority's own end.
    pub fn sign_csr(&self, csr: &ParsedCsr, usages: &[Usage], lifetime: Duration) -> Result<String, IssueError> { todo!() }
}

/// What a certificate shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueRequest {
    /// Who.
    pub subject: Subject,
    /// Under which names and addresses; empty for pure clients.
    pub sans: Vec<San>,
    /// What for.
    pub usages: Vec<Usage>,
    /// For how long from now (it starts 5 minutes in the past, against clock skew).
    pub lifetime: Duration,
}

/// A subject as Kubernetes reads it: common name = user, organizations = groups, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// User name.
    pub common_name: String,
    /// Groups.
    pub organizations: Vec<String>,
}

impl Subject {
    /// A subject with groups.
    pub fn new(common_name: impl Into<String>, organizations: &[&str]) -> Self { todo!() }
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    /// A DNS name, possibly with a leading wildcard label.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl San {
    /// An address if the text is one, else a DNS name.
    pub fn parse(text: &str) -> Self { todo!() }
}

/// Key usages, by the names of the API (`certificates.k8s.io/v1 KeyUsage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// `signing` and `digital signature`.
    DigitalSignature,
    /// `key encipherment`.
    KeyEncipherment,
    /// `server auth`.
    ServerAuth,
    /// `client auth`.
    ClientAuth,
    /// `cert sign`.
    CertSign,
    /// `crl sign`.
    CrlSign,
    /// `content commitment`.
    ContentCommitment,
    /// `data encipherment`.
    DataEncipherment,
    /// `key agreement`.
    KeyAgreement,
    /// `encipher only`.
    EncipherOnly,
    /// `decipher only`.
    DecipherOnly,
    /// `any`.
    Any,
    /// `code signing`.
    CodeSigning,
    /// `email protection` and `s/mime`.
    EmailProtection,
    /// `timestamping`.
    Timestamping,
    /// `ocsp signing`.
    OcspSigning,
}

impl Usage {
    /// By its name in the API; `None` for a name that has no meaning to us.
    pub fn from_api(name: &str) -> Option<Self> { todo!() }
    /// Its name in the API.
    pub fn api_name(self) -> &'static str { todo!() }
}

/// A certificate chain with its key.
#[derive(Clone)]
pub struct Issued {
    /// The chain as PEM, leaf first.
    pub cert_pem: String,
    /// The key as PKCS#8 PEM.
    pub key_pem: String,
    /// The chain as DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

impl Issued {
    /// Reads chain and key from PEM and checks that they belong together.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IssueError> { todo!() }
    /// The key for rustls.
    pub fn key_der(&self) -> PrivateKeyDer<'static> { todo!() }
    /// When renewal is due: at two thirds of the lifetime.
    pub fn renew_at(&self) -> Timestamp { todo!() }
    /// The subject of the leaf.
    pub fn subject(&self) -> Result<Subject, IssueError> { todo!() }
    /// The SANs of the leaf.
    pub fn sans(&self) -> Result<Vec<San>, IssueError> { todo!() }
}

/// Why a certificate could not be issued or read.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Key trouble.
    #[error("key of the certificate")]
    Key(#[from] KeyError),
    /// The text is not a certificate.
    #[error("not a certificate: {0}")]
    Parse(String),
    /// Certificate and key do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The encoder refused.
    #[error("cannot encode the certificate: {0}")]
    Encode(String),
    /// The request was bad.
    #[error("certificate request")]
    Csr(#[from] CsrError),
}
