//! Follows the objects: puts changes in force, keeps the objects that every server has, and says of each flow schema whether
//! its level exists.

use std::sync::{Arc, LazyLock};

use api::{Object, Status};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use store::{Filter, Kind, Revision};

use super::{GROUP, MANDATORY};
use crate::bootstrap::{self, own_user};
use crate::server::Server;
use crate::steps::options::now;
use crate::user::User;

/// Says whether the server may bring an object back to what it has recorded.
const AUTOMATIC: &str = "apf.kubernetes.io/autoupdate-spec";
/// Who writes the condition.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
const KINDS: [(&str, &str); 2] = [("PriorityLevelConfiguration", "prioritylevelconfigurations"), ("FlowSchema", "flowschemas")];

static RECORDED: LazyLock<Vec<Object>> = LazyLock::new(|| bootstrap::recorded(GROUP));

/// The objects of a kind that a new cluster has.
pub fn recorded(kind: &str) -> Vec<Object> {
    RECORDED.iter().filter(|object| object.kind() == kind).cloned().collect()
}

/// Puts the stored objects in force and follows them; ends with the server.
pub fn start(server: &Arc<Server>) {
    load(server);
    let task = follow(server.clone(), Arc::new(own_user()));
    let shutdown = server.shutdown.clone();
    server.tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
}

async fn follow(server: Arc<Server>, user: Arc<User>) {
    loop {
        let after = load(&server);
        let writes = KINDS.iter().flat_map(|(kind, plural)| keep(&server, kind, plural)).chain(conditions(&server));
        for write in writes {
            let what = format!("{} {}", write.method, write.path);
            if let Err(status) = send(&server, &user, write).await {
                if !status.is_conflict() && !status.is_not_found() && status.reason != api::Reason::AlreadyExists {
                    tracing::warn!(%status, what, "an object of priority and fairness could not be kept");
                }
            }
        }
        changed(&server, after).await;
    }
}

fn kind_of(plural: &str) -> Kind {
    Kind::new(api::resources::storage_prefix(GROUP, plural, false))
}

async fn changed(server: &Arc<Server>, after: Revision) {
    let watch = |plural: &str| server.store.watch(kind_of(plural).all(), after, Filter::All);
    let (Ok(mut levels), Ok(mut schemas)) = (watch(KINDS[0].1), watch(KINDS[1].1)) else { return };
    tokio::select! {
        _ = levels.next() => {}
        _ = schemas.next() => {}
    }
}

fn stored(server: &Server, plural: &str) -> (Vec<Object>, Revision) {
    let snapshot = server.store.mvcc().snapshot(&kind_of(plural));
    let object = |entry: &Arc<store::Entry>| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value);
    (snapshot.iter().filter_map(object).collect(), snapshot.revision())
}

fn load(server: &Server) -> Revision {
    let ((levels, first), (schemas, second)) = (stored(server, KINDS[0].1), stored(server, KINDS[1].1));
    server.fairness.load(schemas, levels);
    first.min(second)
}

struct Write {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Value,
}

async fn send(server: &Arc<Server>, user: &Arc<User>, write: Write) -> Result<(), Status> {
    let request = Request::builder()
        .method(write.method)
        .uri(write.path)
        .header(http::header::CONTENT_TYPE, write.content_type)
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(Bytes::from(write.body.to_string()))
        .map_err(Status::internal)?;
    server.call(user, request).await.map(drop)
}

fn path(plural: &str, name: &str) -> String {
    format!("/apis/{GROUP}/v1/{plural}{}{name}", if name.is_empty() { "" } else { "/" })
}

/// What must be written so that the objects of every server are there and as they should be.
fn keep(server: &Server, kind: &str, plural: &str) -> Vec<Write> {
    let (stored, _) = stored(server, plural);
    let recorded = recorded(kind);
    let mut writes = Vec::new();
    let json = "application/json";
    for wanted in &recorded {
        match stored.iter().find(|object| object.name() == wanted.name()) {
            None => {
                writes.push(Write { method: Method::POST, path: path(plural, ""), content_type: json, body: wanted.clone().into_value() })
            }
            Some(object) => {
                if let Some(mended) = mended(object, wanted) {
                    writes.push(Write {
                        method: Method::PUT,
                        path: path(plural, object.name()),
                        content_type: json,
                        body: mended.into_value(),
                    });
                }
            }
        }
    }
    let of_old =
        |object: &&Object| object.annotation(AUTOMATIC) == Some("true") && !recorded.iter().any(|wanted| wanted.name() == object.name());
    for object in stored.iter().filter(of_old) {
        let body = json!({"preconditions": {"uid": object.uid()}});
        writes.push(Write { method: Method::DELETE, path: path(plural, object.name()), content_type: json, body });
    }
    writes
}

/// What an object of every server must become; `None` if it may stay.
fn mended(object: &Object, wanted: &Object) -> Option<Object> {
    let mandatory = MANDATORY.contains(&object.name());
    let automatic = match object.annotation(AUTOMATIC) {
        _ if mandatory => true,
        Some(text) => text == "true",
        // Nobody has changed it since it was made.
        None => object.generation() == 1,
    };
    let mut spec = wanted.get("spec").cloned().unwrap_or_default();
    if spec["type"] == "Exempt" {
        // The shares of the exempt level are the operator's.
        if let Some(own) = object.at(&["spec", "exempt"]) {
            spec["exempt"] = own.clone();
        }
    }
    let mut changed = object.clone();
    if automatic {
        changed.0.insert("spec".into(), spec);
    }
    let text = if automatic { "true" } else { "false" };
    changed.map_at_mut(&["metadata", "annotations"]).insert(AUTOMATIC.into(), text.into());
    (changed != *object).then_some(changed)
}

/// The conditions that do not tell the truth.
fn conditions(server: &Server) -> Vec<Write> {
    let (levels, schemas) = (stored(server, KINDS[0].1).0, stored(server, KINDS[1].1).0);
    let mut writes = Vec::new();
    for schema in &schemas {
        let level = schema.at(&["spec", "priorityLevelConfiguration", "name"]).and_then(Value::as_str).unwrap_or("");
        let there = levels.iter().any(|object| object.name() == level) || MANDATORY.contains(&level);
        let (status, reason, end) =
            if there { ("False", "Found", "and it exists") } else { ("True", "NotFound", "but there is no such object") };
        let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
        let told = schema.at(&["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
        let mut told = told.filter(|one| one["type"] == "Dangling");
        if told.any(|one| one["status"] == status && one["reason"] == reason && one["message"] == message.as_str()) {
            continue;
        }
        let condition = json!({"type": "Dangling", "status": status, "lastTransitionTime": now(), "reason": reason, "message": message});
        writes.push(Write {
            method: Method::PATCH,
            path: format!("{}/status?fieldManager={MANAGER}&force=true", path(KINDS[1].1, schema.name())),
            content_type: "application/apply-patch+yaml",
            body: json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": schema.name()},
                "status": {"conditions": [condition]},
            }),
        });
    }
    writes
}
