//! Service account tokens: minted and verified exactly as Kubernetes words them, with the documents that let others verify them.

mod claims;
mod types;

pub use types::{BoundObject, LegacyToken, TokenRequest, VerifiedToken};

use crate::csr::rsa_parts;
use crate::keys::{OID_EC_PUBLIC_KEY, OID_RSA, P256, P384};
use crate::{KeyError, PrivateKey, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claims::{Audience, Claims, Header, Issuer, KubernetesClaims, LegacyClaims, bound_token, decode, legacy_token, split};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Issuer of tokens that live in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How far the clocks of two servers may differ, as in upstream's library.
const LEEWAY_SECONDS: i64 = 60;
/// Verified tokens remembered per generation; two generations are kept.
const REMEMBERED: usize = 4096;

/// Mints with one key, verifies with one or more, under one or more issuer names.
pub struct TokenAuthority {
    key: PrivateKey,
    key_id: String,
    accepted: Vec<(String, PublicKey)>,
    issuers: Vec<String>,
    verified: Mutex<Generations>,
}

/// A bounded memory: when the young half is full it becomes the old half, and the old half is forgotten.
#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<Known>>,
    old: HashMap<[u8; 32], Arc<Known>>,
}

/// A token whose signature and claims are right; times and audiences depend on the moment and the caller.
struct Known {
    token: Arc<VerifiedToken>,
    not_before: i64,
    expires: Option<i64>,
}

impl Generations {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Arc<Known>> {
        if let Some(known) = self.young.get(hash) {
            return Some(known.clone());
        }
        let known = self.old.get(hash)?.clone();
        self.put(*hash, known.clone());
        Some(known)
    }

    fn put(&mut self, hash: [u8; 32], known: Arc<Known>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
    }
}

impl TokenAuthority {
    /// `issuers[0]` goes into new tokens, all are accepted. `also_accept` are older public keys.
    pub fn new(key: PrivateKey, also_accept: &[PublicKey], issuers: &[String]) -> Result<Self, KeyError> {
        if issuers.is_empty() {
            return Err(KeyError::Parse("a token authority needs an issuer".into()));
        }
        let mut accepted = vec![(key.public().key_id(), key.public())];
        for public in also_accept {
            if *public != key.public() {
                accepted.push((public.key_id(), public.clone()));
            }
        }
        Ok(Self { key_id: key.public().key_id(), key, accepted, issuers: issuers.to_vec(), verified: Mutex::default() })
    }

    /// The issuer of new tokens.
    pub fn issuer(&self) -> &str {
        &self.issuers[0]
    }

    /// Mints a bound token; returns it with its expiry.
    pub fn mint(&self, request: &TokenRequest) -> Result<(String, Timestamp), MintError> {
        let now = Timestamp::now().as_second();
        let expires = now.saturating_add(request.expiration_seconds);
        let claims = Claims {
            aud: Some(Audience::Many(request.audiences.clone())),
            exp: Some(expires),
            iat: Some(now),
            iss: self.issuer().to_owned(),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            kubernetes: Some(KubernetesClaims {
                namespace: request.namespace.clone(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                service_account: BoundObject { name: request.service_account.clone(), uid: request.service_account_uid.clone() },
                warn_after: request.warn_after_seconds.map(|seconds| now.saturating_add(seconds)),
            }),
            nbf: Some(now),
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account),
            legacy: LegacyClaims::default(),
        };
        let expires = Timestamp::from_second(expires).map_err(|error| MintError(error.to_string()))?;
        Ok((self.sign(&claims)?, expires))
    }

    /// Mints a token of a Secret of type `kubernetes.io/service-account-token` (no expiry).
    pub fn mint_legacy(&self, token: &LegacyToken) -> Result<String, MintError> {
        let claims = Claims {
            aud: None,
            exp: None,
            iat: None,
            iss: LEGACY_ISSUER.to_owned(),
            jti: None,
            kubernetes: None,
            nbf: None,
            sub: format!("system:serviceaccount:{}:{}", token.namespace, token.service_account),
            legacy: LegacyClaims {
                namespace: Some(token.namespace.clone()),
                secret: Some(token.secret.clone()),
                name: Some(token.service_account.clone()),
                uid: Some(token.service_account_uid.clone()),
            },
        };
        self.sign(&claims)
    }

