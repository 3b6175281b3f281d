//! Protection of classes of volume attributes: a deleted one stays as long as a claim or a volume names it.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, pods};

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "volumeattributesclass-protection-controller", controller: Arc::new(Protection) }
}

struct Protection;

#[async_trait]
impl Controller for Protection {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<VolumeAttributesClass>()),
            Watch::mapped(Selection::of::<PersistentVolumeClaim>(), |context, old, new, add| {
                let of = |entry| naming(entry).and_then(|entry| cache::decode(entry)).map(|claim| of_claim(&claim)).unwrap_or_default();
                freed(context, of(old), &of(new), add);
            }),
            Watch::mapped(Selection::of::<PersistentVolume>(), |context, old, new, add| {
                let of = |entry| naming(entry).and_then(|entry| cache::decode(entry)).map(|volume| of_volume(&volume)).unwrap_or_default();
                freed(context, of(old), &of(new), add);
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(mut class) = context.cache::<VolumeAttributesClass>().read::<VolumeAttributesClass>("", &key.name) else {
            return Ok(Next::Done);
        };
        let finalizers = class.metadata.finalizers.get_or_insert_default();
        if class.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|one| one == FINALIZER) {
            return Ok(Next::Done);
        }
        // The caches may lag behind a claim that was just made: before a class goes the server is asked.
        let claims = context.client.list::<PersistentVolumeClaim>("", "").await?;
        let volumes = context.client.list::<PersistentVolume>("", "").await?;
        let mut names = claims.iter().flat_map(of_claim).chain(volumes.iter().flat_map(of_volume));
        if names.any(|name| *name == *key.name) {
            return Ok(Next::Done);
        }
        finalizers.retain(|one| one != FINALIZER);
        match context.client.update(&class).await {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}

/// An object that names a class, which few do: only these are read.
fn naming(entry: Option<&Arc<store::Entry>>) -> Option<&Arc<store::Entry>> {
    entry.filter(|entry| pods::mentions(entry, "olumeAttributesClassName\""))
}

/// Classes that are no longer named may go.
fn freed(context: &Context, old: Vec<String>, new: &[String], add: &mut dyn FnMut(ObjectKey)) {
    for name in old.into_iter().filter(|name| !new.contains(name)) {
        let class = context.cache::<VolumeAttributesClass>().get("", &name);
        if class.is_some_and(|class| class.header.deletion_timestamp.is_some()) {
            add(ObjectKey::new("", &name));
        }
    }
}

/// The classes that a claim names: the one asked for, the one it has and the one it is on its way to.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [asked, has, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.filter(|name| !name.is_empty()).into_iter().collect()
}
