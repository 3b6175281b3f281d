//! Disruption budgets: how many pods may be evicted now. The eviction subresource spends what this controller allows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::{EventKind, Selection};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::Value;
use store::Revision;

use crate::discovery;
use crate::pods::{self, Owned};
use crate::{Config, Entry, moment, rollout};

/// How long an eviction may take until its pod counts again.
const DELETION_TIMEOUT: i64 = 120;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "disruption-controller", controller: Arc::new(Disruption::default()) }
}

#[derive(Default)]
struct Disruption {
    selectors: Arc<Mutex<Selectors>>,
}

/// Selectors of budgets by key, compiled once a version: every change of a pod asks all budgets of its namespace.
type Selectors = HashMap<Arc<str>, (Revision, Option<LabelSelector>)>;

/// Whether a budget is about one of these versions of a pod.
fn selects(selectors: &mut Selectors, budget: &store::Entry, versions: [Option<&Arc<store::Entry>>; 2]) -> bool {
    if selectors.get(&budget.key.rest).is_none_or(|(revision, _)| *revision != budget.revision) {
        let selector = cache::decode::<PodDisruptionBudget>(budget).and_then(|budget| selector(&budget));
        selectors.insert(budget.key.rest.clone(), (budget.revision, selector));
    }
    let selector = selectors.get(&budget.key.rest).and_then(|(_, selector)| selector.as_ref());
    selector.is_some_and(|selector| versions.into_iter().flatten().any(|pod| selector.matches_sorted(&pod.header.labels)))
}

#[async_trait]
impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let (kept, forgotten) = (self.selectors.clone(), self.selectors.clone());
        vec![
            Watch::mapped(Selection::of::<PodDisruptionBudget>(), move |_, old, new, add| {
                if let (Some(old), None) = (old, new) {
                    forgotten.lock().remove(&old.key.rest);
                }
                if let Some(entry) = new.or(old) {
                    add(ObjectKey::of(entry));
                }
            }),
            Watch::mapped(Selection::of::<Pod>(), move |context, old, new, add| {
                let Some(pod) = new.or(old) else {
                    return;
                };
                for budget in context.cache::<PodDisruptionBudget>().list_namespace(&pod.header.namespace) {
                    if selects(&mut kept.lock(), &budget, [old, new]) {
                        add(ObjectKey::of(&budget));
                    }
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(budget) = context.cache::<PodDisruptionBudget>().read::<PodDisruptionBudget>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let selector = selector(&budget).unwrap_or_else(LabelSelector::nothing);
        let entries = context.cache::<Pod>().list_namespace(&key.namespace);
        let pods: Vec<Owned> =
            entries.into_iter().filter(|entry| selector.matches_sorted(&entry.header.labels)).filter_map(pods::lite).collect();
        let alive: Vec<Owned> = pods.iter().filter(|pod| !pod.lite.is_finished()).cloned().collect();
        if pods.is_empty() {
            context.event(&budget, EventKind::Normal, "NoPods", "No matching pods found");
        }
        let old = budget.status.clone().unwrap_or_default();
        let (disrupted, next) = disrupted(old.disrupted_pods.clone().unwrap_or_default(), &alive, moment::seconds());
        let expected = match expected(context, &budget, &alive).await {
            Ok(expected) => expected,
            Err(error) => {
                context.event(
                    &budget,
                    EventKind::Warning,
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {error}"),
                );
                let mut status = old.clone();
                status.disruptions_allowed = Some(0);
                status.observed_generation = budget.metadata.generation;
                set_condition(&mut status, "False", "SyncFailed", &error.to_string(), budget.metadata.generation);
                return write(context, budget, status, next).await;
            }
        };
        let healthy = alive.iter().filter(|pod| !pod.is_leaving() && pod.lite.ready && !disrupted.contains_key(pod.name())).count() as i32;
        let mut status = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(expected.healthy),
            expected_pods: Some(expected.pods),
            disruptions_allowed: Some(allowed(healthy, expected)),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: budget.metadata.generation,
            conditions: old.conditions.clone(),
        };
        let enough = status.disruptions_allowed.unwrap_or(0) > 0;
        let (value, reason) = if enough { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        set_condition(&mut status, value, reason, "", budget.metadata.generation);
        write(context, budget, status, next).await
    }
}

fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    let selector = budget.spec.as_ref()?.selector.as_ref()?;
    LabelSelector::from_value(&serde_json::to_value(selector).ok()?).ok()
}

/// Pods that were evicted and are not gone yet; those that have taken too long count again.
fn disrupted(old: BTreeMap<String, Time>, pods: &[Owned], now: i64) -> (BTreeMap<String, Time>, Next) {
    let mut first: Option<i64> = None;
    let kept = old.into_iter().filter(|(name, since)| {
        let waiting = pods.iter().any(|pod| pod.name() == name && !pod.is_leaving());
        let left = since.0.as_second() + DELETION_TIMEOUT - now;
        if waiting && left > 0 {
            first = Some(first.map_or(left, |known| known.min(left)));
        }
        waiting && left > 0
    });
    let kept = kept.collect();
    (kept, first.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds as u64))))
}

