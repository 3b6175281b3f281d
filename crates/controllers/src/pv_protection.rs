//! Protection of volumes: a deleted volume stays as long as it is bound.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::PersistentVolume;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry};

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "pv-protection-controller", controller: Arc::new(Protection) }
}

struct Protection;

#[async_trait]
impl Controller for Protection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<PersistentVolume>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(mut volume) = context.cache::<PersistentVolume>().read::<PersistentVolume>("", &key.name) else {
            return Ok(Next::Done);
        };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let finalizers = volume.metadata.finalizers.get_or_insert_default();
        if volume.metadata.deletion_timestamp.is_none() || bound || !finalizers.iter().any(|one| one == FINALIZER) {
            return Ok(Next::Done);
        }
        finalizers.retain(|one| one != FINALIZER);
        match context.client.update(&volume).await {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}
