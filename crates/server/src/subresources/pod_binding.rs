//! `pods/binding`: the scheduler's decision, written into the pod exactly once.
//!
//! Every pod comes this way, and nothing of it changes but its node, one condition and what the Binding carries along. So
//! the pod is not decoded: its parts are copied as they are stored. As with the real server, nobody comes to manage the
//! fields that a binding sets, and the generation stays.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use store::{Change, Entry};

use super::{Subresource, admit, decoded, success};
use crate::admission::Operation;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit;
use crate::steps::update::conflict;
use crate::write::Write;

/// How often a lost race is run again.
const ATTEMPTS: u32 = 1000;

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
        let name = &request.allowed.attributes().name;
        if binding.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        bind(&write, name, binding).await?;
        success(&request)
    }
}

/// Binds a pod to the node that a Binding names.
///
/// # Errors
/// 404 where there is no such pod, 409 for one that is bound or going, 422 for a binding without a node.
pub async fn bind(write: &Write<'_>, name: &str, binding: Object) -> Result<(), Status> {
    let binding = admit(write, Operation::Create, binding, None).await?;
    let node = check(&binding, name)?;
    let key = commit::key(write.served, write.namespace(), name);
    for _ in 0..ATTEMPTS {
        let Some(entry) = write.server.store.mvcc().get(&key).value else {
            return Err(write.served.not_found(name));
        };
        let bytes = assigned(&entry, &binding, &node, &write.options.now)?;
        if write.options.dry_run {
            return Ok(());
        }
        let change = Change::replace(entry.key.clone(), entry.revision, bytes);
        if write.server.store.commit(change).await.map_err(failure::commit)?.committed().is_some() {
            return Ok(());
        }
    }
    Err(conflict(write, name))
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

/// Fields of an object, in the order of their names as they are stored; the values as they were written.
type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// The bytes of a pod on its node, as they are stored: without revision.
fn assigned(entry: &Entry, binding: &Object, node: &str, now: &str) -> Result<Bytes, Status> {
    let (header, pod) = (&entry.header, &*entry.header.name);
    let refused = |why: String| Err(Status::conflict("", "pods/binding", pod, &why));
    let wanted = binding.uid();
    if !wanted.is_empty() && *wanted != *header.uid {
        return refused(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {}", header.uid));
    }
    if header.deletion_timestamp.is_some() {
        return refused(format!("pod {pod} is being deleted, cannot be assigned to a host"));
    }
    let damaged = |error: serde_json::Error| Status::internal(format!("stored pod cannot be read: {error}"));
    let mut object: Fields<'_> = serde_json::from_slice(&entry.bytes).map_err(damaged)?;
    let part = |name: &str| object.get(name).map_or(Ok(Fields::new()), |part| serde_json::from_str(part.get()));
    let mut metadata: Fields<'_> = part("metadata").map_err(damaged)?;
    let mut spec: Fields<'_> = part("spec").map_err(damaged)?;
    let mut status: Fields<'_> = part("status").map_err(damaged)?;
    let current: String = spec.get("nodeName").map_or(Ok(String::new()), |name| serde_json::from_str(name.get())).map_err(damaged)?;
    if !current.is_empty() {
        return refused(format!("pod {pod} is already assigned to node {current:?}"));
    }
    if spec.get("schedulingGates").is_some_and(|gates| !matches!(gates.get(), "[]" | "null")) {
        return refused(format!("pod {pod} has non-empty .spec.schedulingGates"));
    }
    let node = to_raw_value(node).map_err(damaged)?;
    spec.insert("nodeName".into(), &node);
    let conditions = to_raw_value(&scheduled(&status, now)).map_err(damaged)?;
    status.insert("conditions".into(), &conditions);
    metadata.remove("resourceVersion");
    let carried = carried(&metadata, binding)?;
    metadata.extend(carried.iter().map(|(field, texts)| (Cow::Borrowed(*field), &**texts)));
    let [metadata, spec, status] = [metadata, spec, status].map(|fields| to_raw_value(&fields));
    let (metadata, spec, status) = (metadata.map_err(damaged)?, spec.map_err(damaged)?, status.map_err(damaged)?);
    object.extend([(Cow::Borrowed("metadata"), &*metadata), (Cow::Borrowed("spec"), &*spec), (Cow::Borrowed("status"), &*status)]);
    serde_json::to_vec(&object).map(Bytes::from).map_err(damaged)
}

/// The conditions with the one that a binding sets.
fn scheduled(status: &Fields<'_>, now: &str) -> Vec<Value> {
    let read = status.get("conditions").and_then(|conditions| serde_json::from_str::<Vec<Value>>(conditions.get()).ok());
    let mut conditions = read.unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
    conditions
}

/// Annotations and labels of a pod with those that a Binding carries along, where it carries any.
fn carried(metadata: &Fields<'_>, binding: &Object) -> Result<Vec<(&'static str, Box<RawValue>)>, Status> {
    let mut carried = Vec::new();
    for field in ["annotations", "labels"] {
        let given = binding.metadata().and_then(|meta| meta.get(field)).and_then(Value::as_object);
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            let known = metadata.get(field).and_then(|known| serde_json::from_str::<Option<Map<String, Value>>>(known.get()).ok());
            let mut texts = known.flatten().unwrap_or_default();
            texts.extend(given.clone());
            carried.push((field, to_raw_value(&texts).map_err(Status::internal)?));
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use api::Reason;
    use store::{Header, Kind, Revision};

    use super::*;

    fn bound(pod: &str, header: Header, binding: Value) -> Result<Value, Status> {
        let header = Header { name: "p".into(), uid: "u".into(), ..header };
        let entry = Entry::new(Kind::new("/registry/pods/").key("n/p"), Revision(7), Revision(7), Bytes::from(pod.to_owned()), header);
        let bytes = assigned(&entry, &Object::from_value(binding).unwrap(), "node-a", "now")?;
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        // Fields are stored in the order of their names.
        assert_eq!(value.to_string().as_bytes(), &*bytes);
        Ok(value)
    }

    #[test]
    fn a_pod_gets_its_node_and_keeps_the_rest() {
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"b"},"managedFields":[{"manager":"m"}],"name":"p","resourceVersion":"7"},"spec":{"containers":[{"name":"c\"\u0001"}],"zzz":1}}"#;
        let found = bound(pod, Header::default(), json!({"metadata": {"uid": "u", "labels": {"c": "d"}}})).unwrap();
        let wanted = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"labels": {"a": "b", "c": "d"}, "managedFields": [{"manager": "m"}], "name": "p"},
            "spec": {"containers": [{"name": "c\"\u{1}"}], "nodeName": "node-a", "zzz": 1},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "now"}]}});
        assert_eq!(found, wanted);
        let pod = r#"{"metadata":{},"spec":{"schedulingGates":[]},"status":{"conditions":[{"type":"PodScheduled","status":"False"},{"type":"Other"}],"phase":"Pending"}}"#;
        let found = bound(pod, Header::default(), json!({"metadata": {}})).unwrap();
        assert_eq!(found["status"]["conditions"].as_array().unwrap().len(), 2);
        assert_eq!((&found["status"]["phase"], &found["status"]["conditions"][1]["status"]), (&json!("Pending"), &json!("True")));
    }

    #[test]
    fn what_is_bound_going_gated_or_another_is_refused() {
        let leaving = Header { deletion_timestamp: Some("now".into()), ..Header::default() };
        let cases = [
            (r#"{"spec":{"nodeName":"b"}}"#, Header::default(), json!({}), "is already assigned to node \"b\""),
            (r#"{"spec":{"schedulingGates":[{"name":"g"}]}}"#, Header::default(), json!({}), "has non-empty .spec.schedulingGates"),
            (r#"{"spec":{}}"#, leaving, json!({}), "is being deleted, cannot be assigned to a host"),
            (r#"{"spec":{}}"#, Header::default(), json!({"metadata": {"uid": "x"}}), "UID in precondition: x, UID in object meta: u"),
        ];
        for (pod, header, binding, why) in cases {
            let status = bound(pod, header, binding).unwrap_err();
            assert!(status.reason == Reason::Conflict && status.message.contains(why), "{}", status.message);
        }
    }
}
