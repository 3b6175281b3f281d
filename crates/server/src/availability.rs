//! Whether other servers of the API answer: the condition `Available` of APIService objects.

use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use store::{EventKind, Filter, Kind, Revision};
use tokio::time::{Instant, sleep_until};

use crate::aggregate::{self, Service};
use crate::bootstrap::own_user;
use crate::server::Server;
use crate::steps::options::now;
use crate::user::User;

/// How often a server that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How often one that answers is asked.
const RECHECK: Duration = Duration::from_secs(30);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts following the objects; ends with the server. Nothing runs while no APIService names a Service.
pub fn start(server: &Arc<Server>) {
    let task = follow(server.clone(), Arc::new(own_user()));
    let shutdown = server.shutdown.clone();
    server.tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
}

async fn follow(server: Arc<Server>, user: Arc<User>) {
    loop {
        let after = server.store.mvcc().revision();
        let due = check_all(&server, &user).await;
        wait(&server, after, due).await;
    }
}

/// Waits for a change of the objects or of endpoints, or until the next check is due.
async fn wait(server: &Arc<Server>, after: Revision, due: Option<Instant>) {
    let Ok(mut objects) = server.store.watch(aggregate::kind().all(), after, Filter::All) else { return };
    let slices = Kind::new(api::resources::storage_prefix("discovery.k8s.io", "endpointslices", false));
    let Ok(mut slices) = server.store.watch(slices.all(), after, Filter::All) else { return };
    loop {
        tokio::select! {
            event = objects.next() => match event {
                // Our own writes change nothing but the status.
                Ok(event) if event.kind == EventKind::Put && event.previous.as_ref().is_some_and(|before| same_spec(&before.bytes, &event.entry.bytes)) => {}
                _ => return,
            },
            _ = slices.next(), if due.is_some() => return,
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => return,
        }
    }
}

fn same_spec(before: &[u8], after: &[u8]) -> bool {
    let spec = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok().map(|value| value["spec"].clone());
    spec(before) == spec(after)
}

/// Checks every object; when the next check is due, if any names a Service.
async fn check_all(server: &Arc<Server>, user: &Arc<User>) -> Option<Instant> {
    let snapshot = server.store.mvcc().snapshot(&aggregate::kind());
    let mut due: Option<Instant> = None;
    for entry in snapshot.iter() {
        let Some(object) = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value) else { continue };
        let local = !object.at(&["spec", "service"]).is_some_and(Value::is_object);
        let (status, reason, message) =
            if local { ("True", "Local", "Local APIServices are always available".to_owned()) } else { ask(server, user, &object).await };
        if !local {
            let next = Instant::now() + if status == "True" { RECHECK } else { RETRY };
            due = Some(due.map_or(next, |due| due.min(next)));
        }
        if let Err(status) = tell(server, user, object, status, reason, &message).await {
            if !status.is_conflict() && !status.is_not_found() {
                tracing::warn!(service = %entry.header.name, %status, "the availability of an API service could not be told");
            }
        }
    }
    due
}

/// Why nobody can be asked: the Service, its port or its endpoints are missing.
fn missing(server: &Server, object: &Object) -> Option<(&'static str, String)> {
    let text = |field: &str| object.text_at(&["spec", "service", field]);
    let (namespace, name) = (text("namespace"), text("name"));
    let number = object.at(&["spec", "service", "port"]).and_then(Value::as_u64).unwrap_or(443);
    let service = Kind::new(api::resources::storage_prefix("", "services", false)).key(format!("{namespace}/{name}"));
    let Some(entry) = server.store.mvcc().get(&service).value else {
        return Some(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    let service = codec::json::parse(&entry.bytes).unwrap_or_default();
    if service["spec"]["type"] != "ClusterIP" {
        return None;
    }
    let Some(port) = service["spec"]["ports"].as_array().into_iter().flatten().find(|port| port["port"] == number) else {
        return Some(("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {number}")));
    };
    let port_name = port["name"].as_str().unwrap_or("");
    let kind = Kind::new(api::resources::storage_prefix("discovery.k8s.io", "endpointslices", false));
    let snapshot = server.store.mvcc().snapshot(&kind);
    let slices: Vec<Value> = snapshot
        .under(&kind.namespace(namespace))
        .filter_map(|entry| codec::json::parse(&entry.bytes).ok())
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name)
        .collect();
    if slices.is_empty() {
        return Some(("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    let filled = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let reached = slices.iter().any(|slice| {
        filled(&slice["endpoints"])
            && slice["ports"].as_array().into_iter().flatten().any(|port| port["name"].as_str().unwrap_or("") == port_name)
    });
    let why = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
    (!reached).then_some(("MissingEndpoints", why))
}

async fn ask(server: &Arc<Server>, user: &User, object: &Object) -> (&'static str, &'static str, String) {
    if let Some((reason, message)) = missing(server, object) {
        return ("False", reason, message);
    }
    let path = format!("/apis/{}/{}", object.text_at(&["spec", "group"]), object.text_at(&["spec", "version"]));
    let service = Service::new(object.clone());
    match tokio::time::timeout(PATIENCE, aggregate::fetch(server, &service, user, &path)).await {
        Ok(Ok(_)) => ("True", "Passed", "all checks passed".to_owned()),
        Ok(Err(status)) => ("False", "FailedDiscoveryCheck", status.message),
        Err(_) => ("False", "FailedDiscoveryCheck", format!("failing or missing response from {path}: context deadline exceeded")),
    }
}

async fn tell(server: &Arc<Server>, user: &Arc<User>, mut object: Object, status: &str, reason: &str, message: &str) -> Result<(), Status> {
    let part = object.map_at_mut(&["status"]);
    let mut list = part.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list.iter().find(|one| one["type"] == "Available").cloned();
    if old.as_ref().is_some_and(|old| old["status"] == status && old["reason"] == reason && old["message"] == message) {
        return Ok(());
    }
    let since = old.filter(|old| old["status"] == status).map_or_else(|| Value::from(now()), |old| old["lastTransitionTime"].clone());
    list.retain(|one| one["type"] != "Available");
    list.push(json!({"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since}));
    part.insert("conditions".into(), list.into());
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{}/status", object.name());
    let request = Request::builder()
        .method(Method::PUT)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(Bytes::from(codec::json::encode(&object)))
        .map_err(Status::internal)?;
    server.call(user, request).await.map(drop)
}
