//! Job: runs pods until enough of them have succeeded, and counts every pod exactly once.
//!
//! Pods carry a finalizer until they are counted: uids are written to the status first, then the finalizers go, then
//! the uids become totals. So no crash loses or repeats a count.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use cache::{BY_OWNER, Cache, ORPHANS};
use client::{EventKind, PatchKind, PodLite, Selection};
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::json;
use store::Entry as Object;

use crate::job_plan::{self, Backoff, INDEX, JobPod, NewPod, Plan};
use crate::pods::{self, Owned, PODS};
use crate::{Config, Entry, moment};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const MANAGER: &str = "kubernetes.io/job-controller";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "job-controller", controller: Arc::new(Jobs { backoffs: Mutex::default() }) }
}

struct Jobs {
    /// Failures since the last success, by uid; a new process begins without.
    backoffs: Mutex<HashMap<String, Backoff>>,
}

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<Job>(), |context, old, new, add| {
                if let Some(entry) = new.or(old) {
                    add(ObjectKey::of(entry));
                }
                if let (Some(old), None) = (old, new) {
                    context
                        .cache::<Pod>()
                        .by(&BY_OWNER, &old.header.uid)
                        .iter()
                        .filter(|pod| is_tracked(pod))
                        .for_each(|pod| add(orphan_key(pod)));
                }
            }),
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| {
                for pod in [old, new].into_iter().flatten() {
                    let Some(owner) = pod.header.controller().filter(|owner| &*owner.kind == "Job") else {
                        continue;
                    };
                    add(ObjectKey::new(&pod.header.namespace, &owner.name));
                    let job = context.cache::<Job>().get(&pod.header.namespace, &owner.name);
                    if is_tracked(pod) && job.is_none_or(|job| job.header.uid != owner.uid) {
                        add(orphan_key(pod));
                    }
                }
                let Some(pod) = new.filter(|pod| pod.header.controller().is_none()) else {
                    return;
                };
                if is_tracked(pod) {
                    add(orphan_key(pod));
                }
                if !pod.header.labels.is_empty() && pod.header.deletion_timestamp.is_none() {
                    context.cache::<Job>().list_namespace(&pod.header.namespace).iter().for_each(|job| add(ObjectKey::of(job)));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        if let Some(namespace) = key.namespace.strip_prefix('|') {
            return release_orphan(context, namespace, &key.name).await;
        }
        let Some(job) = context.cache::<Job>().read::<Job>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return Ok(Next::Done);
        }
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        if job_plan::find(&status, "Complete").or_else(|| job_plan::find(&status, "Failed")).is_some() {
            self.backoffs.lock().remove(&uid);
            let rest: Vec<Arc<Object>> = context.cache::<Pod>().by(&BY_OWNER, &uid).into_iter().filter(|pod| is_tracked(pod)).collect();
            try_join_all(rest.iter().map(|pod| untrack(context, pod))).await?;
            return Ok(Next::Done);
        }
        let entries = claim(context, &job, &uid).await?;
        let counts_restarts = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        let pods: Vec<JobPod> = entries.iter().map(|entry| view(entry, counts_restarts)).collect();
        let remembered = self.backoffs.lock().get(&uid).copied().unwrap_or_default();
        let plan = job_plan::plan(&job, &pods, &moment::now(), remembered);
        let after = plan.after;
        let fresh = plan.backoff;
        apply(context, job, &entries, plan).await?;
        self.backoffs.lock().insert(uid, fresh);
        Ok(after.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds.max(0) as u64))))
    }
}

fn is_tracked(entry: &Object) -> bool {
    entry.header.finalizers.iter().any(|one| &**one == FINALIZER)
}

fn orphan_key(pod: &Object) -> ObjectKey {
    ObjectKey::new(&format!("|{}", pod.header.namespace), &pod.header.name)
}

/// A pod whose Job is gone or has ended is not tracked any more.
async fn release_orphan(context: &Context, namespace: &str, name: &str) -> Result<Next> {
    let Some(pod) = context.cache::<Pod>().get(namespace, name).filter(|pod| is_tracked(pod)) else {
        return Ok(Next::Done);
    };
    if let Some(owner) = pod.header.controller() {
        if &*owner.kind != "Job" {
            return Ok(Next::Done);
        }
        let job = context.client.find::<Job>(namespace, &owner.name).await?;
        if job.is_some_and(|job| job.metadata.uid.as_deref() == Some(&owner.uid)) {
            return Ok(Next::Done);
        }
    }
    untrack(context, &pod).await?;
    Ok(Next::Done)
}

