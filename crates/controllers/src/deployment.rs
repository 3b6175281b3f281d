//! Deployment: moves pods from old ReplicaSets to a new one, at the pace that the strategy allows.
//!
//! Each reconcile reads the sets, plans one step and applies it; progress comes from the events that the step causes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use cache::BY_OWNER;
use client::{DeleteOptions, EventKind, ResourceId, Selection};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::rollout::{self, Scale};
use crate::{Config, Entry, pods};

const SETS: ResourceId = ResourceId::new("apps", "v1", "replicasets");
const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK: &str = "deprecated.deployment.rollback.to";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "deployment-controller", controller: Arc::new(Deployments) }
}

struct Deployments;

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<Deployment>()),
            Watch::owned_by(Selection::of::<ReplicaSet>(), "Deployment"),
            Watch::mapped(Selection::of::<ReplicaSet>(), |context, _, new, add| {
                let Some(set) = new.filter(|set| set.header.controller().is_none()) else {
                    return;
                };
                for deployment in context.cache::<Deployment>().list_namespace(&set.header.namespace) {
                    add(ObjectKey::of(&deployment));
                }
            }),
            // Recreate waits until the last old pod is gone.
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| {
                let (Some(pod), None) = (old, new) else {
                    return;
                };
                let set = pod.header.controller().and_then(|owner| context.cache::<ReplicaSet>().get(&pod.header.namespace, &owner.name));
                if let Some(owner) = set.as_ref().and_then(|set| set.header.controller()) {
                    add(ObjectKey::new(&pod.header.namespace, &owner.name));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(mut deployment) = context.cache::<Deployment>().read::<Deployment>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(spec) = deployment.spec.clone() else {
            return Ok(Next::Done);
        };
        let mut sets = claim(context, &deployment, &spec).await?;
        if deployment.metadata.deletion_timestamp.is_some() {
            return sync_status(context, &deployment, &spec, &sets, None).await;
        }
        sets.sort_by(|one, two| {
            one.metadata.creation_timestamp.cmp(&two.metadata.creation_timestamp).then(one.metadata.name.cmp(&two.metadata.name))
        });
        let paused = spec.paused == Some(true);
        let newest = find_new(&spec, &sets);
        let scaling = is_scaling(&spec, &sets);
        if paused || scaling {
            let (active, _): (Vec<&ReplicaSet>, Vec<&ReplicaSet>) = sets.iter().partition(|set| wanted(set) > 0);
            scale_proportionally(context, &deployment, &spec, newest.as_ref(), &sets, active.len()).await?;
            if paused && newest.is_some() && wanted_total(&sets) == 0 {
                clean_up(context, &deployment, &spec, &sets, newest.as_ref()).await?;
            }
            return sync_status(context, &deployment, &spec, &sets, newest.as_ref()).await;
        }
        let old: Vec<ReplicaSet> =
            sets.iter().filter(|set| newest.as_ref().is_none_or(|newest| newest.metadata.uid != set.metadata.uid)).cloned().collect();
        let recreate = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        if recreate {
            let mut scaled = false;
            for set in old.iter().filter(|set| wanted(set) > 0) {
                scale(context, &deployment, &spec, set, 0).await?;
                scaled = true;
            }
            if scaled || old_pods_left(context, &old) {
                return sync_status(context, &deployment, &spec, &sets, newest.as_ref()).await;
            }
        }
        let newest = ensure_new(context, &mut deployment, &spec, newest, &old).await?;
        let Some(newest) = newest else {
            return Ok(Next::Done);
        };
        let plan = if recreate { rollout::recreate(spec.replicas.unwrap_or(1), wanted(&newest)) } else { rolling(&spec, &newest, &old) };
        let mut acted = false;
        for step in plan {
            let set = step.set.map_or(&newest, |index| &old[index]);
            scale(context, &deployment, &spec, set, step.replicas).await?;
            acted = true;
        }
        if !acted && complete(&deployment, &spec, &newest, &old) {
            clean_up(context, &deployment, &spec, &old, Some(&newest)).await?;
        }
        let mut all = old;
        all.push(newest.clone());
        sync_status(context, &deployment, &spec, &all, Some(&newest)).await
    }
}