    fn sign(&self, claims: &Claims) -> Result<String, MintError> {
        let header = json!({"alg": self.key.token_algorithm(), "kid": self.key_id}).to_string();
        let claims = serde_json::to_vec(claims).map_err(|error| MintError(error.to_string()))?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign_token(token.as_bytes()).map_err(|error| MintError(error.to_string()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Whether a bearer token looks as if it were ours (a JWT of one of our issuers), before any cryptography.
    pub fn claims_to_be_ours(&self, token: &str) -> bool {
        split(token).and_then(|parts| decode::<Issuer>(parts.claims)).is_some_and(|claims| self.is_issuer(&claims.iss))
    }

    fn is_issuer(&self, issuer: &str) -> bool {
        issuer == LEGACY_ISSUER || self.issuers.iter().any(|known| known == issuer)
    }

    /// Verifies signature, issuer, times and audiences. `accepted` are the audiences that the caller stands for;
    /// the result's `audiences` is the intersection. Objects (account, pod, secret, node) are the caller's to look up.
    /// Verified tokens are remembered by hash, a bounded number of them; times are checked on every call.
    pub fn verify(&self, token: &str, accepted: &[String]) -> Result<Arc<VerifiedToken>, VerifyError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().get(&hash);
        let known = match known {
            Some(known) => known,
            None => {
                let known = Arc::new(self.verify_claims(token)?);
                self.verified.lock().put(hash, known.clone());
                known
            }
        };
        let now = Timestamp::now().as_second();
        if known.expires.is_some_and(|expires| now - LEEWAY_SECONDS > expires) {
            return Err(VerifyError::Expired);
        }
        if now + LEEWAY_SECONDS < known.not_before {
            return Err(VerifyError::NotYetValid);
        }
        let found = &known.token.audiences;
        if known.token.legacy && found.is_empty() {
            return Ok(Arc::new(VerifiedToken { audiences: accepted.to_vec(), ..(*known.token).clone() }));
        }
        let common: Vec<String> = found.iter().filter(|audience| accepted.contains(audience)).cloned().collect();
        if common.is_empty() {
            return Err(VerifyError::Audience { found: found.clone(), accepted: accepted.to_vec() });
        }
        if common.len() == found.len() {
            return Ok(known.token.clone());
        }
        Ok(Arc::new(VerifiedToken { audiences: common, ..(*known.token).clone() }))
    }

    fn verify_claims(&self, token: &str) -> Result<Known, VerifyError> {
        let parts = split(token).ok_or(VerifyError::NotOurs)?;
        let issuer: Issuer = decode(parts.claims).ok_or(VerifyError::NotOurs)?;
        if !self.is_issuer(&issuer.iss) {
            return Err(VerifyError::NotOurs);
        }
        let header: Header = decode(parts.header).ok_or(VerifyError::NotOurs)?;
        let signature = URL_SAFE_NO_PAD.decode(parts.signature).map_err(|_| VerifyError::Signature)?;
        // Without a key id (tokens of old clusters) every key may have signed.
        let mut candidates = self.accepted.iter().filter(|(id, _)| header.kid.as_ref().is_none_or(|kid| kid.is_empty() || kid == id));
        if !candidates.any(|(_, key)| key.verify_token(&header.alg, parts.signed.as_bytes(), &signature)) {
            return Err(VerifyError::Signature);
        }
        let claims: Claims = decode(parts.claims).ok_or(VerifyError::Claims("malformed claims"))?;
        let known = if issuer.iss == LEGACY_ISSUER { legacy_token(&claims)? } else { bound_token(&claims)? };
        if claims.sub != known.token.user_name() {
            return Err(VerifyError::Claims("the subject is not the service account"));
        }
        Ok(known)
    }

    /// The document of `/.well-known/openid-configuration`. `jwks_uri` defaults to `<issuer>/openid/v1/jwks`.
    pub fn discovery_document(&self, jwks_uri: Option<&str>) -> String {
        let own_uri = format!("{}/openid/v1/jwks", self.issuer().trim_end_matches('/'));
        json!({
            "issuer": self.issuer(),
            "jwks_uri": jwks_uri.unwrap_or(&own_uri),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.key.token_algorithm()],
        })
        .to_string()
    }

    /// The document of `/openid/v1/jwks`.
    pub fn jwks_document(&self) -> String {
        let keys: Vec<_> = self.accepted.iter().filter_map(|(id, key)| json_web_key(id, key)).collect();
        json!({ "keys": keys }).to_string()
    }
}

fn json_web_key(id: &str, key: &PublicKey) -> Option<serde_json::Value> {
    let (oid, curve, bits) = key.parts();
    if oid == OID_RSA {
        let (modulus, exponent) = rsa_parts(&bits)?;
        let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
        return Some(json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e}));
    }
    let (name, algorithm) = match curve?.to_string().as_str() {
        P256 => ("P-256", "ES256"),
        P384 => ("P-384", "ES384"),
        _ => return None,
    };
    // An uncompressed point: 4, then both coordinates in full width.
    let coordinates = bits.strip_prefix(&[4]).filter(|rest| oid == OID_EC_PUBLIC_KEY && rest.len() % 2 == 0)?;
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    Some(json!({"use": "sig", "kty": "EC", "kid": id, "crv": name, "alg": algorithm, "x": x, "y": y}))
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
