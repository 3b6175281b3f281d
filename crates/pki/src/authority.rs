//! A certificate authority: issues serving and client certificates and signs requests.
//!
//! Certificates are built by x509-cert, which keeps several organizations in order; groups depend on it.

use crate::keys::SignatureBytes;
use crate::names::{self, usage_extensions};
use crate::{CsrError, IssueRequest, Issued, KeyError, ParsedCsr, PrivateKey, Subject, Usage};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::OctetString;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, SubjectAltName, SubjectKeyIdentifier};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{EncodePublicKey, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, SubjectPublicKeyInfo};

/// How far back a certificate's validity starts, so that a peer whose clock is behind accepts it; at most a tenth of
/// the lifetime, so that short-lived certificates are not due for renewal when they are made.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A certificate authority, usually with its key. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    subject: Name,
    key_id: Vec<u8>,
    not_after: Timestamp,
    key: Option<PrivateKey>,
}

impl Authority {
    /// Makes a self-signed authority, valid for `lifetime` from now.
    pub fn create(common_name: &str, lifetime: Duration) -> Result<Self, IssueError> {
        let key = PrivateKey::generate()?;
        let subject = names::subject_name(&Subject::new(common_name, &[]))?;
        let usages = [Usage::DigitalSignature, Usage::KeyEncipherment, Usage::CertSign];
        let profile = Profile {
            issuer: subject.clone(),
            subject,
            authority_key_id: None,
            is_ca: true,
            alt_names: Vec::new(),
            usages: usages.to_vec(),
        };
        let der = build(profile, &key.public(), &key, Timestamp::now(), lifetime, None)?;
        Self::from_pem(&crate::keys::pem_block("CERTIFICATE", &der), &key.to_pem())
    }

    /// Takes an existing authority from PEM.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IssueError> {
        let key = PrivateKey::from_pem(key_pem)?;
        let cert_der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| IssueError::Parse(error.to_string()))?;
        let certificate = parse(&cert_der)?;
        let tbs = certificate.tbs_certificate();
        if tbs.subject_public_key_info().to_der().map_err(encode)? != key.public().der() {
            return Err(IssueError::Mismatch);
        }
        let own_key_id = tbs.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        let key_id = match own_key_id {
            Some((_, id)) => id.0.as_bytes().to_vec(),
            None => key_identifier(&key.public()),
        };
        let inner = Inner {
            cert_pem: cert_pem.to_owned(),
            subject: tbs.subject().clone(),
            key_id,
            not_after: timestamp(&tbs.validity().not_after),
            cert_der,
            key: Some(key),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes the certificates of an authority whose key somebody else has: it is believed, and issues nothing.
    ///
    /// # Errors
    /// The text holds no certificate.
    pub fn without_key(cert_pem: &str) -> Result<Self, IssueError> {
        let cert_der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| IssueError::Parse(error.to_string()))?;
        let certificate = parse(&cert_der)?;
        let tbs = certificate.tbs_certificate();
        let inner = Inner {
            cert_pem: cert_pem.to_owned(),
            subject: tbs.subject().clone(),
            key_id: Vec::new(),
            not_after: timestamp(&tbs.validity().not_after),
            cert_der,
            key: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The authority's certificate as PEM.
    pub fn cert_pem(&self) -> &str {
        &self.inner.cert_pem
    }

    /// The authority's certificate as DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.inner.cert_der
    }

    /// The authority's key.
    ///
    /// # Errors
    /// It was made without one.
    pub fn key(&self) -> Result<&PrivateKey, IssueError> {
        self.inner.key.as_ref().ok_or(IssueError::NoKey)
    }

    /// End of the authority's validity.
    pub fn not_after(&self) -> Timestamp {
        self.inner.not_after
    }

    /// Whether the certificate's signature was made by this authority's key.
    pub fn has_signed(&self, cert: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = parse(cert) else {
            return false;
        };
        let Ok(signed) = certificate.tbs_certificate().to_der() else {
            return false;
        };
        let Some(signature) = certificate.signature().as_bytes() else {
            return false;
        };
        self.inner.key.as_ref().is_some_and(|key| key.public().verify_x509(certificate.signature_algorithm().oid, &signed, signature))
    }

    /// Issues a certificate for a new key.
    pub fn issue(&self, request: &IssueRequest) -> Result<Issued, IssueError> {
        let key = PrivateKey::generate()?;
        let profile = Profile {
            issuer: self.inner.subject.clone(),
            subject: names::subject_name(&request.subject)?,
            authority_key_id: Some(self.inner.key_id.clone()),
            is_ca: false,
            alt_names: names::general_names(&request.sans)?,
            usages: request.usages.clone(),
        };
        let der = build(profile, &key.public(), self.key()?, Timestamp::now(), request.lifetime, Some(self.not_after()))?;
        Issued::from_pem(&crate::keys::pem_block("CERTIFICATE", &der), &key.to_pem())
    }

    /// Signs a request: subject and SANs are the request's, usages and lifetime are the signer's choice.
    /// Returns the certificate as PEM. The lifetime is cut at the authority's own end.
    pub fn sign_csr(&self, csr: &ParsedCsr, usages: &[Usage], lifetime: Duration) -> Result<String, IssueError> {
        let profile = Profile {
            issuer: self.inner.subject.clone(),
            subject: csr.raw_subject.clone(),
            authority_key_id: Some(self.inner.key_id.clone()),
            is_ca: false,
            alt_names: csr.general_names.clone(),
            usages: usages.to_vec(),
        };
        let der = build(profile, &csr.public_key, self.key()?, Timestamp::now(), lifetime, Some(self.not_after()))?;
        Ok(crate::keys::pem_block("CERTIFICATE", &der))
    }
}