fn rolling(spec: &DeploymentSpec, newest: &ReplicaSet, old: &[ReplicaSet]) -> Vec<rollout::Step> {
    let replicas = spec.replicas.unwrap_or(1);
    let (surge, unavailable) = rollout::fenceposts(spec, replicas);
    let scale = |set: &ReplicaSet| Scale {
        wanted: wanted(set),
        exists: status(set, |status| Some(status.replicas)),
        available: status(set, |status| status.available_replicas),
    };
    let old: Vec<Scale> = old.iter().map(scale).collect();
    rollout::rolling(replicas, surge, unavailable, scale(newest), &old)
}

fn status(set: &ReplicaSet, get: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>) -> i32 {
    set.status.as_ref().and_then(get).unwrap_or(0)
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn wanted_total(sets: &[ReplicaSet]) -> i32 {
    sets.iter().map(wanted).sum()
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

async fn claim(context: &Context, deployment: &Deployment, spec: &DeploymentSpec) -> Result<Vec<ReplicaSet>> {
    let cache = context.cache::<ReplicaSet>();
    let uid = deployment.metadata.uid.as_deref().unwrap_or("");
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
    let selector = LabelSelector::from_value(&serde_json::to_value(&spec.selector)?).map_err(anyhow::Error::msg)?;
    let leaving = deployment.metadata.deletion_timestamp.is_some();
    let owner = pods::controller_ref("apps/v1", "Deployment", &deployment.metadata);
    let mut mine = Vec::new();
    for entry in cache.by(&BY_OWNER, uid) {
        if selector.matches_sorted(&entry.header.labels) {
            mine.extend(cache::decode::<ReplicaSet>(&entry));
        } else if !leaving {
            pods::release(&context.client, &SETS, &entry, uid).await?;
        }
    }
    if !leaving {
        for entry in cache.list_namespace(namespace) {
            let orphan = entry.header.controller().is_none() && entry.header.deletion_timestamp.is_none();
            if orphan && selector.matches_sorted(&entry.header.labels) {
                pods::adopt(&context.client, &SETS, &entry, &owner).await?;
                mine.extend(cache::decode::<ReplicaSet>(&entry));
            }
        }
    }
    Ok(mine)
}

/// Templates are compared as stored, both defaulted by the same rules; only the hash label is ours.
fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(HASH);
    }
    template
}

/// The set with the deployment's template; the oldest where several have it.
fn find_new(spec: &DeploymentSpec, sets: &[ReplicaSet]) -> Option<ReplicaSet> {
    let target = without_hash(&spec.template);
    let same = |set: &&ReplicaSet| {
        set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|template| without_hash(template) == target)
    };
    sets.iter().find(same).cloned()
}

/// Only the number changed since the sets were last scaled.
fn is_scaling(spec: &DeploymentSpec, sets: &[ReplicaSet]) -> bool {
    let replicas = spec.replicas.unwrap_or(1);
    let desired = |set: &ReplicaSet| annotation(&set.metadata, DESIRED).and_then(|desired| desired.parse::<i32>().ok());
    sets.iter().filter(|set| wanted(set) > 0).any(|set| desired(set).is_some_and(|desired| desired != replicas))
}

async fn scale_proportionally(
    context: &Context,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    newest: Option<&ReplicaSet>,
    sets: &[ReplicaSet],
    active: usize,
) -> Result<()> {
    let replicas = spec.replicas.unwrap_or(1);
    let only = match active {
        0 => newest.or_else(|| sets.iter().max_by_key(|set| revision(set))),
        1 => sets.iter().find(|set| wanted(set) > 0),
        _ => None,
    };
    if let Some(set) = only {
        if wanted(set) != replicas {
            scale(context, deployment, spec, set, replicas).await?;
        }
        return Ok(());
    }
    let saturated = newest.filter(|set| wanted(set) == replicas && status(set, |status| status.available_replicas) == replicas);
    if let Some(newest) = saturated {
        for set in sets.iter().filter(|set| wanted(set) > 0 && set.metadata.uid != newest.metadata.uid) {
            scale(context, deployment, spec, set, 0).await?;
        }
        return Ok(());
    }
    let (surge, _) = rollout::fenceposts(spec, replicas);
    let recreate = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    let allowed = if replicas > 0 && !recreate { replicas + surge } else { replicas };
    let shares: Vec<rollout::Share> = sets
        .iter()
        .map(|set| rollout::Share {
            wanted: wanted(set),
            maximum: annotation(&set.metadata, MAXIMUM).and_then(|maximum| maximum.parse().ok()).unwrap_or(replicas),
            created: set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        })
        .collect();
    for (set, share) in sets.iter().zip(rollout::proportions(&shares, allowed)) {
        if wanted(set) > 0 && (share != wanted(set) || annotation(&set.metadata, DESIRED) != Some(&replicas.to_string())) {
            scale(context, deployment, spec, set, share).await?;
        }
    }
    Ok(())
}

