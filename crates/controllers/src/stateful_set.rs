//! StatefulSet: pods with names, volumes and an order of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use cache::ORPHANS;
use client::{EventKind, Selection};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::pods::{self, Owned};
use crate::revisions::{self, Ensured, HASH, Parent};
use crate::stateful_plan::{self, Slot, Step, Wish};
use crate::{Config, Entry, moment, rollout};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label of revisions with their hash.
const REVISION_HASH: &str = "controller.kubernetes.io/hash";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "statefulset-controller", controller: Arc::new(StatefulSets) }
}

struct StatefulSets;

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<StatefulSet>()),
            Watch::owned_by(Selection::of::<Pod>(), "StatefulSet"),
            Watch::mapped(Selection::of::<Pod>(), |context, _, new, add| {
                let Some(pod) = new.filter(|pod| pod.header.controller().is_none() && !pod.header.labels.is_empty()) else {
                    return;
                };
                for set in context.cache::<StatefulSet>().list_namespace(&pod.header.namespace) {
                    if ordinal(&set.header.name, &pod.header.name).is_some() {
                        add(ObjectKey::of(&set));
                    }
                }
            }),
            Watch::read(Selection::of::<ControllerRevision>()),
            Watch::read(Selection::of::<PersistentVolumeClaim>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(set) = context.cache::<StatefulSet>().read::<StatefulSet>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(spec) = set.spec.clone() else {
            return Ok(Next::Done);
        };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let owner = pods::controller_ref("apps/v1", "StatefulSet", &set.metadata);
        let old = set.status.clone().unwrap_or_default();
        let mut history = revisions::of(context, &uid);
        let parent = Parent {
            metadata: &set.metadata,
            owner: owner.clone(),
            template: &spec.template,
            collisions: old.collision_count,
            label: REVISION_HASH,
        };
        let update = match (set.metadata.deletion_timestamp.is_some(), history.last()) {
            (true, Some(last)) => last.clone(),
            (true, None) => return Ok(Next::Done),
            (false, _) => match revisions::ensure(context, &parent, &mut history).await? {
                Ensured::There(revision) => *revision,
                Ensured::Collision => {
                    let status = StatefulSetStatus { collision_count: Some(old.collision_count.unwrap_or(0) + 1), ..old };
                    context.client.update_status(&StatefulSet { status: Some(status), ..set }).await?;
                    return Ok(Next::Done);
                }
            },
        };
        let current = history
            .iter()
            .find(|revision| revision.metadata.name == old.current_revision && old.current_revision.is_some())
            .unwrap_or(&update)
            .clone();
        let selector = LabelSelector::from_value(&serde_json::to_value(&spec.selector)?).map_err(anyhow::Error::msg)?;
        let owned = claim(context, &set, &selector, &owner).await?;
        let min_ready = i64::from(spec.min_ready_seconds.unwrap_or(0));
        let slots = slots(&set, &owned, min_ready);
        let wish = wish(&set, &spec, &current, &update);
        let steps = stateful_plan::plan(&slots, &wish);
        let mut counts = stateful_plan::count(&slots, &wish);
        let round = Round { context, set: &set, spec: &spec, owned: &owned, templates: [&current, &update], owner: &owner };
        let mut result = round.keep_claims(&slots, &wish).await;
        for step in steps {
            if result.is_err() {
                break;
            }
            result = round.take(&step).await;
            if let (Step::Create(_, revision), true) = (&step, result.is_ok()) {
                counts.replicas += 1;
                counts.current += i32::from(*revision == wish.current);
                counts.updated += i32::from(*revision == wish.update);
            }
        }
        let mut status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: counts.replicas,
            ready_replicas: some(counts.ready),
            available_replicas: Some(counts.available),
            current_replicas: some(counts.current),
            updated_replicas: some(counts.updated),
            current_revision: Some(wish.current.clone()),
            update_revision: Some(wish.update.clone()),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions.clone(),
        };
        if wish.partition.is_some()
            && counts.updated == wish.replicas
            && counts.ready == wish.replicas
            && counts.replicas == wish.replicas
            && wish.current != wish.update
        {
            status.current_replicas = some(counts.updated);
            status.current_revision = Some(wish.update.clone());
        }
        if set.status.as_ref() != Some(&status) {
            context.client.update_status(&StatefulSet { status: Some(status), ..set.clone() }).await?;
        }
        result?;
        let mut used: BTreeSet<String> = owned.iter().filter_map(|pod| pod.entry.header.label(HASH).map(str::to_owned)).collect();
        used.extend([wish.current, wish.update]);
        revisions::truncate(context, &history, &used, spec.revision_history_limit).await?;
        let waits = min_ready > 0 && counts.available != counts.ready;
        Ok(if waits { Next::After(Duration::from_secs(min_ready as u64)) } else { Next::Done })
    }
}

