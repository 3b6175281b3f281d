//! Fills Secrets of the type `kubernetes.io/service-account-token` with a token that does not expire, for whoever cannot
//! ask for one in time; they go with their account. Upstream's controller is named `serviceaccount-token-controller`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use client::{DeleteOptions, ResourceId, Selection};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use pki::{LegacyToken, TokenAuthority};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, ROOT};

const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The controller.
pub fn controller(config: &Config) -> Entry {
    let controller = TokenSecrets { tokens: config.tokens.clone(), ca: config.root_ca.clone() };
    Entry { account: ROOT, controller: Arc::new(controller) }
}

struct TokenSecrets {
    tokens: Option<Arc<TokenAuthority>>,
    ca: String,
}

fn secrets() -> Selection {
    Selection::of::<Secret>().with_fields("type=kubernetes.io/service-account-token")
}

#[async_trait]
impl Controller for TokenSecrets {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(secrets()),
            Watch::mapped(Selection::of::<ServiceAccount>(), |context, old, new, add| {
                // An account that only changes keeps its uid, and with it its tokens.
                if let (Some(entry), None) | (None, Some(entry)) = (old, new) {
                    for secret in context.cache_of(secrets()).list_namespace(&entry.header.namespace) {
                        add(ObjectKey::new(&secret.header.namespace, &secret.header.name));
                    }
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(tokens) = &self.tokens else { return Ok(Next::Done) };
        let Some(mut secret) = context.cache_of(secrets()).read::<Secret>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let annotations = secret.metadata.annotations.get_or_insert_default();
        let (account, uid) = (annotations.get(NAME).cloned().unwrap_or_default(), annotations.get(UID).cloned().unwrap_or_default());
        if secret.metadata.deletion_timestamp.is_some() || account.is_empty() {
            return Ok(Next::Done);
        }
        let owner = match context.cache::<ServiceAccount>().read::<ServiceAccount>(&key.namespace, &account) {
            Some(owner) => Some(owner),
            // The secret may be here before the account is in the cache.
            None => context.client.find::<ServiceAccount>(&key.namespace, &account).await?,
        };
        let owner = owner.map(|owner| owner.metadata.uid.unwrap_or_default()).filter(|owner| uid.is_empty() || *owner == uid);
        let Some(owner) = owner else {
            let options = DeleteOptions::uid(secret.metadata.uid.clone().unwrap_or_default());
            return match context.client.delete(&ResourceId::of::<Secret>(), &key.namespace, &key.name, &options).await {
                Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status.into()),
                _ => Ok(Next::Done),
            };
        };
        annotations.insert(UID.to_owned(), owner.clone());
        let token = LegacyToken {
            namespace: key.namespace.to_string(),
            secret: key.name.to_string(),
            service_account: account,
            service_account_uid: owner,
        };
        let data = secret.data.get_or_insert_default();
        if !fill(data, &self.ca, &token, tokens)? && !uid.is_empty() {
            return Ok(Next::Done);
        }
        match context.client.update(&secret).await {
            Err(status) if status.is_not_found() => Ok(Next::Done),
            result => result.map(|_| Next::Done).map_err(Into::into),
        }
    }
}

/// What is missing or is of another authority; a token that is there stays, whatever it says. Whether anything changed.
fn fill(data: &mut BTreeMap<String, ByteString>, ca: &str, token: &LegacyToken, tokens: &TokenAuthority) -> Result<bool> {
    let there = |data: &BTreeMap<String, ByteString>, name: &str| data.get(name).is_some_and(|value| !value.0.is_empty());
    let mut wanted = Vec::new();
    if !ca.is_empty() && data.get("ca.crt").is_none_or(|old| old.0 != ca.as_bytes()) {
        wanted.push(("ca.crt", ca.to_owned()));
    }
    if !there(data, "namespace") {
        wanted.push(("namespace", token.namespace.clone()));
    }
    if !there(data, "token") {
        wanted.push(("token", tokens.mint_legacy(token).context("sign a token")?));
    }
    let changed = !wanted.is_empty();
    data.extend(wanted.into_iter().map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes()))));
    Ok(changed)
}