async fn untrack(context: &Context, pod: &Object) -> Result<()> {
    let patch = json!({"metadata": {"uid": &*pod.header.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    match context.client.patch(&PODS, &pod.header.namespace, &pod.header.name, "", &PatchKind::Strategic, &patch).await {
        Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status.into()),
        _ => Ok(()),
    }
}

/// Pods of the Job; orphans that match are adopted, others that no longer match are given back.
async fn claim(context: &Context, job: &Job, uid: &str) -> Result<Vec<Owned>> {
    let cache: Arc<Cache> = context.cache::<Pod>();
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = LabelSelector::from_value(&serde_json::to_value(selector)?).map_err(anyhow::Error::msg)?;
    let leaving = job.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in pods::owned(&cache, uid) {
        if selector.matches_sorted(&pod.entry.header.labels) {
            mine.push(pod);
        } else if !leaving && !pod.is_leaving() {
            untrack(context, &pod.entry).await?;
            pods::release(&context.client, &PODS, &pod.entry, uid).await?;
        }
    }
    if leaving {
        return Ok(mine);
    }
    let owner = pods::controller_ref("batch/v1", "Job", &job.metadata);
    for entry in cache.by(&ORPHANS, job.metadata.namespace.as_deref().unwrap_or("")) {
        let orphan = entry.header.controller().is_none() && entry.header.deletion_timestamp.is_none();
        let finished = entry.header.project::<PodLite>().is_some_and(PodLite::is_finished);
        if orphan && !finished && selector.matches_sorted(&entry.header.labels) {
            let patch = json!({"metadata": {"ownerReferences": [owner], "uid": &*entry.header.uid, "finalizers": [FINALIZER]}});
            match context.client.patch(&PODS, &entry.header.namespace, &entry.header.name, "", &PatchKind::Strategic, &patch).await {
                Err(status) if !status.is_not_found() && status.code != 422 => return Err(status.into()),
                _ => {}
            }
        }
    }
    Ok(mine)
}

/// What the plan needs of a pod; ended pods that are not counted yet are decoded.
fn view(owned: &Owned, counts_restarts: bool) -> JobPod {
    let header = &owned.entry.header;
    let finalizer = is_tracked(&owned.entry);
    let succeeded = owned.lite.phase == client::Phase::Succeeded;
    let failed = owned.lite.phase == client::Phase::Failed;
    let active = !succeeded && !failed && !owned.is_leaving();
    let label = header.label(INDEX);
    let pod: Option<Pod> =
        if (finalizer && !active) || (counts_restarts && !succeeded && !failed) { cache::decode(&owned.entry) } else { None };
    let annotated = || pod.as_ref().and_then(|pod| pod.metadata.annotations.as_ref()?.get(INDEX).cloned());
    let restarts = pod.as_ref().filter(|_| active).and_then(|pod| pod.status.as_ref()).map_or(0, |status| {
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        all.map(|container| container.restart_count).sum()
    });
    JobPod {
        uid: header.uid.to_string(),
        index: label.map(str::to_owned).or_else(annotated).and_then(|text| text.parse().ok()),
        succeeded,
        failed,
        leaving: owned.is_leaving(),
        ready: owned.lite.ready,
        scheduled: owned.lite.scheduled,
        finalizer,
        restarts,
        pod: pod.map(Box::new),
    }
}

async fn apply(context: &Context, mut job: Job, pods: &[Owned], plan: Plan) -> Result<()> {
    if let Some((reason, message)) = plan.event {
        context.event(&job, EventKind::Normal, reason, message);
    }
    let removed = remove_all(context, &job, plan.delete.iter().map(|place| &pods[*place]).collect()).await;
    let made = make_all(context, &job, &plan.create).await;
    let before = job.status.clone();
    let mut status = plan.status;
    if let Err((missing, _)) = &made {
        status.active = Some(status.active.unwrap_or(0) - missing).filter(|count| *count > 0);
    }
    job = write(context, job, &before, &status).await?;
    removed?;
    made.map_err(|(_, status)| status)?;
    try_join_all(plan.release.iter().map(|place| untrack(context, &pods[*place].entry))).await?;
    let released: BTreeSet<usize> = plan.release.iter().copied().collect();
    let holding = pods.iter().enumerate().filter(|(place, pod)| !released.contains(place) && is_tracked(&pod.entry));
    let holding: BTreeSet<String> = holding.map(|(_, pod)| pod.entry.header.uid.to_string()).collect();
    let before = job.status.clone();
    let mut status = job.status.clone().unwrap_or_default();
    job_plan::settle(&mut status, &holding);
    let ending = plan.ending.filter(|_| job_plan::may_end(&status));
    if let Some(ending) = &ending {
        job_plan::end(&mut status, ending);
    }
    let job = write(context, job, &before, &status).await?;
    match ending {
        Some(ending) if ending.type_ == "Complete" => context.event(&job, EventKind::Normal, "Completed", "Job completed"),
        Some(ending) => context.event(&job, EventKind::Warning, ending.reason.as_deref().unwrap_or(""), ending.message.unwrap_or_default()),
        None => {}
    }
    Ok(())
}

async fn write(context: &Context, job: Job, before: &Option<JobStatus>, status: &JobStatus) -> Result<Job> {
    if before.as_ref() == Some(status) {
        return Ok(job);
    }
    Ok(context.client.update_status(&Job { status: Some(status.clone()), ..job }).await?)
}

async fn remove_all(context: &Context, job: &Job, victims: Vec<&Owned>) -> Result<(), api::Status> {
    let results = join_all(victims.iter().map(|pod| async { (pod.name(), pods::delete(&context.client, pod).await) })).await;
    for (name, result) in results {
        match result {
            Ok(()) => context.event(job, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(status) => {
                context.event(job, EventKind::Warning, "FailedDelete", format!("Error deleting: {status}"));
                return Err(status);
            }
        }
    }
    Ok(())
}

/// Creates pods, twice as many each time. A failure says how many were not made.
async fn make_all(context: &Context, job: &Job, wanted: &[NewPod]) -> Result<(), (i32, api::Status)> {
    let (mut at, mut batch) = (0, 1);
    while at < wanted.len() {
        let end = (at + batch).min(wanted.len());
        let results = join_all(wanted[at..end].iter().map(|new| async { context.client.create(&pod(job, new)).await })).await;
        let mut failure = None;
        let mut made = 0;
        for result in results {
            match result {
                Ok(pod) => {
                    made += 1;
                    context.event(
                        job,
                        EventKind::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {}", pod.metadata.name.unwrap_or_default()),
                    );
                }
                Err(status) => failure = Some(status),
            }
        }
        if let Some(status) = failure {
            if !status.message.contains("is being terminated") {
                context.event(job, EventKind::Warning, "FailedCreate", format!("Error creating: {status}"));
            }
            return Err(((wanted.len() - at) as i32 - made, status));
        }
        at = end;
        batch *= 2;
    }
    Ok(())
}

fn pod(job: &Job, new: &NewPod) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or("");
    let owner = pods::controller_ref("batch/v1", "Job", &job.metadata);
    let mut pod = pods::from_template(&template, job.metadata.namespace.as_deref().unwrap_or(""), name, owner);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|one| one == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let Some(index) = new.index else {
        return pod;
    };
    pod.metadata.annotations.get_or_insert_default().extend(new.annotations.clone());
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let mut prefix = name.to_owned();
    let suffix = format!("-{index}-");
    prefix.truncate(253 - 5 - suffix.len());
    pod.metadata.generate_name = Some(format!("{prefix}{suffix}"));
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let env = index_variable();
        let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for container in containers {
            let variables = container.env.get_or_insert_default();
            if !variables.iter().any(|variable| variable.name == env.name) {
                variables.push(env.clone());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexed_pods_know_their_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "u"},
            "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}},
        }))
        .unwrap();
        let made = pod(&job, &NewPod { index: Some(3), annotations: std::collections::BTreeMap::new() });
        assert_eq!(made.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!(made.metadata.labels.unwrap()[INDEX], "3");
        let spec = made.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
        assert_eq!(made.metadata.finalizers.unwrap(), [FINALIZER]);
    }
}