fn some(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

/// The ordinal of a pod by its name.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let rest = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number = rest.parse().ok()?;
    (format!("{number}") == rest).then_some(number)
}

/// Pods of the set; orphans are adopted only if they have one of its names.
async fn claim(context: &Context, set: &StatefulSet, selector: &LabelSelector, owner: &OwnerReference) -> Result<Vec<Owned>> {
    let cache = context.cache::<Pod>();
    let leaving = set.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in pods::owned(&cache, &owner.uid) {
        if ordinal(&owner.name, pod.name()).is_some() && selector.matches_sorted(&pod.entry.header.labels) {
            mine.push(pod);
        } else if !leaving && !pod.is_leaving() {
            pods::release(&context.client, &pods::PODS, &pod.entry, &owner.uid).await?;
        }
    }
    if leaving {
        return Ok(mine);
    }
    for entry in cache.by(&ORPHANS, set.metadata.namespace.as_deref().unwrap_or("")) {
        let orphan = entry.header.controller().is_none() && entry.header.deletion_timestamp.is_none();
        if orphan && ordinal(&owner.name, &entry.header.name).is_some() && selector.matches_sorted(&entry.header.labels) {
            pods::adopt(&context.client, &pods::PODS, &entry, owner).await?;
            mine.extend(pods::lite(entry));
        }
    }
    Ok(mine)
}

fn slots(set: &StatefulSet, owned: &[Owned], min_ready: i64) -> Vec<Slot> {
    let name = set.metadata.name.as_deref().unwrap_or("");
    let now = moment::seconds();
    let slot = |pod: &Owned| {
        let ready = pod.lite.ready && pod.lite.phase == client::Phase::Running;
        Some(Slot {
            ordinal: ordinal(name, pod.name())?,
            revision: pod.entry.header.label(HASH).unwrap_or("").to_owned(),
            ready,
            available: ready && pod.is_available(min_ready, now),
            leaving: pod.is_leaving(),
            ended: pod.lite.is_finished(),
        })
    };
    owned.iter().filter_map(slot).collect()
}

fn wish(set: &StatefulSet, spec: &StatefulSetSpec, current: &ControllerRevision, update: &ControllerRevision) -> Wish {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let max_unavailable = rolling.max_unavailable.as_ref().map_or(1, |value| rollout::resolve(Some(value), replicas, false).max(1));
    Wish {
        start: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
        replicas,
        parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
        partition: (strategy.type_.as_deref() != Some("OnDelete")).then(|| rolling.partition.unwrap_or(0).min(replicas)),
        max_unavailable,
        current: current.metadata.name.clone().unwrap_or_default(),
        update: update.metadata.name.clone().unwrap_or_default(),
        leaving: set.metadata.deletion_timestamp.is_some(),
    }
}

/// One round of changes.
struct Round<'a> {
    context: &'a Context,
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    owned: &'a [Owned],
    templates: [&'a ControllerRevision; 2],
    owner: &'a OwnerReference,
}

