//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, so that pods can be told apart and rolled back.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use cache::BY_OWNER;
use client::{DeleteOptions, ResourceId};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use reconcile::Context;
use serde_json::{Value, json};

use crate::pods;

const REVISIONS: ResourceId = ResourceId::new("apps", "v1", "controllerrevisions");
/// Label of pods (and of a DaemonSet's revisions) with their revision.
pub(crate) const HASH: &str = "controller-revision-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whose revisions.
pub(crate) struct Parent<'a> {
    /// Its metadata.
    pub(crate) metadata: &'a ObjectMeta,
    /// The reference that revisions carry.
    pub(crate) owner: OwnerReference,
    /// Its template now.
    pub(crate) template: &'a PodTemplateSpec,
    /// `status.collisionCount`.
    pub(crate) collisions: Option<i32>,
    /// Label of the revision object with the hash.
    pub(crate) label: &'static str,
}

/// The revisions of an owner, oldest first.
pub(crate) fn of(context: &Context, uid: &str) -> Vec<ControllerRevision> {
    let entries = context.cache::<ControllerRevision>().by(&BY_OWNER, uid);
    let mut all: Vec<ControllerRevision> = entries.iter().filter_map(|entry| cache::decode(entry)).collect();
    all.sort_by(|one, two| one.revision.cmp(&two.revision).then_with(|| one.metadata.name.cmp(&two.metadata.name)));
    all
}

/// The data of a revision: what makes the owner's template this one.
pub(crate) fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template of a revision.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?.0.clone();
    let mut template = data.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    // By way of text, for which the reader of templates is in the program anyway; one for trees would be as large again.
    serde_json::from_slice(&serde_json::to_vec(&template).ok()?).ok()
}

/// Whether two templates are the same to the API: both read the same way.
fn same(revision: &ControllerRevision, wanted: &PodTemplateSpec) -> bool {
    template(revision).as_ref() == Some(wanted)
}

/// What happened to the current revision.
pub(crate) enum Ensured {
    /// It is there.
    There(Box<ControllerRevision>),
    /// Its name is taken by another template; the owner must count the collision.
    Collision,
}

/// The revision of the current template, made or moved to the end where needed.
pub(crate) async fn ensure(context: &Context, parent: &Parent<'_>, all: &mut Vec<ControllerRevision>) -> Result<Ensured> {
    let next = all.last().map_or(1, |last| last.revision + 1);
    if let Some(place) = all.iter().rposition(|revision| same(revision, parent.template)) {
        let mut found = all.remove(place);
        if place != all.len() {
            found.revision = next;
            found = context.client.update(&found).await?;
        }
        all.push(found.clone());
        return Ok(Ensured::There(Box::new(found)));
    }
    let hash = pods::template_hash(parent.template, parent.collisions);
    let mut labels = parent.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(parent.label.to_owned(), hash.clone());
    let mut annotations: BTreeMap<String, String> = parent.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let mut name = parent.metadata.name.clone().unwrap_or_default();
    name.truncate(223);
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: parent.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![parent.owner.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data(parent.template))),
        revision: next,
    };
    match context.client.create(&revision).await {
        Ok(made) => {
            all.push(made.clone());
            Ok(Ensured::There(Box::new(made)))
        }
        Err(status) if status.is_already_exists() => {
            let name = revision.metadata.name.as_deref().unwrap_or("");
            let other: ControllerRevision = context.client.get(revision.metadata.namespace.as_deref().unwrap_or(""), name).await?;
            if same(&other, parent.template) {
                bail!("controller revision {name} is not in the cache yet");
            }
            Ok(Ensured::Collision)
        }
        Err(status) => Err(status.into()),
    }
}

/// Removes the oldest revisions that nobody uses, beyond the limit.
pub(crate) async fn truncate(context: &Context, all: &[ControllerRevision], used: &BTreeSet<String>, limit: Option<i32>) -> Result<()> {
    let idle: Vec<&ControllerRevision> =
        all.iter().filter(|revision| !used.contains(revision.metadata.name.as_deref().unwrap_or(""))).collect();
    let surplus = idle.len().saturating_sub(limit.unwrap_or(10).max(0) as usize);
    for revision in idle.into_iter().take(surplus) {
        let (namespace, name) = (revision.metadata.namespace.as_deref().unwrap_or(""), revision.metadata.name.as_deref().unwrap_or(""));
        match context
            .client
            .delete(&REVISIONS, namespace, name, &DeleteOptions::uid(revision.metadata.uid.clone().unwrap_or_default()))
            .await
        {
            Err(status) if !status.is_not_found() => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_come_back() {
        let wanted: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
                .unwrap();
        let revision = ControllerRevision { data: Some(RawExtension(data(&wanted))), ..ControllerRevision::default() };
        assert_eq!(revision.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
        assert!(same(&revision, &wanted));
    }
}
