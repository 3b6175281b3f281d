//! Several servers of one cluster: each says that it lives by a lease of a few seconds, and the endpoints of the Service
//! `kubernetes` are those who do.
//!
//! Leases and endpoints are where and what the real server keeps, so that both kinds can serve one cluster side by side.
//! A server with a store of its own is alone, and nothing of this runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use store::{Change, Expect, Filter, Kind, Op};
use tokio::time::Instant;

use crate::bootstrap::own_user;
use crate::server::Server;
use crate::user::User;

/// How long a server counts without a word from it.
const LIFE: Duration = Duration::from_secs(15);
/// How often it says that it lives.
const EVERY: Duration = Duration::from_secs(10);
/// How often addresses and ports are looked for that nobody has any more.
const REPAIR: Duration = Duration::from_secs(180);

fn kind() -> Kind {
    Kind::new("/registry/masterleases/".to_owned())
}

/// Starts saying so; ends with the server.
pub async fn start(server: &Arc<Server>) {
    if !server.store.is_shared() {
        return;
    }
    // The endpoints are right as soon as the server is ready.
    say(server).await;
    tell(server, &Arc::new(own_user()), None).await;
    let (task, shutdown) = (follow(server.clone()), server.shutdown.clone());
    server.tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
    let (task, shutdown) = (crate::allocate::repair(server.clone(), REPAIR), server.shutdown.clone());
    server.tasks.spawn(async move { shutdown.run_until_cancelled(task).await });
}

/// The server is about to go: nobody shall be sent to it any more.
pub async fn leave(server: &Arc<Server>) {
    if !server.store.is_shared() {
        return;
    }
    let own = server.advertised();
    let gone = Change { key: kind().key(own.to_string()), expect: Expect::Any, op: Op::Delete };
    if let Err(error) = server.store.commit(gone).await {
        tracing::warn!(%error, "the server's lease could not be given up");
    }
    tell(server, &Arc::new(own_user()), Some(own)).await;
}

/// The server is to be reached at another address: others are told at once.
pub async fn moved(server: &Arc<Server>, before: IpAddr) {
    let user = Arc::new(own_user());
    if server.store.is_shared() {
        let gone = Change { key: kind().key(before.to_string()), expect: Expect::Any, op: Op::Delete };
        if let Err(error) = server.store.commit(gone).await {
            tracing::warn!(%error, "the lease of the server's old address stays until it ends");
        }
        say(server).await;
        tell(server, &user, Some(before)).await;
        return;
    }
    for object in endpoints(server, &[server.advertised()]) {
        if let Err(status) = put(server, &user, &object).await {
            tracing::warn!(%status, "the server's new address could not be told");
        }
    }
}

async fn follow(server: Arc<Server>) {
    let user = Arc::new(own_user());
    let mut next = Instant::now() + EVERY;
    loop {
        let after = server.store.mvcc().revision();
        let Ok(mut leases) = server.store.watch(kind().all(), after, Filter::All) else {
            tokio::time::sleep(EVERY).await;
            continue;
        };
        tell(&server, &user, None).await;
        tokio::select! {
            _ = leases.next() => {}
            () = tokio::time::sleep_until(next) => {
                say(&server).await;
                next = Instant::now() + EVERY;
            }
        }
    }
}

/// Writes the lease anew.
async fn say(server: &Arc<Server>) {
    let own = server.advertised().to_string();
    let lease = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": own}, "subsets": [{"addresses": [{"ip": own}]}]});
    let put = Op::Put { raw: Bytes::from(lease.to_string()), ttl: Some(LIFE) };
    if let Err(error) = server.store.commit(Change { key: kind().key(own), expect: Expect::Any, op: put }).await {
        tracing::warn!(%error, "the server's lease could not be renewed");
    }
}

/// Makes the endpoints those of the servers that live.
async fn tell(server: &Arc<Server>, user: &Arc<User>, without: Option<IpAddr>) {
    let snapshot = server.store.mvcc().snapshot(&kind());
    let mut living: Vec<IpAddr> = snapshot.iter().filter_map(|entry| entry.key.rest.parse().ok()).collect();
    living.retain(|address| Some(*address) != without);
    living.sort_unstable();
    if living.is_empty() {
        return;
    }
    for object in endpoints(server, &living) {
        if let Err(status) = put(server, user, &object).await {
            if !status.is_conflict() {
                tracing::warn!(%status, "the endpoints of the servers could not be told");
            }
        }
    }
}

/// The two objects that tell where servers are.
pub fn endpoints(server: &Server, living: &[IpAddr]) -> [Value; 2] {
    let port = json!([{"name": "https", "port": server.config.advertise_port, "protocol": "TCP"}]);
    let addresses: Vec<Value> = living.iter().map(|address| json!({"ip": address})).collect();
    let each: Vec<Value> = living.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    let family = if living.iter().all(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    [
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": addresses, "ports": port}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "endpoints": each, "ports": port,
        }),
    ]
}

async fn put(server: &Arc<Server>, user: &Arc<User>, wanted: &Value) -> Result<(), Status> {
    let slices = wanted["kind"] == "EndpointSlice";
    let (kind, collection) = match slices {
        true => (
            api::resources::storage_prefix("discovery.k8s.io", "endpointslices", false),
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        ),
        false => (api::resources::storage_prefix("", "endpoints", false), "/api/v1/namespaces/default/endpoints"),
    };
    let current = server.store.mvcc().get(&Kind::new(kind).key("default/kubernetes")).value;
    let (method, path) = match &current {
        Some(entry) => {
            let object = codec::json::parse(&entry.bytes).unwrap_or_default();
            let fields: &[&str] = if slices { &["endpoints", "ports"] } else { &["subsets"] };
            if fields.iter().all(|field| object[field] == wanted[field]) {
                return Ok(());
            }
            (Method::PUT, format!("{collection}/kubernetes"))
        }
        None => (Method::POST, collection.to_owned()),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(Bytes::from(wanted.to_string()))
        .map_err(Status::internal)?;
    match server.call(user, request).await {
        // Another server made it at this moment.
        Err(status) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}
