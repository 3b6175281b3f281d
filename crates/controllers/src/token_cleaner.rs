//! Token cleaner: removes bootstrap tokens when their time is over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use client::{DeleteOptions, ResourceId, Selection};
use k8s_openapi::api::core::v1::Secret;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, moment};

const SECRETS: ResourceId = ResourceId::new("", "v1", "secrets");

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "token-cleaner", controller: Arc::new(TokenCleaner) }
}

/// Bootstrap tokens.
pub(crate) fn tokens() -> Selection {
    Selection::of::<Secret>().in_namespace("kube-system").with_fields("type=bootstrap.kubernetes.io/token")
}

/// One value of a secret as text, empty if it is not there.
pub(crate) fn text(secret: &Secret, name: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(name));
    value.map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes.0).into_owned())
}

struct TokenCleaner;

#[async_trait]
impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(tokens())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(secret) = context.cache_of(tokens()).read::<Secret>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let expiration = text(&secret, "expiration");
        if expiration.is_empty() {
            return Ok(Next::Done);
        }
        // What is no time is over: a token must not live for ever by a typing error.
        let left = moment::parse(&expiration) - moment::seconds();
        if left > 0 {
            return Ok(Next::After(Duration::from_secs(left as u64)));
        }
        match context.client.delete(&SECRETS, &key.namespace, &key.name, &DeleteOptions::uid(secret.metadata.uid.unwrap_or_default())).await
        {
            Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}
