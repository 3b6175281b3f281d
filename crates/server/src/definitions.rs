//! What follows from a custom resource definition: its conditions, and the end of its objects when it goes.
//!
//! This is the server's own controller, since nothing can be served before it has spoken.

use std::sync::Arc;

use api::resources::find;
use api::{Object, Status};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use store::{Entry, EventKind, Filter, Kind, Revision};

use crate::bootstrap::own_user;
use crate::catalog::custom::condition;
use crate::server::Server;
use crate::steps::options::now;
use crate::user::User;

/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Name of the resource.
pub const PLURAL: &str = "customresourcedefinitions";

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Starts following the definitions; ends with the server.
pub fn start(server: &Arc<Server>) {
    let task = follow(server.clone(), Arc::new(own_user()));
    let shutdown = server.shutdown.clone();
    server.tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
}

fn kind() -> Kind {
    Kind::new(api::resources::storage_prefix("apiextensions.k8s.io", PLURAL, true))
}

async fn follow(server: Arc<Server>, user: Arc<User>) {
    loop {
        let snapshot = server.store.mvcc().snapshot(&kind());
        for entry in snapshot.iter() {
            settle(&server, &user, entry).await;
        }
        follow_from(&server, &user, snapshot.revision()).await;
    }
}

/// Handles changes until the history is lost.
async fn follow_from(server: &Arc<Server>, user: &Arc<User>, after: Revision) {
    let Ok(mut changes) = server.store.watch(kind().all(), after, Filter::All) else { return };
    while let Ok(event) = changes.next().await {
        if event.kind == EventKind::Put {
            settle(server, user, &event.entry).await;
        } else {
            // A name that became free may be what another definition waits for.
            let snapshot = server.store.mvcc().snapshot(&kind());
            for entry in snapshot.iter() {
                settle(server, user, entry).await;
            }
        }
    }
}

async fn settle(server: &Arc<Server>, user: &Arc<User>, entry: &Arc<Entry>) {
    let Some(current) = server.store.mvcc().get(&entry.key).value else { return };
    let Some(object) = codec::json::parse(&current.bytes).ok().and_then(Object::from_value) else { return };
    let result = if object.deletion_timestamp().is_some() { clean(server, user, object).await } else { accept(server, user, object).await };
    if let Err(status) = result.or_else(|status| if status.is_conflict() || status.is_not_found() { Ok(()) } else { Err(status) }) {
        tracing::warn!(definition = %entry.header.name, %status, "a custom resource definition could not be settled");
    }
}

async fn put(server: &Arc<Server>, user: &Arc<User>, path: &str, object: &Object) -> Result<(), Status> {
    let body = Bytes::from(codec::json::encode(object));
    let request = Request::builder()
        .method(Method::PUT)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(body)
        .map_err(Status::internal)?;
    server.call(user, request).await.map(drop)
}