impl Round<'_> {
    fn pod_name(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.owner.name)
    }

    fn find(&self, ordinal: i32) -> Option<&Owned> {
        let name = self.pod_name(ordinal);
        self.owned.iter().find(|pod| pod.name() == name)
    }

    async fn take(&self, step: &Step) -> Result<()> {
        let name = &self.owner.name;
        match step {
            Step::Create(ordinal, revision) => {
                self.ensure_claims(*ordinal).await?;
                let pod = self.pod(*ordinal, revision);
                let pod_name = pod.metadata.name.clone().unwrap_or_default();
                match self.context.client.create(&pod).await {
                    Ok(_) => {
                        self.tell(EventKind::Normal, "SuccessfulCreate", format!("create Pod {pod_name} in StatefulSet {name} successful"))
                    }
                    Err(status) if status.message.contains("is being terminated") && status.code == 403 => {}
                    Err(status) => {
                        self.tell(
                            EventKind::Warning,
                            "FailedCreate",
                            format!("create Pod {pod_name} in StatefulSet {name} failed error: {status}"),
                        );
                        return Err(status.into());
                    }
                }
            }
            Step::Delete(ordinal) | Step::Condemn(ordinal) => {
                let Some(pod) = self.find(*ordinal) else {
                    return Ok(());
                };
                match pods::delete(&self.context.client, pod).await {
                    Ok(()) => self.tell(
                        EventKind::Normal,
                        "SuccessfulDelete",
                        format!("delete Pod {} in StatefulSet {name} successful", pod.name()),
                    ),
                    Err(status) => {
                        self.tell(
                            EventKind::Warning,
                            "FailedDelete",
                            format!("delete Pod {} in StatefulSet {name} failed error: {status}", pod.name()),
                        );
                        return Err(status.into());
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&self, kind: EventKind, reason: &str, message: String) {
        self.context.event(self.set, kind, reason, message);
    }

    fn pod(&self, ordinal: i32, revision: &str) -> Pod {
        let stored =
            self.templates.iter().find(|one| one.metadata.name.as_deref() == Some(revision)).and_then(|one| revisions::template(one));
        let template: PodTemplateSpec = stored.unwrap_or_else(|| self.spec.template.clone());
        let name = self.pod_name(ordinal);
        let mut pod =
            pods::from_template(&template, self.set.metadata.namespace.as_deref().unwrap_or(""), &self.owner.name, self.owner.clone());
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), ordinal.to_string());
        labels.insert(HASH.into(), revision.to_owned());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name);
        spec.subdomain = self.spec.service_name.clone().filter(|name| !name.is_empty());
        let claims = self.claims(ordinal);
        let volumes = spec.volumes.get_or_insert_default();
        for (volume, claim) in &claims {
            volumes.retain(|one| one.name != *volume);
            let source = PersistentVolumeClaimVolumeSource { claim_name: claim.metadata.name.clone().unwrap_or_default(), read_only: None };
            volumes.push(Volume { name: volume.clone(), persistent_volume_claim: Some(source), ..Volume::default() });
        }
        if volumes.is_empty() {
            spec.volumes = None;
        }
        pod
    }

    /// The claims of an ordinal, by the name of their volume.
    fn claims(&self, ordinal: i32) -> BTreeMap<String, PersistentVolumeClaim> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        let claim = |template: &PersistentVolumeClaim| {
            let volume = template.metadata.name.clone().unwrap_or_default();
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("{volume}-{}", self.pod_name(ordinal)));
            claim.metadata.namespace = self.set.metadata.namespace.clone();
            claim.metadata.labels.get_or_insert_default().extend(self.spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            if self.retains("whenDeleted") {
                (volume, claim)
            } else {
                claim.metadata.owner_references = Some(vec![self.set_owner()]);
                (volume, claim)
            }
        };
        templates.map(claim).collect()
    }

    fn retains(&self, when: &str) -> bool {
        let policy = self.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
        let value = if when == "whenDeleted" { policy.when_deleted } else { policy.when_scaled };
        value.as_deref() != Some("Delete")
    }

    fn set_owner(&self) -> OwnerReference {
        self.owner.clone()
    }

    async fn ensure_claims(&self, ordinal: i32) -> Result<()> {
        let cache = self.context.cache::<PersistentVolumeClaim>();
        for claim in self.claims(ordinal).into_values() {
            let (namespace, name) = (claim.metadata.namespace.as_deref().unwrap_or(""), claim.metadata.name.clone().unwrap_or_default());
            match cache.get(namespace, &name) {
                Some(found) if found.header.deletion_timestamp.is_some() => bail!("pvc {name} is being deleted"),
                Some(_) => continue,
                None => {}
            }
            let (pod, set) = (self.pod_name(ordinal), &self.owner.name);
            match self.context.client.create(&claim).await {
                Ok(_) => {
                    self.tell(EventKind::Normal, "SuccessfulCreate", format!("create Claim {name} Pod {pod} in StatefulSet {set} success"))
                }
                Err(status) if status.is_already_exists() => {}
                Err(status) => {
                    self.tell(
                        EventKind::Warning,
                        "FailedCreate",
                        format!("create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {status}"),
                    );
                    return Err(status.into());
                }
            }
        }
        Ok(())
    }

    /// Claims belong to whoever takes them along: the set, or a pod that is too many.
    async fn keep_claims(&self, slots: &[Slot], wish: &Wish) -> Result<()> {
        if self.spec.volume_claim_templates.iter().flatten().next().is_none()
            || (self.retains("whenDeleted") && self.retains("whenScaled") && !self.was_taken_along())
        {
            return Ok(());
        }
        let cache = self.context.cache::<PersistentVolumeClaim>();
        for slot in slots {
            let condemned = !(wish.start..wish.start + wish.replicas).contains(&slot.ordinal);
            for claim in self.claims(slot.ordinal).into_values() {
                let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
                let Some(mut found) = cache.read::<PersistentVolumeClaim>(namespace, claim.metadata.name.as_deref().unwrap_or("")) else {
                    continue;
                };
                let before = found.metadata.owner_references.clone().unwrap_or_default();
                let pod = self.find(slot.ordinal);
                let wanted = self.owners_of_claim(&before, condemned, pod);
                if wanted != before && found.metadata.deletion_timestamp.is_none() {
                    found.metadata.owner_references = Some(wanted);
                    self.context.client.update(&found).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether claims may still carry an owner of an earlier policy.
    fn was_taken_along(&self) -> bool {
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or("");
        let entries = self.context.cache::<PersistentVolumeClaim>().list_namespace(namespace);
        entries.iter().any(|entry| entry.header.owners.iter().any(|owner| *owner.uid == *self.owner.uid))
    }

    fn owners_of_claim(&self, before: &[OwnerReference], condemned: bool, pod: Option<&Owned>) -> Vec<OwnerReference> {
        let pod_uid = pod.map(|pod| pod.entry.header.uid.to_string()).unwrap_or_default();
        let mut owners: Vec<OwnerReference> =
            before.iter().filter(|owner| owner.uid != self.owner.uid && owner.uid != pod_uid).cloned().collect();
        let with_pod = condemned && !self.retains("whenScaled");
        if with_pod {
            if let Some(pod) = pod {
                owners.push(OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: pod.name().to_owned(),
                    uid: pod_uid,
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                });
            }
        } else if !self.retains("whenDeleted") {
            owners.push(self.set_owner());
        }
        owners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_ordinals() {
        for (pod, wanted) in [("web-0", Some(0)), ("web-12", Some(12)), ("web-01", None), ("web-a", None), ("webs-1", None), ("web", None)]
        {
            assert_eq!(ordinal("web", pod), wanted, "{pod}");
        }
    }
}