fn old_pods_left(context: &Context, old: &[ReplicaSet]) -> bool {
    let cache = context.cache::<Pod>();
    old.iter().any(|set| pods::owned(&cache, set.metadata.uid.as_deref().unwrap_or("")).iter().any(|pod| !pod.lite.is_finished()))
}

/// Sets how many pods a set has, with the annotations that later scaling reads.
async fn scale(context: &Context, deployment: &Deployment, spec: &DeploymentSpec, set: &ReplicaSet, replicas: i32) -> Result<()> {
    let before = wanted(set);
    let mut changed = set.clone();
    let total = spec.replicas.unwrap_or(1);
    let (surge, _) = rollout::fenceposts(spec, total);
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.into(), total.to_string());
    annotations.insert(MAXIMUM.into(), (total + surge).to_string());
    if let Some(spec) = &mut changed.spec {
        spec.replicas = Some(replicas);
    }
    context.client.update(&changed).await?;
    if before != replicas {
        let direction = if replicas > before { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or("");
        context.event(
            deployment,
            EventKind::Normal,
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {name} from {before} to {replicas}"),
        );
    }
    Ok(())
}

/// The set of the current template with its revision, made if there is none. `None` when another round must come first.
async fn ensure_new(
    context: &Context,
    deployment: &mut Deployment,
    spec: &DeploymentSpec,
    newest: Option<ReplicaSet>,
    old: &[ReplicaSet],
) -> Result<Option<ReplicaSet>> {
    let highest = old.iter().map(revision).max().unwrap_or(0);
    if let Some(mut set) = newest {
        let next = revision(&set).max(highest + 1);
        let next = if revision(&set) > highest { revision(&set) } else { next };
        let changed = carry_annotations(deployment, &mut set, next)
            | (set.spec.as_ref().and_then(|spec| spec.min_ready_seconds) != spec.min_ready_seconds);
        if changed {
            if let Some(own) = &mut set.spec {
                own.min_ready_seconds = spec.min_ready_seconds;
            }
            set = context.client.update(&set).await?;
        }
        note_revision(context, deployment, next).await?;
        return Ok(Some(set));
    }
    let hash = pods::template_hash(&spec.template, deployment.status.as_ref().and_then(|status| status.collision_count));
    let mut template = spec.template.clone();
    template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    let replicas = spec.replicas.unwrap_or(1);
    let (surge, _) = rollout::fenceposts(spec, replicas);
    let recreate = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    let room = (replicas + surge - wanted_total(old)).max(0).min(replicas);
    let first = if recreate { replicas } else { room };
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or(""))),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![pods::controller_ref("apps/v1", "Deployment", &deployment.metadata)]),
            annotations: Some(BTreeMap::from([
                (DESIRED.to_owned(), replicas.to_string()),
                (MAXIMUM.to_owned(), (replicas + surge).to_string()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec { replicas: Some(first), min_ready_seconds: spec.min_ready_seconds, selector, template: Some(template) }),
        status: None,
    };
    carry_annotations(deployment, &mut set, highest + 1);
    match context.client.create(&set).await {
        Ok(made) => {
            let name = made.metadata.name.clone().unwrap_or_default();
            if first > 0 {
                context.event(
                    deployment,
                    EventKind::Normal,
                    "ScalingReplicaSet",
                    format!("Scaled up replica set {name} from 0 to {first}"),
                );
            }
            note_revision(context, deployment, highest + 1).await?;
            Ok(Some(made))
        }
        Err(status) if status.is_already_exists() => {
            collide(context, deployment, &set).await?;
            Ok(None)
        }
        Err(status) if status.message.contains("is being terminated") => Ok(None),
        Err(status) => {
            let text = format!("Failed to create new replica set {:?}: {status}", set.metadata.name.unwrap_or_default());
            context.event(deployment, EventKind::Warning, "FailedCreate", text);
            Err(status.into())
        }
    }
}

/// Another set has the name: it is ours and the cache lags, or the hash collides and is salted anew.
async fn collide(context: &Context, deployment: &Deployment, set: &ReplicaSet) -> Result<()> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or("");
    let other: ReplicaSet = context.client.get(namespace, set.metadata.name.as_deref().unwrap_or("")).await?;
    let ours = other
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == deployment.metadata.uid.as_ref());
    let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(without_hash);
    if ours && template(&other) == template(set) {
        anyhow::bail!("replica set {} is not in the cache yet", set.metadata.name.as_deref().unwrap_or(""));
    }
    let mut changed = deployment.clone();
    let status = changed.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    context.client.update_status(&changed).await.context("count the collision of template hashes")?;
    Ok(())
}

