//! Publishes the cluster's certificate authority as ConfigMap `kube-root-ca.crt` in every namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry};

const NAME: &str = "kube-root-ca.crt";
const NOTE: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The controller.
pub fn controller(config: &Config) -> Entry {
    Entry { account: "root-ca-cert-publisher", controller: Arc::new(RootCa { ca: config.root_ca.clone() }) }
}

struct RootCa {
    ca: String,
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let of_namespace = |entry: &store::Entry| ObjectKey::new("", &entry.header.namespace);
        vec![
            Watch::own(Selection::of::<Namespace>()),
            Watch::mapped(Selection::of::<ConfigMap>().with_fields(format!("metadata.name={NAME}")), move |_, old, new, add| {
                if let Some(entry) = new.or(old) {
                    add(of_namespace(entry));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let namespace = context.cache::<Namespace>().get("", &key.name);
        if namespace.is_none_or(|namespace| namespace.header.deletion_timestamp.is_some()) {
            return Ok(Next::Done);
        }
        let wanted = BTreeMap::from([("ca.crt".to_owned(), self.ca.clone())]);
        let cache = context.cache_of(Selection::of::<ConfigMap>().with_fields(format!("metadata.name={NAME}")));
        match cache.read::<ConfigMap>(&key.name, NAME) {
            Some(old) if old.data.as_ref() == Some(&wanted) => {}
            Some(old) => {
                context.client.update(&ConfigMap { data: Some(wanted), ..old }).await?;
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some(key.name.to_string()),
                    annotations: Some(BTreeMap::from([("kubernetes.io/description".to_owned(), NOTE.to_owned())])),
                    ..ObjectMeta::default()
                };
                match context.client.create(&ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() }).await {
                    // The namespace began to go, or somebody was faster.
                    Err(status) if status.is_already_exists() || status.code == 403 || status.is_not_found() => {}
                    result => drop(result?),
                }
            }
        }
        Ok(Next::Done)
    }
}
