//! ReplicationController: keeps a number of equal pods, as ReplicaSets do, with a plain map as selector.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::replicas::{self, Counts, Set};
use crate::tally::Tally;
use crate::{Config, Entry, moment, pods};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "replication-controller", controller: Arc::new(ReplicationControllers::default()) }
}

#[derive(Default)]
struct ReplicationControllers {
    tally: Arc<Tally>,
}

#[async_trait]
impl Controller for ReplicationControllers {
    fn name(&self) -> &'static str {
        "replicationcontroller-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<ReplicationController>()), replicas::watch_pods::<ReplicationController>(self.tally.clone())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(object) = context.cache::<ReplicationController>().read::<ReplicationController>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(set) = set(&object) else {
            return Ok(Next::Done);
        };
        let (counts, failure) = replicas::sync(context, &set, &self.tally).await?;
        let status = status(&object, &counts, failure.as_ref());
        if object.status.as_ref() != Some(&status) {
            context.client.update_status(&ReplicationController { status: Some(status), ..object }).await?;
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let wait = counts.next_available.map(|at| (at - moment::seconds()).max(1) as u64);
        Ok(wait.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }
}

fn set(object: &ReplicationController) -> Option<Set> {
    let spec = object.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    Some(Set {
        metadata: object.metadata.clone(),
        owner: pods::controller_ref("v1", "ReplicationController", &object.metadata),
        selector: LabelSelector::from_map(selector.iter().map(|(key, value)| (key.as_str(), value.as_str()))),
        template: spec.template.clone().unwrap_or_default(),
        replicas: spec.replicas.unwrap_or(1),
        min_ready: spec.min_ready_seconds.unwrap_or(0).into(),
    })
}

fn status(object: &ReplicationController, counts: &Counts, failure: Option<&api::Status>) -> ReplicationControllerStatus {
    let mut conditions = object.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, known) {
        (Some(status), None) => conditions.push(ReplicationControllerCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(status.message.clone()),
            last_transition_time: Some(moment::now()),
        }),
        (None, Some(index)) => drop(conditions.remove(index)),
        _ => {}
    }
    let some = |count: i32| (count > 0).then_some(count);
    ReplicationControllerStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: some(counts.labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        observed_generation: object.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
