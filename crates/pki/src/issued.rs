//! A certificate chain with its key, as it is read from and written to files.

use crate::authority::{encode, parse, timestamp};
use crate::{IssueError, PrivateKey, San, Subject, names};
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Encode;
use x509_cert::ext::pkix::SubjectAltName;

/// A certificate chain with its key.
#[derive(Clone)]
pub struct Issued {
    /// The chain as PEM, leaf first.
    pub cert_pem: String,
    /// The key as PEM.
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
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IssueError> {
        let key = PrivateKey::from_pem(key_pem)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| IssueError::Parse(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| IssueError::Parse("no certificate in the text".into()))?;
        let certificate = parse(leaf)?;
        let tbs = certificate.tbs_certificate();
        if tbs.subject_public_key_info().to_der().map_err(encode)? != key.public().der() {
            return Err(IssueError::Mismatch);
        }
        Ok(Self {
            cert_pem: cert_pem.to_owned(),
            key_pem: key.to_pem(),
            not_before: timestamp(&tbs.validity().not_before),
            not_after: timestamp(&tbs.validity().not_after),
            chain,
        })
    }

    /// The key for rustls.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the key was parsed when the pair was made")
    }

    /// When renewal is due: at two thirds of the lifetime.
    pub fn renew_at(&self) -> Timestamp {
        let lifetime = self.not_after.duration_since(self.not_before);
        self.not_before + lifetime * 2 / 3
    }

    /// The subject of the leaf.
    pub fn subject(&self) -> Result<Subject, IssueError> {
        Ok(names::read_subject(parse(&self.chain[0])?.tbs_certificate().subject()).0)
    }

    /// The SANs of the leaf.
    pub fn sans(&self) -> Result<Vec<San>, IssueError> {
        let certificate = parse(&self.chain[0])?;
        let extension = certificate.tbs_certificate().get_extension::<SubjectAltName>().map_err(encode)?;
        Ok(extension.map(|(_, names)| names::read_sans(&names.0)).unwrap_or_default())
    }
}
