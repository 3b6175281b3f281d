//! ReplicaSet: keeps a number of equal pods and reports how many there are.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::replicas::{self, Counts, Set};
use crate::tally::Tally;
use crate::{Config, Entry, pods};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "replicaset-controller", controller: Arc::new(ReplicaSets::default()) }
}

#[derive(Default)]
struct ReplicaSets {
    tally: Arc<Tally>,
}

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<ReplicaSet>()), replicas::watch_pods::<ReplicaSet>(self.tally.clone())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(object) = context.cache::<ReplicaSet>().read::<ReplicaSet>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(set) = set(&object)? else {
            return Ok(Next::Done);
        };
        let (counts, failure) = replicas::sync(context, &set, &self.tally).await?;
        let status = status(&object, &counts, failure.as_ref());
        if object.status.as_ref() != Some(&status) {
            context.client.update_status(&ReplicaSet { status: Some(status), ..object }).await?;
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let wait = counts.next_available.map(|at| (at - Timestamp::now().as_second()).max(1) as u64);
        Ok(wait.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }
}

fn set(object: &ReplicaSet) -> Result<Option<Set>> {
    let Some(spec) = &object.spec else {
        return Ok(None);
    };
    let selector = LabelSelector::from_value(&serde_json::to_value(&spec.selector)?).map_err(anyhow::Error::msg)?;
    Ok(Some(Set {
        metadata: object.metadata.clone(),
        owner: pods::controller_ref("apps/v1", "ReplicaSet", &object.metadata),
        selector,
        template: spec.template.clone().unwrap_or_default(),
        replicas: spec.replicas.unwrap_or(1),
        min_ready: spec.min_ready_seconds.unwrap_or(0).into(),
    }))
}

fn status(object: &ReplicaSet, counts: &Counts, failure: Option<&api::Status>) -> ReplicaSetStatus {
    let old = object.status.clone().unwrap_or_default();
    let mut conditions: Vec<ReplicaSetCondition> = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, known) {
        (Some(status), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(status.message.clone()),
            last_transition_time: Some(Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))),
        }),
        (None, Some(index)) => {
            conditions.remove(index);
        }
        _ => {}
    }
    let some = |count: i32| (count > 0).then_some(count);
    ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: some(counts.labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        terminating_replicas: Some(counts.terminating),
        observed_generation: object.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
