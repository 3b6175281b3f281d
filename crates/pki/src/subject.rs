//! What a certificate can say: who, under which names, what for.

use std::net::IpAddr;
use std::time::Duration;

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
    pub fn new(common_name: impl Into<String>, organizations: &[&str]) -> Self {
        Self { common_name: common_name.into(), organizations: organizations.iter().map(|group| (*group).to_owned()).collect() }
    }
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
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| San::Dns(text.to_owned()), San::Ip)
    }
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
