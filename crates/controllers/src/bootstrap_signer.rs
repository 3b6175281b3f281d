//! Bootstrap signer: signs the public `cluster-info` with every bootstrap token, so that a joining node can trust it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::Selection;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use sha2::{Digest, Sha256};

use crate::token_cleaner::{text, tokens};
use crate::{Config, Entry, moment};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const PREFIX: &str = "jws-kubeconfig-";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "bootstrap-signer", controller: Arc::new(BootstrapSigner) }
}

struct BootstrapSigner;

fn cluster_info() -> Selection {
    Selection::of::<ConfigMap>().in_namespace(NAMESPACE).with_fields(format!("metadata.name={NAME}"))
}

#[async_trait]
impl Controller for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(cluster_info()), Watch::mapped(tokens(), |_, _, _, add| add(ObjectKey::new(NAMESPACE, NAME)))]
    }

    async fn reconcile(&self, context: &Context, _: &ObjectKey) -> Result<Next> {
        let Some(mut map) = context.cache_of(cluster_info()).read::<ConfigMap>(NAMESPACE, NAME) else {
            return Ok(Next::Done);
        };
        let data = map.data.clone().unwrap_or_default();
        let Some(content) = data.get(KUBECONFIG) else {
            return Ok(Next::Done);
        };
        let secrets = context.cache_of(tokens()).list();
        let tokens = secrets.iter().filter_map(|entry| cache::decode::<Secret>(entry)).filter_map(|secret| signing_token(&secret));
        let mut wanted: BTreeMap<String, String> =
            data.iter().filter(|(name, _)| !name.starts_with(PREFIX)).map(|(name, value)| (name.clone(), value.clone())).collect();
        for (id, secret) in tokens {
            wanted.insert(format!("{PREFIX}{id}"), sign(content, &id, &secret));
        }
        if wanted != data {
            map.data = Some(wanted);
            context.client.update(&map).await?;
        }
        Ok(Next::Done)
    }
}

/// Id and secret of a token that may sign.
fn signing_token(secret: &Secret) -> Option<(String, String)> {
    let (id, key, expiration) = (text(secret, "token-id"), text(secret, "token-secret"), text(secret, "expiration"));
    let named = secret.metadata.name.as_deref() == Some(&format!("bootstrap-token-{id}"));
    let alive = expiration.is_empty() || moment::parse(&expiration) > moment::seconds();
    (named && alive && !key.is_empty() && text(secret, "usage-bootstrap-signing") == "true").then_some((id, key))
}

/// A detached signature: header, nothing, and the code of both parts by the secret.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let payload = URL_SAFE_NO_PAD.encode(content);
    let code = hmac(secret.as_bytes(), format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(code))
}

/// HMAC with SHA-256 (RFC 2104); keys here are shorter than a block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // RFC 4231, test case 2.
        assert_eq!(hex(hmac(b"Jefe", b"what do ya want for nothing?")), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn signatures_are_detached() {
        let signed = sign("content", "abcdef", "secret");
        let parts: Vec<&str> = signed.split('.').collect();
        assert_eq!((parts.len(), parts[1]), (3, ""));
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[0]).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
    }
}