/// What a budget expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    pods: i32,
    healthy: i32,
}

fn allowed(healthy: i32, expected: Expected) -> i32 {
    if expected.pods == 0 { 0 } else { (healthy - expected.healthy).max(0) }
}

/// Percentages are of the scale of the pods' controllers; a plain minimum is of the pods that there are.
async fn expected(context: &Context, budget: &PodDisruptionBudget, pods: &[Owned]) -> Result<Expected> {
    let spec = budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let total = scale(context, budget, pods).await?;
        let unavailable = rollout::resolve(Some(most), total, true);
        return Ok(Expected { pods: total, healthy: (total - unavailable).max(0) });
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => Ok(Expected { pods: pods.len() as i32, healthy: *least }),
        Some(share) => {
            let total = scale(context, budget, pods).await?;
            Ok(Expected { pods: total, healthy: rollout::resolve(Some(share), total, true) })
        }
        None => Ok(Expected { pods: pods.len() as i32, healthy: 0 }),
    }
}

/// The sum of `spec.replicas` of the scales behind the pods; pods without controller count by themselves and cannot be expected.
async fn scale(context: &Context, budget: &PodDisruptionBudget, pods: &[Owned]) -> Result<i32> {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or("");
    let mut seen: BTreeMap<String, i32> = BTreeMap::new();
    let mut resources = None;
    for pod in pods {
        let Some(owner) = pod.entry.header.controller() else {
            continue;
        };
        if seen.contains_key(&*owner.uid) {
            continue;
        }
        let mut current = (owner.api_version.to_string(), owner.kind.to_string(), owner.name.to_string(), owner.uid.to_string());
        if resources.is_none() {
            resources = Some(discovery::resources(&context.client).await?.0);
        }
        let known = resources.as_deref().unwrap_or_default();
        // A ReplicaSet of a Deployment counts as the Deployment.
        let replicas = loop {
            let (api_version, kind, name, uid) = &current;
            let group = api_version.split_once('/').map_or("", |(group, _)| group);
            let Some(found) = known.iter().find(|one| one.resource.group == group && one.kind == *kind) else {
                anyhow::bail!("no resource is served for kind {kind} of {api_version}");
            };
            if group == "apps" && kind == "ReplicaSet" {
                let object = context.client.call(Method::GET, &found.resource.path(namespace, name, ""), &Value::Null).await?;
                let up = object["metadata"]["ownerReferences"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|owner| owner["controller"] == true && owner["kind"] == "Deployment")
                    .cloned();
                if let Some(up) = up {
                    let text = |field: &str| up[field].as_str().unwrap_or("").to_owned();
                    current = (text("apiVersion"), text("kind"), text("name"), text("uid"));
                    continue;
                }
                break (uid.clone(), object["spec"]["replicas"].as_i64().unwrap_or(1) as i32);
            }
            let object = match context.client.call(Method::GET, &found.resource.path(namespace, name, "scale"), &Value::Null).await {
                Ok(object) => object,
                Err(status) if status.is_not_found() => anyhow::bail!("{} does not implement the scale subresource", found.resource),
                Err(status) => return Err(status.into()),
            };
            break (uid.clone(), object["spec"]["replicas"].as_i64().unwrap_or(0) as i32);
        };
        seen.insert(owner.uid.to_string(), 0);
        seen.insert(replicas.0, replicas.1);
    }
    Ok(seen.values().sum())
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, value: &str, reason: &str, message: &str, generation: Option<i64>) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == "DisruptionAllowed");
    let since = known.map(|place| &conditions[place]).filter(|old| old.status == value).map(|old| old.last_transition_time.clone());
    let fresh = Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since.unwrap_or_else(moment::now),
        observed_generation: generation,
    };
    match known {
        Some(place) => conditions[place] = fresh,
        None => conditions.push(fresh),
    }
}

async fn write(context: &Context, budget: PodDisruptionBudget, status: PodDisruptionBudgetStatus, next: Next) -> Result<Next> {
    if budget.status.as_ref() != Some(&status) {
        context.client.update_status(&PodDisruptionBudget { status: Some(status), ..budget }).await?;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disruptions_are_what_is_left_over() {
        assert_eq!(allowed(3, Expected { pods: 3, healthy: 2 }), 1);
        assert_eq!(allowed(1, Expected { pods: 3, healthy: 2 }), 0);
        assert_eq!(allowed(0, Expected { pods: 0, healthy: 0 }), 0);
    }
}
