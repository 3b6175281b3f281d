//! Service account tokens: minted and verified exactly as Kubernetes words them, with the documents that let others verify them.

use crate::{KeyError, PrivateKey, PublicKey};
use jiff::Timestamp;
use std::sync::Arc;

/// Mints with one key, verifies with one or more, under one or more issuer names.
pub struct TokenAuthority {}

impl TokenAuthority {
    /// `issuers[0]` goes into new tokens, all are accepted. `also_accept` are older public keys.
    pub fn new(key: PrivateKey, also_accept: &[PublicKey], issuers: &[String]) -> Result<Self, KeyError> { todo!() }
    /// The issuer of new tokens.
    pub fn issuer(&self) -> &str { todo!() }
    /// Mints a bound token; returns it with its expiry.
    pub fn mint(&self, request: &TokenRequest) -> Result<(String, Timestamp), MintError> { todo!() }
    /// Mints a token of a Secret of type `kubernetes.io/service-account-token` (no expiry).
    pub fn mint_legacy(&self, token: &LegacyToken) -> Result<String, MintError> { todo!() }
    /// Whether a bearer token looks as if it were ours (a JWT of one of our issuers), before any cryptography.
    pub fn claims_to_be_ours(&self, token: &str) -> bool { todo!() }
    /// Verifies signature, issuer, times and audiences. `accepted` are the audiences that the caller stands for;
    /// the result's `audiences` is the intersection. Objects (account, pod, secret, node) are the caller's to look up.
    /// Verified tokens are remembered by hash, a bounded number of them; times are checked on every call.
    pub fn verify(&self, token: &str, accepted: &[String]) -> Result<Arc<VerifiedToken>, VerifyError> { todo!() }
    /// The document of `/.well-known/openid-configuration`. `jwks_uri` defaults to `<issuer>/openid/v1/jwks`.
    pub fn discovery_document(&self, jwks_uri: Option<&str>) -> String { todo!() }
    /// The document of `/openid/v1/jwks`.
    pub fn jwks_document(&self) -> String { todo!() }
}

/// What a bound token shall say.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Name space of the account.
    pub namespace: String,
    /// Name of the account.
    pub service_account: String,
    /// UID of the account.
    pub service_account_uid: String,
    /// Audiences.
    pub audiences: Vec<String>,
    /// Seconds of validity.
    pub expiration_seconds: i64,
    /// Seconds after which use is to be warned about; set when the server extends a pod's one-hour token to a year.
    pub warn_after_seconds: Option<i64>,
    /// Bound pod.
    pub pod: Option<BoundObject>,
    /// Bound secret.
    pub secret: Option<BoundObject>,
    /// Bound node, or the node of the bound pod.
    pub node: Option<BoundObject>,
}

/// Name and UID of an object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
}

/// What a token of a Secret says.
#[derive(Clone, Debug)]
pub struct LegacyToken {
    /// Name space.
    pub namespace: String,
    /// Name of the secret.
    pub secret: String,
    /// Account.
    pub service_account: String,
    /// UID of the account.
    pub service_account_uid: String,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// Name space of the account.
    pub namespace: String,
    /// Name of the account.
    pub service_account: String,
    /// UID of the account as of minting.
    pub service_account_uid: String,
    /// Audiences in the token that the caller accepts.
    pub audiences: Vec<String>,
    /// Token id.
    pub jti: Option<String>,
    /// Bound pod.
    pub pod: Option<BoundObject>,
    /// Bound secret (for legacy tokens: the secret, without UID).
    pub secret: Option<BoundObject>,
    /// Bound node.
    pub node: Option<BoundObject>,
    /// Minted.
    pub issued_at: Option<Timestamp>,
    /// Expiry; none for legacy tokens.
    pub expires_at: Option<Timestamp>,
    /// From when on use is to be warned about.
    pub warn_after: Option<Timestamp>,
    /// A token of a Secret.
    pub legacy: bool,
}

impl VerifiedToken {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub fn user_name(&self) -> String { todo!() }
    /// `system:serviceaccounts`, `system:serviceaccounts:<namespace>`; `system:authenticated` is the server's to add.
    pub fn groups(&self) -> Vec<String> { todo!() }
    /// The extra of the user: credential id, pod and node.
    pub fn extra(&self) -> Vec<(String, Vec<String>)> { todo!() }
}

/// Why a token could not be minted.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign the token: {0}")]
pub struct MintError(pub String);

/// Why a token is refused; the texts are those that clients of Kubernetes see.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    /// Not a JWT, or of another issuer: another authenticator may know it.
    #[error("not a service account token")]
    NotOurs,
    /// The signature matches none of our keys.
    #[error("service account token has an invalid signature")]
    Signature,
    /// Used after its end.
    #[error("service account token has expired")]
    Expired,
    /// Used before its start.
    #[error("service account token is not valid yet")]
    NotYetValid,
    /// Meant for somebody else.
    #[error("token audiences {found:?} is invalid for the target audiences {accepted:?}")]
    Audience {
        /// In the token.
        found: Vec<String>,
        /// Accepted.
        accepted: Vec<String>,
    },
    /// The claims are incomplete or contradict each other.
    #[error("service account token claims could not be validated: {0}")]
    Claims(&'static str),
}