struct Profile {
    issuer: Name,
    subject: Name,
    authority_key_id: Option<Vec<u8>>,
    is_ca: bool,
    alt_names: Vec<x509_cert::ext::pkix::name::GeneralName>,
    usages: Vec<Usage>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let mut extensions = usage_extensions(&self.usages, tbs.subject())?;
        let constraints = BasicConstraints { ca: self.is_ca, path_len_constraint: None };
        extensions.push((true, &constraints).to_extension(tbs.subject(), &extensions)?);
        if self.is_ca {
            let key = crate::PublicKey::from_der(&tbs.subject_public_key_info().to_der()?).expect("the key came out of an encoder");
            let id = SubjectKeyIdentifier(OctetString::new(key_identifier(&key))?);
            extensions.push((false, &id).to_extension(tbs.subject(), &extensions)?);
        }
        if let Some(id) = &self.authority_key_id {
            let id = AuthorityKeyIdentifier {
                key_identifier: Some(OctetString::new(id.as_slice())?),
                authority_cert_issuer: None,
                authority_cert_serial_number: None,
            };
            extensions.push((false, &id).to_extension(tbs.subject(), &extensions)?);
        }
        if !self.alt_names.is_empty() {
            // RFC 5280: a certificate without a subject carries its identity in this extension, which is critical then.
            let critical = tbs.subject().is_empty();
            let names = SubjectAltName(self.alt_names.clone());
            extensions.push((critical, &names).to_extension(tbs.subject(), &extensions)?);
        }
        Ok(extensions)
    }
}

fn build(
    profile: Profile,
    public: &crate::PublicKey,
    signer: &PrivateKey,
    now: Timestamp,
    lifetime: Duration,
    latest: Option<Timestamp>,
) -> Result<Vec<u8>, IssueError> {
    let mut serial = [0u8; 16];
    rand::Rng::fill(&mut rand::rng(), &mut serial[..]);
    serial[0] = serial[0] & 0x7f | 0x40;
    let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
    let end = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
    let end = latest.map_or(end, |latest| end.min(latest));
    let validity = Validity::new(time(now - BACKDATE.min(lifetime / 10))?, time(end)?);
    let key_info = SubjectPublicKeyInfo::from_der(public.to_public_key_der().map_err(encode)?.as_bytes());
    let serial = SerialNumber::new(&serial).map_err(encode)?;
    let builder = CertificateBuilder::new(profile, serial, validity, key_info.map_err(encode)?).map_err(encode)?;
    let certificate = builder.build::<_, SignatureBytes>(signer).map_err(encode)?;
    certificate.to_der().map_err(encode)
}

fn time(moment: Timestamp) -> Result<Time, IssueError> {
    let seconds = u64::try_from(moment.as_second()).map_err(encode)?;
    Time::try_from(UNIX_EPOCH + Duration::from_secs(seconds)).map_err(encode)
}

pub(crate) fn timestamp(time: &Time) -> Timestamp {
    let seconds = time.to_unix_duration().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// The key identifier of an authority: the first 20 bytes of the SHA-256 of the key, as Go's x509 does since 1.25.
fn key_identifier(key: &crate::PublicKey) -> Vec<u8> {
    use sha2::Digest;
    let (_, _, bits) = key.parts();
    sha2::Sha256::digest(bits)[..20].to_vec()
}

pub(crate) fn parse(der: &[u8]) -> Result<Certificate, IssueError> {
    Certificate::from_der(der).map_err(|error| IssueError::Parse(error.to_string()))
}

pub(crate) fn encode(error: impl std::fmt::Display) -> IssueError {
    IssueError::Encode(error.to_string())
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
    /// The authority's key is somebody else's.
    #[error("the key of the certificate authority is not here")]
    NoKey,
    /// The encoder refused.
    #[error("cannot encode the certificate: {0}")]
    Encode(String),
    /// The request was bad.
    #[error("certificate request")]
    Csr(#[from] CsrError),
}
