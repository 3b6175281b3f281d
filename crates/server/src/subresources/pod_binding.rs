//! `pods/binding`: the scheduler's decision, written into the pod exactly once.

use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Subresource, admit, decoded, success};
use crate::admission::Operation;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::update::{Changed, guaranteed_update};
use crate::write::Write;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(PodBinding)
}

struct PodBinding;

#[async_trait]
impl Subresource for PodBinding {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural, subresource) == ("", "pods", "binding")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        if request.allowed.attributes().verb != "create" {
            return Err(failure::method_not_allowed());
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "CreateOptions")?;
        let binding = decoded(&write, body, request.header("content-type")).await?;
        bind(&write, &request.allowed.attributes().name, binding).await?;
        success(&request)
    }
}

/// Binds a pod to the node that a Binding names.
///
/// # Errors
/// 409 for a pod that is bound or going, 422 for a binding without a node.
pub async fn bind(write: &Write<'_>, name: &str, binding: Object) -> Result<(), Status> {
    let binding = admit(write, Operation::Create, binding, None).await?;
    let node = check(&binding, name)?;
    guaranteed_update(write, name, |pod| assigned(write, pod, &binding, &node).map(Changed::done)).await?;
    Ok(())
}

fn check(binding: &Object, name: &str) -> Result<String, Status> {
    let mut causes = Causes::default();
    let kind = binding.text_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        causes.not_supported("target.kind", &Value::from(kind), &["Node", "<empty>"]);
    }
    let node = binding.text_at(&["target", "name"]);
    if node.is_empty() {
        causes.required("target.name", "");
    }
    if causes.is_empty() { Ok(node.to_owned()) } else { Err(Status::invalid("", "Binding", name, &causes)) }
}

fn assigned(write: &Write<'_>, pod: &Object, binding: &Object, node: &str) -> Result<Object, Status> {
    let conflict = |why: String| Status::conflict("", "pods/binding", pod.name(), &why);
    let wanted = binding.uid();
    if !wanted.is_empty() && wanted != pod.uid() {
        return Err(conflict(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {}", pod.uid())));
    }
    if pod.deletion_timestamp().is_some() {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name())));
    }
    let current = pod.text_at(&["spec", "nodeName"]);
    if !current.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node {current:?}", pod.name())));
    }
    if pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", pod.name())));
    }
    let mut pod = pod.clone();
    pod.map_at_mut(&["spec"]).insert("nodeName".into(), node.into());
    for field in ["annotations", "labels"] {
        let given = binding.metadata().and_then(|meta| meta.get(field)).and_then(Value::as_object).cloned();
        if let Some(given) = given {
            pod.map_at_mut(&["metadata", field]).extend(given);
        }
    }
    let status = pod.map_at_mut(&["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("just made a list");
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": write.options.now,
    }));
    Ok(pod)
}