/// The set carries the deployment's annotations (not those of kubectl and of ours) and its revision.
fn carry_annotations(deployment: &Deployment, set: &mut ReplicaSet, next: i64) -> bool {
    let before = set.metadata.annotations.clone();
    let old_revision = revision(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if ![LAST_APPLIED, REVISION, HISTORY, DESIRED, MAXIMUM, ROLLBACK].contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if next > old_revision {
        annotations.insert(REVISION.into(), next.to_string());
        if old_revision > 0 {
            let history = annotations.get(HISTORY).cloned().unwrap_or_default();
            let history = if history.is_empty() { old_revision.to_string() } else { format!("{history},{old_revision}") };
            annotations.insert(HISTORY.into(), history);
        }
    }
    set.metadata.annotations != before
}

async fn note_revision(context: &Context, deployment: &mut Deployment, revision: i64) -> Result<()> {
    if annotation(&deployment.metadata, REVISION) == Some(&revision.to_string()) {
        return Ok(());
    }
    deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.to_string());
    *deployment = context.client.update(deployment).await?;
    Ok(())
}

fn complete(deployment: &Deployment, spec: &DeploymentSpec, newest: &ReplicaSet, old: &[ReplicaSet]) -> bool {
    let replicas = spec.replicas.unwrap_or(1);
    let _ = deployment;
    status(newest, |status| Some(status.replicas)) == replicas
        && status(newest, |status| status.available_replicas) == replicas
        && old.iter().all(|set| status(set, |status| Some(status.replicas)) == 0 && wanted(set) == 0)
}

/// Old sets beyond the history limit go, oldest revision first.
async fn clean_up(
    context: &Context,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &[ReplicaSet],
    newest: Option<&ReplicaSet>,
) -> Result<()> {
    let _ = deployment;
    let keep = spec.revision_history_limit.unwrap_or(10).max(0) as usize;
    let mut idle: Vec<&ReplicaSet> = old
        .iter()
        .filter(|set| newest.is_none_or(|newest| newest.metadata.uid != set.metadata.uid))
        .filter(|set| wanted(set) == 0 && status(set, |status| Some(status.replicas)) == 0 && set.metadata.deletion_timestamp.is_none())
        .collect();
    idle.sort_by_key(|set| revision(set));
    let surplus = idle.len().saturating_sub(keep);
    for set in idle.into_iter().take(surplus) {
        let (namespace, name) = (set.metadata.namespace.as_deref().unwrap_or(""), set.metadata.name.as_deref().unwrap_or(""));
        let options = DeleteOptions::uid(set.metadata.uid.clone().unwrap_or_default());
        match context.client.delete(&SETS, namespace, name, &options).await {
            Err(status) if !status.is_not_found() => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn sync_status(
    context: &Context,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &[ReplicaSet],
    newest: Option<&ReplicaSet>,
) -> Result<Next> {
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    let old = deployment.status.clone().unwrap_or_default();
    let sum =
        |get: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| -> i32 { sets.iter().map(|set| status(set, get)).sum() };
    let total = sum(|status| Some(status.replicas));
    let available = sum(|status| status.available_replicas);
    let updated = newest.map_or(0, |set| status(set, |status| Some(status.replicas)));
    let replicas = spec.replicas.unwrap_or(1);
    let some = |count: i32| (count > 0).then_some(count);
    let mut fresh = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|status| status.ready_replicas)),
        available_replicas: some(available),
        unavailable_replicas: some((wanted_total(sets) - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas)),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let (_, unavailable) = rollout::fenceposts(spec, replicas);
    let conditions = fresh.conditions.get_or_insert_default();
    if available >= replicas - unavailable {
        set_condition(conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now);
    } else {
        set_condition(
            conditions,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            now,
        );
    }
    let failure = newest
        .and_then(|set| set.status.as_ref())
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "ReplicaFailure"));
    match failure {
        Some(failure) => set_condition(
            conditions,
            "ReplicaFailure",
            &failure.status,
            failure.reason.as_deref().unwrap_or(""),
            failure.message.as_deref().unwrap_or(""),
            now,
        ),
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    let next = progress(conditions, deployment, spec, &old, (total, updated, available, replicas), newest, now);
    if deployment.status.as_ref() != Some(&fresh) {
        let changed = Deployment { status: Some(fresh), ..deployment.clone() };
        context.client.update_status(&changed).await?;
    }
    Ok(next)
}

