//! The dictionary between our words and ASN.1: subjects, alternative names and key usages.

use crate::authority::encode;
use crate::{IssueError, San, Subject, Usage};
use std::net::IpAddr;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, Ia5String, ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Decode, Encode, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

const OID_CN: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const OID_O: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
/// Kubernetes' attribute for the user's UID.
const OID_UID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57683.2");

/// Organizations first, then the common name: the order that Go writes. Each organization is an element of its own.
pub(crate) fn subject_name(subject: &Subject) -> Result<Name, IssueError> {
    let mut elements = Vec::new();
    let organizations = subject.organizations.iter().map(|group| (OID_O, group));
    let common_name = Some((OID_CN, &subject.common_name)).filter(|(_, name)| !name.is_empty());
    for (oid, text) in organizations.chain(common_name) {
        let text = Utf8StringRef::new(text).map_err(encode)?;
        let attribute = AttributeTypeAndValue { oid, value: Any::from(text) };
        elements.push(RelativeDistinguishedName::try_from(vec![attribute]).map_err(encode)?);
    }
    let der = RdnSequence::from(elements).to_der().map_err(encode)?;
    Name::from_der(&der).map_err(encode)
}

/// The subject in our words, the UID attribute, and whether anything else was in it.
pub(crate) fn read_subject(name: &Name) -> (Subject, Option<String>, bool) {
    let mut subject = Subject::default();
    let mut uid = None;
    let mut other = false;
    for attribute in name.iter() {
        let text = attribute_text(&attribute.value);
        match (attribute.oid, text) {
            (OID_CN, Some(text)) => subject.common_name = text,
            (OID_O, Some(text)) => subject.organizations.push(text),
            (OID_UID, Some(text)) => uid = Some(text),
            _ => other = true,
        }
    }
    (subject, uid, other)
}

/// The text of any of the string types; BMP and Teletex strings beyond ASCII are not understood.
fn attribute_text(value: &Any) -> Option<String> {
    use x509_cert::der::Tag;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString => String::from_utf8(value.value().to_vec()).ok(),
        _ => None,
    }
}

pub(crate) fn general_names(sans: &[San]) -> Result<Vec<GeneralName>, IssueError> {
    sans.iter()
        .map(|san| match san {
            San::Dns(name) => Ok(GeneralName::DnsName(Ia5String::new(name).map_err(encode)?)),
            San::Ip(address) => Ok(GeneralName::from(*address)),
        })
        .collect()
}

pub(crate) fn read_sans(names: &[GeneralName]) -> Vec<San> {
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DnsName(text) => Some(San::Dns(text.to_string())),
            GeneralName::IpAddress(bytes) => read_ip(bytes.as_bytes()).map(San::Ip),
            _ => None,
        })
        .collect()
}

pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Key usage (critical) and extended key usage.
pub(crate) fn usage_extensions(usages: &[Usage], subject: &Name) -> x509_cert::builder::Result<Vec<Extension>> {
    let mut extensions: Vec<Extension> = Vec::new();
    let mut flags = KeyUsage(Default::default());
    for usage in usages {
        if let Some(flag) = usage.flag() {
            flags.0 |= flag;
        }
    }
    if !flags.0.is_empty() {
        extensions.push((true, &flags).to_extension(subject, &extensions)?);
    }
    let extended: Vec<ObjectIdentifier> = usages.iter().filter_map(|usage| usage.extended()).collect();
    if !extended.is_empty() {
        extensions.push((false, &ExtendedKeyUsage(extended)).to_extension(subject, &extensions)?);
    }
    Ok(extensions)
}

/// Each usage with its names in the API.
const API_NAMES: &[(&str, Usage)] = &[
    ("signing", Usage::DigitalSignature),
    ("digital signature", Usage::DigitalSignature),
    ("content commitment", Usage::ContentCommitment),
    ("key encipherment", Usage::KeyEncipherment),
    ("key agreement", Usage::KeyAgreement),
    ("data encipherment", Usage::DataEncipherment),
    ("cert sign", Usage::CertSign),
    ("crl sign", Usage::CrlSign),
    ("encipher only", Usage::EncipherOnly),
    ("decipher only", Usage::DecipherOnly),
    ("any", Usage::Any),
    ("server auth", Usage::ServerAuth),
    ("client auth", Usage::ClientAuth),
    ("code signing", Usage::CodeSigning),
    ("email protection", Usage::EmailProtection),
    ("s/mime", Usage::EmailProtection),
    ("timestamping", Usage::Timestamping),
    ("ocsp signing", Usage::OcspSigning),
];

impl Usage {
    /// By its name in the API; `None` for a name that has no meaning to us.
    pub fn from_api(name: &str) -> Option<Self> {
        API_NAMES.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage)
    }

    /// Its name in the API (the longer one where there are two).
    pub fn api_name(self) -> &'static str {
        let mut names = API_NAMES.iter().filter(|(name, usage)| *usage == self && *name != "signing");
        names.next().expect("every usage has a name").0
    }

    fn flag(self) -> Option<KeyUsages> {
        Some(match self {
            Usage::DigitalSignature => KeyUsages::DigitalSignature,
            Usage::ContentCommitment => KeyUsages::NonRepudiation,
            Usage::KeyEncipherment => KeyUsages::KeyEncipherment,
            Usage::DataEncipherment => KeyUsages::DataEncipherment,
            Usage::KeyAgreement => KeyUsages::KeyAgreement,
            Usage::CertSign => KeyUsages::KeyCertSign,
            Usage::CrlSign => KeyUsages::CRLSign,
            Usage::EncipherOnly => KeyUsages::EncipherOnly,
            Usage::DecipherOnly => KeyUsages::DecipherOnly,
            _ => return None,
        })
    }

    fn extended(self) -> Option<ObjectIdentifier> {
        let text = match self {
            Usage::Any => "2.5.29.37.0",
            Usage::ServerAuth => "1.3.6.1.5.5.7.3.1",
            Usage::ClientAuth => "1.3.6.1.5.5.7.3.2",
            Usage::CodeSigning => "1.3.6.1.5.5.7.3.3",
            Usage::EmailProtection => "1.3.6.1.5.5.7.3.4",
            Usage::Timestamping => "1.3.6.1.5.5.7.3.8",
            Usage::OcspSigning => "1.3.6.1.5.5.7.3.9",
            _ => return None,
        };
        Some(ObjectIdentifier::new_unwrap(text))
    }
}
