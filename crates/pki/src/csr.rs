//! Certificate signing requests (PKCS#10): parsed with all that signers and approvers ask about, and built for ourselves.

use crate::keys::{OID_EC_PUBLIC_KEY, OID_ED25519, OID_RSA, P256, P384, P521, SignatureBytes};
use crate::{IssueError, PrivateKey, PublicKey, San, Subject, Usage, names};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_cert::builder::Builder;
use x509_cert::der::asn1::{AnyRef, UintRef};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, ExtensionReq, RequestBuilder};

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
    /// The subject as it will be signed.
    pub(crate) raw_subject: Name,
    /// The alternative names as they will be signed: those of the four kinds above.
    pub(crate) general_names: Vec<GeneralName>,
    pub(crate) public_key: PublicKey,
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
    /// Parses `spec.request`: a PEM block `CERTIFICATE REQUEST`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| CsrError::NotPem)?;
        Self::from_der(der.as_ref())
    }

    fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let request = CertReq::from_der(der).map_err(parse)?;
        let public_key =
            PublicKey::from_der(&request.info.public_key.to_der().map_err(parse)?).map_err(|error| CsrError::Parse(error.to_string()))?;
        let key = key_kind(&public_key)?;
        let signature = request.signature.as_bytes().ok_or(CsrError::Signature)?;
        if !public_key.verify_x509(request.algorithm.oid, signed_part(der)?, signature) {
            return Err(CsrError::Signature);
        }
        let (subject, uid, other) = names::read_subject(&request.info.subject);
        let mut parsed = Self {
            subject,
            other_subject_attributes: other || uid.is_some(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            email_addresses: Vec::new(),
            uris: Vec::new(),
            key,
            raw_subject: request.info.subject.clone(),
            general_names: Vec::new(),
            public_key,
        };
        for name in requested_names(&request)? {
            match &name {
                GeneralName::DnsName(text) => parsed.dns_names.push(text.to_string()),
                GeneralName::Rfc822Name(text) => parsed.email_addresses.push(text.to_string()),
                GeneralName::UniformResourceIdentifier(text) => parsed.uris.push(text.to_string()),
                GeneralName::IpAddress(bytes) => {
                    let address = names::read_ip(bytes.as_bytes());
                    parsed.ip_addresses.push(address.ok_or_else(|| CsrError::Parse("bad address".into()))?);
                }
                _ => continue,
            }
            parsed.general_names.push(name);
        }
        Ok(parsed)
    }

    /// The reason why the signer `kubernetes.io/kube-apiserver-client-kubelet` must refuse it, if any.
    pub fn check_kubelet_client(&self, usages: &[Usage]) -> Result<(), CsrError> {
        self.check_node_organization()?;
        refuse(!self.dns_names.is_empty(), "DNS subjectAltNames are not allowed")?;
        refuse(!self.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
        refuse(!self.ip_addresses.is_empty(), "IP subjectAltNames are not allowed")?;
        refuse(!self.uris.is_empty(), "URI subjectAltNames are not allowed")?;
        self.check_node_name()?;
        check_usages(usages, Usage::ClientAuth)
    }

    /// The reason why the signer `kubernetes.io/kubelet-serving` must refuse it, if any.
    pub fn check_kubelet_serving(&self, usages: &[Usage]) -> Result<(), CsrError> {
        self.check_node_organization()?;
        let nameless = self.dns_names.is_empty() && self.ip_addresses.is_empty();
        refuse(nameless, "DNS or IP subjectAltName is required")?;
        refuse(!self.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
        refuse(!self.uris.is_empty(), "URI subjectAltNames are not allowed")?;
        check_usages(usages, Usage::ServerAuth)?;
        self.check_node_name()
    }

    /// The reason why the signer `kubernetes.io/kube-apiserver-client` must refuse it, if any.
    pub fn check_client(&self, usages: &[Usage]) -> Result<(), CsrError> {
        let allowed = [Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth];
        let wrong = !usages.contains(&Usage::ClientAuth) || usages.iter().any(|usage| !allowed.contains(usage));
        refuse(wrong, "invalid usages for client certificate: must include \"client auth\"")
    }

    fn check_node_organization(&self) -> Result<(), CsrError> {
        refuse(self.subject.organizations != ["system:nodes"], "subject organization is not system:nodes")
    }

    fn check_node_name(&self) -> Result<(), CsrError> {
        let named = self.subject.common_name.strip_prefix("system:node:").is_some_and(|name| !name.is_empty());
        refuse(!named, "subject common name does not begin with system:node: ")
    }
}

fn check_usages(usages: &[Usage], purpose: Usage) -> Result<(), CsrError> {
    let usages: BTreeSet<Usage> = usages.iter().copied().collect();
    let short = BTreeSet::from([Usage::DigitalSignature, purpose]);
    let long = BTreeSet::from([Usage::DigitalSignature, Usage::KeyEncipherment, purpose]);
    refuse(usages != short && usages != long, "usages did not match those of the signer")
}

fn refuse(condition: bool, text: &'static str) -> Result<(), CsrError> {
    if condition { Err(CsrError::Refused(text)) } else { Ok(()) }
}

/// The bytes that the signature covers, as they stand in the request: encoding them again might change them.
fn signed_part(der: &[u8]) -> Result<&[u8], CsrError> {
    let content = AnyRef::from_der(der).map_err(parse)?.value();
    SliceReader::new(content).and_then(|mut reader| reader.tlv_bytes()).map_err(parse)
}

fn requested_names(request: &CertReq) -> Result<Vec<GeneralName>, CsrError> {
    let mut names = Vec::new();
    for attribute in request.info.attributes.iter() {
        if attribute.oid != ExtensionReq::OID {
            continue;
        }
        let Some(value) = attribute.values.iter().next() else {
            continue;
        };
        for extension in value.decode_as::<ExtensionReq>().map_err(parse)?.0 {
            if extension.extn_id == SubjectAltName::OID {
                let decoded = SubjectAltName::from_der(extension.extn_value.as_bytes()).map_err(parse)?;
                names.extend(decoded.0);
            }
        }
    }
    Ok(names)
}

fn key_kind(key: &PublicKey) -> Result<KeyKind, CsrError> {
    let (oid, curve, bits) = key.parts();
    match (oid, curve.map(|oid| oid.to_string()).as_deref()) {
        (OID_ED25519, _) => Ok(KeyKind::Ed25519),
        (OID_EC_PUBLIC_KEY, Some(P256)) => Ok(KeyKind::Ecdsa(256)),
        (OID_EC_PUBLIC_KEY, Some(P384)) => Ok(KeyKind::Ecdsa(384)),
        (OID_EC_PUBLIC_KEY, Some(P521)) => Ok(KeyKind::Ecdsa(521)),
        (OID_RSA, _) => {
            let modulus = rsa_parts(&bits).ok_or_else(|| CsrError::Parse("bad RSA key".into()))?.0;
            Ok(KeyKind::Rsa(u32::try_from(modulus.len() * 8).unwrap_or(u32::MAX)))
        }
        _ => Err(CsrError::Parse("unknown kind of public key".into())),
    }
}

/// Modulus and exponent of a PKCS#1 public key, without leading zeros.
pub(crate) fn rsa_parts(bits: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(AnyRef::from_der(bits).ok()?.value()).ok()?;
    let modulus = UintRef::decode(&mut reader).ok()?.as_bytes().to_vec();
    let exponent = UintRef::decode(&mut reader).ok()?.as_bytes().to_vec();
    Some((modulus, exponent))
}

fn parse(error: impl std::fmt::Display) -> CsrError {
    CsrError::Parse(error.to_string())
}

/// Builds a PEM request for our own key.
pub fn build_csr(key: &PrivateKey, subject: &Subject, sans: &[San]) -> Result<String, CsrBuildError> {
    let build = || -> Result<String, IssueError> {
        let mut builder = RequestBuilder::new(names::subject_name(subject)?).map_err(crate::authority::encode)?;
        if !sans.is_empty() {
            let names = SubjectAltName(names::general_names(sans)?);
            builder.add_extension((false, &names)).map_err(crate::authority::encode)?;
        }
        let request = builder.build::<_, SignatureBytes>(key).map_err(crate::authority::encode)?;
        let der = request.to_der().map_err(crate::authority::encode)?;
        Ok(crate::keys::pem_block("CERTIFICATE REQUEST", &der))
    };
    build().map_err(CsrBuildError)
}

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