/// Accepts the names of a definition unless others have them.
async fn accept(server: &Arc<Server>, user: &Arc<User>, mut object: Object) -> Result<(), Status> {
    let wanted = object.at(&["spec", "names"]).cloned().unwrap_or_default();
    let settled = object.at(&["status", "acceptedNames"]) == Some(&wanted)
        && condition(&object, "NamesAccepted")
        && condition(&object, "Established");
    if settled {
        return Ok(());
    }
    let before = object.clone();
    let (accepted, conflict) = names(server, &object, &wanted);
    object.map_at_mut(&["status"]).insert("acceptedNames".into(), accepted);
    match conflict {
        None => {
            set(&mut object, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            set(&mut object, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted");
        }
        Some((reason, message)) => {
            set(&mut object, "NamesAccepted", "False", reason, &message);
            if !condition(&object, "Established") {
                set(&mut object, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    if object.0.get("status").is_some_and(|status| status["storedVersions"].is_null()) {
        let versions = object.at(&["spec", "versions"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let stored: Vec<Value> =
            versions.iter().filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect();
        object.map_at_mut(&["status"]).insert("storedVersions".into(), stored.into());
    }
    if object == before {
        return Ok(());
    }
    let path = format!("{PATH}/{}/status", object.name());
    put(server, user, &path, &object).await
}

/// The names that a definition has from now on, each by itself, and why it does not have all that it wants: the last reason.
fn names(server: &Server, object: &Object, wanted: &Value) -> (Value, Option<(&'static str, String)>) {
    let group = object.text_at(&["spec", "group"]);
    let snapshot = server.store.mvcc().snapshot(&kind());
    let others: Vec<Value> = snapshot
        .iter()
        // The name of a definition ends with its group: of a thousand others few are looked into.
        .filter(|entry| {
            *entry.header.name != *object.name() && entry.header.name.strip_suffix(group).is_some_and(|rest| rest.ends_with('.'))
        })
        .filter_map(|entry| serde_json::from_slice::<Value>(&entry.bytes).ok())
        .filter(|other| other["spec"]["group"] == group)
        .map(|other| other["status"]["acceptedNames"].clone())
        .collect();
    let text = |names: &Value, field: &str| names[field].as_str().unwrap_or("").to_owned();
    let shorts = |names: &Value| -> Vec<String> {
        names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let resources = |names: &Value| -> Vec<String> {
        let mut all = vec![text(names, "plural"), text(names, "singular")];
        all.extend(shorts(names));
        all.retain(|name| !name.is_empty());
        all
    };
    let mut taken: Vec<String> = others.iter().flat_map(resources).collect();
    if find(group, "v1", &text(wanted, "plural")).is_some() {
        taken.push(text(wanted, "plural"));
    }
    let kinds: Vec<String> = others.iter().flat_map(|names| [text(names, "kind"), text(names, "listKind")]).collect();
    let before = object.at(&["status", "acceptedNames"]).cloned().unwrap_or_default();
    let (mut accepted, mut conflict) = (wanted.clone(), None);
    for (field, reason, used) in [
        ("plural", "PluralConflict", &taken),
        ("singular", "SingularConflict", &taken),
        ("shortNames", "ShortNamesConflict", &taken),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let is_short = field == "shortNames";
        let asked = if is_short { shorts(wanted) } else { vec![text(wanted, field)] };
        let had = if is_short { shorts(&before) } else { vec![text(&before, field)] };
        let refused: Vec<String> = asked
            .iter()
            .filter(|name| !name.is_empty() && !had.contains(name) && used.contains(name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        if refused.is_empty() {
            continue;
        }
        accepted[field] = match before.get(field) {
            Some(value) => value.clone(),
            None if is_short => Value::Null,
            None => "".into(),
        };
        let why = if let [one] = refused.as_slice() { one.clone() } else { format!("[{}]", refused.join(", ")) };
        conflict = Some((reason, why));
    }
    (accepted, conflict)
}

/// Sets a condition; its time changes only with its status.
fn set(object: &mut Object, kind: &str, status: &str, reason: &str, message: &str) {
    let part = object.map_at_mut(&["status"]);
    let list = part.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let list = list.as_array_mut().expect("just made a list");
    let fresh = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()});
    match list.iter_mut().find(|one| one["type"] == kind) {
        Some(one) if one["status"] == status => {
            one["reason"] = reason.into();
            one["message"] = message.into();
        }
        Some(one) => *one = fresh,
        None => list.push(fresh),
    }
}

/// Marks a definition that is to be deleted, so that its objects go first.
pub fn mark_terminating(object: &mut Object) {
    set(
        object,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
}

/// Deletes the objects of a definition, then lets it go.
async fn clean(server: &Arc<Server>, user: &Arc<User>, mut object: Object) -> Result<(), Status> {
    if !object.finalizers().any(|one| one == CLEANUP) {
        return Ok(());
    }
    let group = object.text_at(&["spec", "group"]).to_owned();
    let plural = object.text_at(&["spec", "names", "plural"]).to_owned();
    let objects = Kind::new(api::resources::storage_prefix(&group, &plural, true));
    let version = object.at(&["spec", "versions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let version =
        version.iter().find(|version| version["served"] == true).and_then(|version| version["name"].as_str()).unwrap_or("").to_owned();
    let established = condition(&object, "Established");
    if established && !version.is_empty() {
        delete_all(server, user, &format!("{group}/{version}"), &plural, &objects).await?;
        if !server.store.mvcc().snapshot(&objects).is_empty() {
            wait_for_the_end(server, user, objects, object.name().to_owned());
            return Ok(());
        }
    }
    set(&mut object, "Terminating", "False", "InstanceDeletionCompleted", "removed all instances");
    let rest: Vec<String> = object.finalizers().filter(|one| *one != CLEANUP).map(str::to_owned).collect();
    object.set_meta("finalizers", rest);
    let path = format!("{PATH}/{}", object.name());
    put(server, user, &path, &object).await
}

async fn delete_all(server: &Arc<Server>, user: &Arc<User>, group_version: &str, plural: &str, objects: &Kind) -> Result<(), Status> {
    let snapshot = server.store.mvcc().snapshot(objects);
    let live = snapshot.iter().filter(|entry| entry.header.deletion_timestamp.is_none());
    for entry in live {
        let place = if entry.header.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", entry.header.namespace) };
        let path = format!("/apis/{group_version}{place}/{plural}/{}", entry.header.name);
        let request = Request::builder().method(Method::DELETE).uri(path).body(Bytes::new()).map_err(Status::internal)?;
        match server.call(user, request).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// Objects with finalizers go when others let them; then the definition is settled again.
fn wait_for_the_end(server: &Arc<Server>, user: &Arc<User>, objects: Kind, definition: String) {
    let (server, user) = (server.clone(), user.clone());
    let (tasks, shutdown) = (server.tasks.clone(), server.shutdown.clone());
    let task = async move {
        let Ok(mut changes) = server.store.watch(objects.all(), server.store.mvcc().revision(), Filter::All) else { return };
        while !server.store.mvcc().snapshot(&objects).is_empty() {
            if changes.next().await.is_err() {
                return;
            }
        }
        if let Some(entry) = server.store.mvcc().get(&kind().key(definition)).value {
            settle_boxed(&server, &user, &entry).await;
        }
    };
    tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
}

fn settle_boxed<'a>(server: &'a Arc<Server>, user: &'a Arc<User>, entry: &'a Arc<Entry>) -> futures_util::future::BoxFuture<'a, ()> {
    Box::pin(settle(server, user, entry))
}
