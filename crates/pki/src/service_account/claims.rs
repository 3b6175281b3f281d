//! The claims of a token as they stand in its JSON, and how they become a verified token.

use super::{BoundObject, Known, VerifiedToken, VerifyError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longer texts are no tokens of ours; checked before anything is decoded.
const LONGEST_TOKEN: usize = 16 * 1024;

pub(super) fn bound_token(claims: &Claims) -> Result<Known, VerifyError> {
    let kubernetes = claims.kubernetes.clone().ok_or(VerifyError::Claims("no kubernetes.io claim"))?;
    let expires = claims.exp.ok_or(VerifyError::Claims("no expiry"))?;
    let moment = |seconds: i64| Timestamp::from_second(seconds).ok();
    let token = VerifiedToken {
        namespace: kubernetes.namespace,
        service_account: kubernetes.service_account.name,
        service_account_uid: kubernetes.service_account.uid,
        audiences: claims.audiences(),
        jti: claims.jti.clone(),
        pod: kubernetes.pod,
        secret: kubernetes.secret,
        node: kubernetes.node,
        issued_at: claims.iat.and_then(moment),
        expires_at: moment(expires),
        warn_after: kubernetes.warn_after.and_then(moment),
        legacy: false,
    };
    let not_before = claims.nbf.unwrap_or(i64::MIN).max(claims.iat.unwrap_or(i64::MIN));
    Ok(Known { token: Arc::new(token), not_before, expires: Some(expires) })
}

pub(super) fn legacy_token(claims: &Claims) -> Result<Known, VerifyError> {
    let need = |value: &Option<String>| value.clone().ok_or(VerifyError::Claims("an incomplete token of a secret"));
    let token = VerifiedToken {
        namespace: need(&claims.legacy.namespace)?,
        service_account: need(&claims.legacy.name)?,
        service_account_uid: need(&claims.legacy.uid)?,
        audiences: claims.audiences(),
        jti: None,
        pod: None,
        secret: Some(BoundObject { name: need(&claims.legacy.secret)?, uid: String::new() }),
        node: None,
        issued_at: None,
        expires_at: None,
        warn_after: None,
        legacy: true,
    };
    Ok(Known { token: Arc::new(token), not_before: claims.nbf.unwrap_or(i64::MIN), expires: claims.exp })
}

pub(super) struct Parts<'a> {
    pub(super) signed: &'a str,
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    pub(super) signature: &'a str,
}

pub(super) fn split(token: &str) -> Option<Parts<'_>> {
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    (!claims.contains('.')).then_some(Parts { signed, header, claims, signature })
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Issuer {
    pub(super) iss: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aud: Option<Audience>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<i64>,
    pub(super) iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<String>,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub(super) kubernetes: Option<KubernetesClaims>,
    #[serde(flatten)]
    pub(super) legacy: LegacyClaims,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    pub(super) sub: String,
}

impl Claims {
    pub(super) fn audiences(&self) -> Vec<String> {
        match &self.aud {
            Some(Audience::Many(audiences)) => audiences.clone(),
            Some(Audience::One(audience)) => vec![audience.clone()],
            None => Vec::new(),
        }
    }
}

/// The standard allows both forms.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    Many(Vec<String>),
    One(String),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KubernetesClaims {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<BoundObject>,
    #[serde(rename = "serviceaccount")]
    pub(super) service_account: BoundObject,
    #[serde(rename = "warnafter", default, skip_serializing_if = "Option::is_none")]
    pub(super) warn_after: Option<i64>,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct LegacyClaims {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default, skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
}
