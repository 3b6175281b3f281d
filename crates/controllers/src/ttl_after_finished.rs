//! TTL after finished: removes Jobs that have ended when `ttlSecondsAfterFinished` is over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use client::{DeleteOptions, Propagation, ResourceId, Selection};
use k8s_openapi::api::batch::v1::Job;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, job_plan, moment};

const JOBS: ResourceId = ResourceId::new("batch", "v1", "jobs");

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "ttl-after-finished-controller", controller: Arc::new(TtlAfterFinished) }
}

struct TtlAfterFinished;

#[async_trait]
impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<Job>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(job) = context.cache::<Job>().read::<Job>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(left) = left(&job, moment::seconds()) else {
            return Ok(Next::Done);
        };
        if left > 0 {
            return Ok(Next::After(Duration::from_secs(left as u64)));
        }
        // The time to live may just have been changed.
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            resource_version: job.metadata.resource_version.clone(),
            ..DeleteOptions::uid(job.metadata.uid.clone().unwrap_or_default())
        };
        match context.client.delete(&JOBS, &key.namespace, &key.name, &options).await {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}

/// Seconds that an ended Job may still stay; `None` where it may stay for ever.
fn left(job: &Job, now: i64) -> Option<i64> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = job.status.as_ref()?;
    let ended = job_plan::find(status, "Complete").or_else(|| job_plan::find(status, "Failed"))?;
    Some(moment::of(ended.last_transition_time.as_ref()) + i64::from(ttl) - now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ended_jobs_have_their_time() {
        let job = |ttl: Option<i32>, kind: &str| -> Job {
            let condition = json!({"type": kind, "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"});
            serde_json::from_value(json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [condition]}}))
                .unwrap()
        };
        assert_eq!(left(&job(Some(30), "Complete"), 110), Some(20));
        assert_eq!(left(&job(Some(0), "Failed"), 110), Some(-10));
        assert_eq!(left(&job(Some(30), "Suspended"), 110), None);
        assert_eq!(left(&job(None, "Complete"), 110), None);
    }
}
