//! Tells the cluster that the node lives: a Lease every ten seconds, the whole status every five minutes or on change.
//!
//! Runs apart from pod work, so that a slow pod never makes the node look dead.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use client::{PatchKind, ResourceId};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::register;
use crate::Kubelet;

const NAMESPACE: &str = "kube-node-lease";
const LEASES: ResourceId = ResourceId::new("coordination.k8s.io", "v1", "leases");
/// Seconds that a lease holds.
const DURATION: i32 = 40;
/// Time between renewals.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a status may take to arrive; it is sent again then, over a new connection if the old one died with an address.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time until a status that did not arrive is sent again.
const RETRY: Duration = Duration::from_secs(2);
/// Renewals between two status reports without a change.
const RENEWALS_PER_REPORT: u32 = 30;

/// Renews until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    let mut renewals = 0u32;
    let mut reported = true;
    loop {
        // A connection that an address took with it may hang; the lease does not wait for it.
        match tokio::time::timeout(PERIOD, renew(&kubelet)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "lease was not renewed"),
            Err(_) => tracing::warn!("lease was not renewed: the server does not answer"),
        }
        renewals += 1;
        let wait = if reported { PERIOD } else { RETRY };
        let changed = tokio::time::timeout(wait, kubelet.status_changed.notified()).await.is_ok();
        if changed || !reported || renewals % RENEWALS_PER_REPORT == 0 {
            reported = tokio::time::timeout(PATIENCE, report(&kubelet)).await.unwrap_or(false);
        }
    }
}

/// Writes the status; an object that somebody deleted is made again. True once the server has it.
async fn report(kubelet: &Arc<Kubelet>) -> bool {
    let old: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
    match register::write_status(kubelet, old.as_ref()).await {
        Err(error) if error.is_not_found() => register::register(kubelet).await,
        Err(error) => {
            tracing::warn!(%error, "node status was not written");
            return false;
        }
        Ok(()) => {}
    }
    true
}

async fn renew(kubelet: &Arc<Kubelet>) -> Result<(), Status> {
    let name = &kubelet.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": DURATION}});
    match kubelet.client.patch(&LEASES, NAMESPACE, name, "", &PatchKind::Merge, &patch).await {
        Err(status) if status.is_not_found() => {}
        result => return result.map(drop),
    }
    let node: Option<Node> = kubelet.client.find("", name).await?;
    let owner = node.and_then(|node| node.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(DURATION),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    kubelet.client.create(&lease).await.map(drop)
}
