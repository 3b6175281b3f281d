//! The objects that every cluster has: made where they are missing, mended where they may be.
//!
//! They go through the pipeline like everything else, as the server's own user.

use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::server::Server;
use crate::steps::commit;
use crate::user::{MASTERS, User};

/// Recorded from a fresh server of the real kind: namespaces, roles, flow schemas, priority classes, API services.
static OBJECTS: &str = include_str!("objects.json");

/// The config map in `kube-system` from which extension API servers learn whom to trust.
const AUTHORITIES: &str = "extension-apiserver-authentication";

/// How often a write is tried that others may come before.
const ATTEMPTS: usize = 20;

/// How many are made at once, so that they share the syncs of the store.
const AT_ONCE: usize = 64;

/// The user of the server itself.
pub fn own_user() -> User {
    User::new("system:apiserver", &[MASTERS])
}

/// The recorded objects of a group.
pub fn recorded(group: &str) -> Vec<Object> {
    let objects: Vec<Value> = serde_json::from_str(OBJECTS).expect("the recorded objects are JSON");
    let of_group = |object: &Object| object.api_version().split_once('/').is_some_and(|(one, _)| one == group);
    objects.into_iter().filter_map(Object::from_value).filter(of_group).collect()
}

/// Makes or mends all of them.
///
/// # Errors
/// When one cannot be made.
pub async fn ensure(server: &Arc<Server>) -> anyhow::Result<()> {
    let mut objects: Vec<Value> = serde_json::from_str(OBJECTS)?;
    objects.extend(own_objects(server));
    let user = Arc::new(own_user());
    for stage in [&["Namespace"][..], &[][..]] {
        let now = objects.iter().filter(|object| stage.is_empty() != stage.contains(&object["kind"].as_str().unwrap_or("")));
        let work = now.map(|object| ensure_one(server, &user, object));
        let results: Vec<Result<(), Status>> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        // What another server made at the same moment is there.
        let made = |status: &Status| status.is_already_exists() || status.is_conflict();
        for status in results.into_iter().filter_map(Result::err).filter(|status| !made(status)) {
            // A server without one of them serves everything else; without the store it serves nothing.
            if status.code >= 500 {
                anyhow::bail!("cannot make the objects of a new cluster: {status}");
            }
            tracing::error!(%status, "an object of every cluster could not be made");
        }
    }
    Ok(())
}

/// Tells extension API servers who vouches for callers now. Who writes at the same moment is no reason to give up.
pub async fn tell_authorities(server: &Arc<Server>) {
    let user = Arc::new(own_user());
    for _ in 0..ATTEMPTS {
        let objects = own_objects(server);
        let wanted = objects.iter().find(|object| object["metadata"]["name"] == AUTHORITIES).expect("it is one of them");
        match ensure_one(server, &user, wanted).await {
            Ok(()) => return,
            Err(status) if status.is_conflict() => {}
            Err(status) => return tracing::error!(%status, "the authorities in force could not be written to the config map {AUTHORITIES}"),
        }
    }
}

fn own_objects(server: &Server) -> Vec<Value> {
    let config = &server.config;
    let service_ip = config.kubernetes_service_ip();
    let family = family(&service_ip);
    let cidrs: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    // Where there are several servers, their leases say where they are.
    let endpoints = if server.store.is_shared() { Vec::new() } else { crate::peers::endpoints(server, &[server.advertised()]).to_vec() };
    let mut objects = vec![
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHORITIES, "namespace": "kube-system"},
            "data": {
                "client-ca-file": server.client_authorities.pem(), "requestheader-client-ca-file": server.proxy_authorities.pem(),
                "requestheader-allowed-names": json!(crate::authenticate::front_proxy::ALLOWED_NAMES).to_string(),
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]", "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]", "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": service_ip, "clusterIPs": [service_ip], "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise_port}],
            },
        }),
    ];
    objects.extend(endpoints);
    objects
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

async fn ensure_one(server: &Arc<Server>, user: &Arc<User>, wanted: &Value) -> Result<(), Status> {
    let api_version = wanted["apiVersion"].as_str().unwrap_or("");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let catalog = server.catalog();
    let kind = wanted["kind"].as_str().unwrap_or("");
    let served = catalog.by_kind(group, version, kind).ok_or_else(|| Status::internal(format!("{api_version} {kind} is not served")))?;
    let (namespace, name) = (wanted["metadata"]["namespace"].as_str().unwrap_or(""), wanted["metadata"]["name"].as_str().unwrap_or(""));
    let path = client::ResourceId {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        plural: served.def.plural.to_string().into(),
    };
    let current = server.store.mvcc().get(&commit::key(served, namespace, name)).value;
    let (method, path, body) = match current {
        None => (Method::POST, path.collection_path(namespace), wanted.clone()),
        Some(entry) => {
            let object = codec::json::parse(&entry.bytes).map_err(Status::internal)?;
            let object = Object::from_value(object).unwrap_or_default();
            let Some(mended) = mended(&object, wanted) else { return Ok(()) };
            (Method::PUT, path.path(namespace, name, ""), mended)
        }
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(Bytes::from(body.to_string()))
        .map_err(Status::internal)?;
    server.call(user, request).await.map(drop)
}

/// What an existing object must become; `None` if it may stay.
fn mended(current: &Object, wanted: &Value) -> Option<Value> {
    let fields: &[&str] = match current.kind() {
        "ClusterRole" | "Role" => return mended_rules(current, wanted),
        "ClusterRoleBinding" | "RoleBinding" => return mended_subjects(current, wanted),
        "ConfigMap" => &["data"],
        "Endpoints" => &["subsets"],
        "EndpointSlice" => &["endpoints", "ports"],
        _ => return None,
    };
    let mut changed = current.clone();
    let mut differs = false;
    for field in fields {
        if current.get(field) != wanted.get(field) {
            differs = true;
            changed.0.insert((*field).to_owned(), wanted[*field].clone());
        }
    }
    differs.then(|| changed.into_value())
}

/// People who want to keep their changes to a role say so by this annotation.
fn is_managed(current: &Object) -> bool {
    current.annotation("rbac.authorization.kubernetes.io/autoupdate") == Some("true")
}

fn mended_rules(current: &Object, wanted: &Value) -> Option<Value> {
    // The rules of an aggregated role are the controller's.
    if !is_managed(current) || wanted["aggregationRule"].is_object() {
        return None;
    }
    with_missing(current, wanted, "rules")
}

fn mended_subjects(current: &Object, wanted: &Value) -> Option<Value> {
    if !is_managed(current) { None } else { with_missing(current, wanted, "subjects") }
}

fn with_missing(current: &Object, wanted: &Value, field: &str) -> Option<Value> {
    let mut list = current.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let missing: Vec<Value> = wanted[field].as_array().into_iter().flatten().filter(|one| !list.contains(one)).cloned().collect();
    if missing.is_empty() {
        return None;
    }
    list.extend(missing);
    let mut changed = current.clone();
    changed.0.insert(field.to_owned(), list.into());
    Some(changed.into_value())
}
