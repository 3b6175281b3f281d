//! Makes the service account `default` in every namespace.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "service-account-controller", controller: Arc::new(ServiceAccounts) }
}

struct ServiceAccounts;

#[async_trait]
impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<Namespace>()),
            Watch::mapped(Selection::of::<ServiceAccount>(), |_, old, new, add| {
                // Only the loss of one is a reason to look.
                if let (Some(old), None) = (old, new) {
                    add(ObjectKey::new("", &old.header.namespace));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let namespace = context.cache::<Namespace>().get("", &key.name);
        let leaving = namespace.is_none_or(|namespace| namespace.header.deletion_timestamp.is_some());
        if leaving || context.cache::<ServiceAccount>().get(&key.name, "default").is_some() {
            return Ok(Next::Done);
        }
        let metadata = ObjectMeta { name: Some("default".into()), namespace: Some(key.name.to_string()), ..ObjectMeta::default() };
        match context.client.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
            Err(status) if status.is_already_exists() || status.code == 403 || status.is_not_found() => {}
            result => drop(result?),
        }
        Ok(Next::Done)
    }
}
