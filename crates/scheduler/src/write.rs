//! What the scheduler tells the API: bindings, conditions, nominations, victims and events.

use client::{Client, DeleteOptions, EventKind, PatchKind, Recorder, ResourceId};
use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use api::Status;

use crate::volumes::{SELECTED_NODE, Step};

const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");
const VOLUMES: ResourceId = ResourceId::new("", "v1", "persistentvolumes");

/// Names a pod version for the API.
#[derive(Debug, Clone)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Generation that was decided about.
    pub generation: i64,
}

/// Writes as the scheduler.
#[derive(Clone)]
pub struct Writer {
    /// The scheduler's client.
    pub client: Client,
    /// The scheduler's events.
    pub recorder: Recorder,
    /// Name of the scheduler.
    pub scheduler: String,
}

fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

impl Writer {
    /// Binds a pod to a node.
    ///
    /// # Errors
    /// The Status of the call.
    pub async fn bind(&self, pod: &PodName, node: &str) -> Result<(), Status> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        });
        self.client.tell(Method::POST, &PODS.path(&pod.namespace, &pod.name, "binding"), &binding).await?;
        self.event(pod, EventKind::Normal, "Scheduled", format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name));
        Ok(())
    }

    /// Gives a waiting claim a volume that is there, or tells its provisioner the node.
    ///
    /// # Errors
    /// The Status of the call.
    pub async fn prepare(&self, namespace: &str, step: &Step, node: &str) -> Result<(), Status> {
        match step {
            Step::Take { volume, claim, uid } => {
                let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim, "uid": uid});
                let patch =
                    json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, "spec": {"claimRef": claim}});
                self.client.patch(&VOLUMES, "", volume, "", &PatchKind::Merge, &patch).await.map(drop)
            }
            Step::Provision { claim } => {
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                self.client.patch(&CLAIMS, namespace, claim, "", &PatchKind::Merge, &patch).await.map(drop)
            }
        }
    }

    /// Says in the pod that it fits nowhere; a nomination is set or cleared if given.
    ///
    /// # Errors
    /// The Status of the call.
    pub async fn refuse(&self, pod: &PodName, message: &str, first: bool, nominated: Option<&str>) -> Result<(), Status> {
        let mut condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastProbeTime": null});
        if pod.generation > 0 {
            condition["observedGeneration"] = pod.generation.into();
        }
        if first {
            condition["lastTransitionTime"] = now().into();
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
        }
        self.patch_status(pod, status).await
    }

    /// Clears the nomination of a pod whose node goes to another.
    ///
    /// # Errors
    /// The Status of the call.
    pub async fn denominate(&self, pod: &PodName) -> Result<(), Status> {
        self.patch_status(pod, json!({"nominatedNodeName": null})).await
    }

    /// Makes a victim go, and says why.
    ///
    /// # Errors
    /// The Status of the call.
    pub async fn evict(&self, victim: &PodName, preemptor: &str, node: &str) -> Result<(), Status> {
        let message = format!("{}: preempting to accommodate a higher priority pod", self.scheduler);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message, "lastProbeTime": null, "lastTransitionTime": now()});
        self.patch_status(victim, json!({"conditions": [condition]})).await?;
        self.client.delete(&PODS, &victim.namespace, &victim.name, &DeleteOptions::uid(victim.uid.clone())).await?;
        self.event(victim, EventKind::Normal, "Preempted", format!("Preempted by pod {preemptor} on node {node}"));
        Ok(())
    }

    /// Records an event about a pod.
    pub fn event(&self, pod: &PodName, kind: EventKind, reason: &str, message: impl Into<String>) {
        let regarding = json!({"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid});
        self.recorder.record(regarding, kind, reason, message);
    }

    async fn patch_status(&self, pod: &PodName, status: Value) -> Result<(), Status> {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        self.client.patch(&PODS, &pod.namespace, &pod.name, "status", &PatchKind::Strategic, &patch).await.map(drop)
    }
}