/// Condition Progressing: complete, moving, or stuck for longer than the deadline.
fn progress(
    conditions: &mut Vec<DeploymentCondition>,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &DeploymentStatus,
    (total, updated, available, replicas): (i32, i32, i32, i32),
    newest: Option<&ReplicaSet>,
    now: Timestamp,
) -> Next {
    let Some(deadline) = spec.progress_deadline_seconds.filter(|deadline| *deadline < i32::MAX) else {
        conditions.retain(|condition| condition.type_ != "Progressing");
        return Next::Done;
    };
    if spec.paused == Some(true) {
        set_condition(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        return Next::Done;
    }
    let what = match newest.and_then(|set| set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or("")),
    };
    let known = conditions.iter().find(|condition| condition.type_ == "Progressing").cloned();
    if updated == replicas && total == replicas && available == replicas && newest.is_some() {
        let kept =
            known.as_ref().filter(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable") && condition.status == "True");
        if kept.is_none_or(|kept| kept.message.as_deref() != Some(&format!("{what} has successfully progressed."))) {
            set_condition(
                conditions,
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                &format!("{what} has successfully progressed."),
                now,
            );
        }
        return Next::Done;
    }
    let old_count = |value: Option<i32>| value.unwrap_or(0);
    let moved = updated > old_count(old.updated_replicas)
        || (total - updated) < (old_count(old.replicas) - old_count(old.updated_replicas))
        || available > old_count(old.available_replicas);
    let restarted = known.as_ref().is_none_or(|condition| {
        condition.reason.as_deref() == Some("NewReplicaSetAvailable") || condition.reason.as_deref() == Some("DeploymentPaused")
    });
    if moved || restarted {
        set_condition(conditions, "Progressing", "True", "ReplicaSetUpdated", &format!("{what} is progressing."), now);
        if let Some(condition) = conditions.iter_mut().find(|condition| condition.type_ == "Progressing") {
            condition.last_update_time = Some(Time(now));
        }
        return Next::After(Duration::from_secs(deadline.max(1) as u64 + 1));
    }
    let since = known.and_then(|condition| condition.last_update_time).map_or(now, |time| time.0);
    let left = since.as_second() + i64::from(deadline) - now.as_second();
    if left > 0 {
        return Next::After(Duration::from_secs(left as u64 + 1));
    }
    set_condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", &format!("{what} has timed out progressing."), now);
    Next::Done
}

fn set_condition(conditions: &mut Vec<DeploymentCondition>, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let before = old.map(|index| conditions[index].clone());
    if before.as_ref().is_some_and(|old| old.status == status && old.reason.as_deref() == Some(reason)) && kind != "Progressing" {
        return;
    }
    let since = before.as_ref().filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    let updated = before
        .as_ref()
        .filter(|old| old.status == status && old.reason.as_deref() == Some(reason))
        .and_then(|old| old.last_update_time.clone());
    let fresh = DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.or(Some(Time(now))),
        last_update_time: updated.or(Some(Time(now))),
    };
    match old {
        Some(index) => conditions[index] = fresh,
        None => conditions.push(fresh),
    }
}
