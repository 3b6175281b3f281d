//! Certificate cleaner: removes certificate requests that nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use client::{DeleteOptions, Selection};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::certificate_signing::REQUESTS;
use crate::{Config, Entry, moment};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "certificate-controller", controller: Arc::new(CertificateCleaner) }
}

struct CertificateCleaner;

#[async_trait]
impl Controller for CertificateCleaner {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<CertificateSigningRequest>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(request) = context.cache::<CertificateSigningRequest>().read::<CertificateSigningRequest>("", &key.name) else {
            return Ok(Next::Done);
        };
        let left = left(&request, moment::seconds());
        if left > 0 {
            return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
        }
        let options = DeleteOptions::uid(request.metadata.uid.unwrap_or_default());
        match context.client.delete(&REQUESTS, "", &key.name, &options).await {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}

/// Seconds that a request may still stay: a day undecided, an hour after a decision.
fn left(request: &CertificateSigningRequest, now: i64) -> i64 {
    let decisions = request.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let decided = decisions
        .filter(|condition| ["Approved", "Denied", "Failed"].contains(&condition.type_.as_str()))
        .map(|condition| moment::of(condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref())) + HOUR);
    let pending = moment::of(request.metadata.creation_timestamp.as_ref()) + DAY;
    decided.min().unwrap_or(pending) - now
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decided_requests_go_after_an_hour_others_after_a_day() {
        let request = |conditions: serde_json::Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"request": "", "signerName": "x"},
                "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let decided = |kind: &str| request(json!([{"type": kind, "status": "True", "lastUpdateTime": "1970-01-01T00:10:00Z"}]));
        assert_eq!(left(&request(json!([])), 100), DAY - 100);
        assert_eq!(left(&decided("Approved"), 700), HOUR - 100);
        assert_eq!(left(&decided("Denied"), 600 + HOUR), 0);
    }
}
