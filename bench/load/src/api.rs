//! Calls to the API: single ones by many clients, whole lists, and one change told to many watchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use client::{Client, PatchKind, ResourceId, Selection};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use http::Method;
use serde_json::{Value, json};

use crate::{Load, Measured};

const CONFIG_MAPS: ResourceId = ResourceId::new("", "v1", "configmaps");
const LEASES: ResourceId = ResourceId::new("coordination.k8s.io", "v1", "leases");
const NAMESPACE: &str = "default";

/// The objects that the rows after `create` read and patch.
fn name(number: usize) -> String {
    format!("load-{number}")
}

fn config_map(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(number), "namespace": NAMESPACE, "labels": {"made-by": "load"}},
        "data": {"key": "value", "text": "a hundred bytes of text, more or less, as a small configuration has, so that sizes are not all names"}})
}

/// Creates config maps, after deleting those of an earlier run.
///
/// # Errors
/// The first refusal.
pub async fn create(load: &Load) -> Result<Measured> {
    let client = load.client()?;
    client.call(Method::DELETE, &format!("{}?labelSelector=made-by%3Dload", CONFIG_MAPS.collection_path(NAMESPACE)), &Value::Null).await?;
    each(load, |client, number| async move {
        client.call(Method::POST, &CONFIG_MAPS.collection_path(NAMESPACE), &config_map(number)).await?;
        Ok(())
    })
    .await
}

/// Reads one config map again and again.
///
/// # Errors
/// The first refusal.
pub async fn get(load: &Load) -> Result<Measured> {
    each(load, |client, number| async move {
        client.call(Method::GET, &CONFIG_MAPS.path(NAMESPACE, &name(number % 100), ""), &Value::Null).await?;
        Ok(())
    })
    .await
}

/// Merge patches, each with a value of its own.
///
/// # Errors
/// The first refusal.
pub async fn patch(load: &Load) -> Result<Measured> {
    each(load, |client, number| async move {
        let patch = json!({"data": {"key": format!("value {number}")}});
        client.patch(&CONFIG_MAPS, NAMESPACE, &name(number % 100), "", &PatchKind::Merge, &patch).await?;
        Ok(())
    })
    .await
}

/// Server-side applies of leases, as a fleet of heartbeats.
///
/// # Errors
/// The first refusal.
pub async fn apply(load: &Load) -> Result<Measured> {
    each(load, |client, number| async move {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name(number % 100), "namespace": NAMESPACE},
            "spec": {"holderIdentity": format!("holder-{number}"), "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"}});
        client.patch(&LEASES, NAMESPACE, &name(number % 100), "", &PatchKind::Apply { manager: "load".into(), force: true }, &lease).await?;
        Ok(())
    })
    .await
}

/// Lists all config maps `COUNT` times.
///
/// # Errors
/// The first refusal.
pub async fn list(load: &Load) -> Result<Measured> {
    each(load, |client, _| async move {
        let path = format!("{}?resourceVersion=0", CONFIG_MAPS.collection_path(NAMESPACE));
        let request = http::Request::get(path).header("accept", "application/json").body(bytes::Bytes::new())?;
        client.transport().call(request).await?;
        Ok(())
    })
    .await
}

/// `CLIENTS` watchers of one object, which changes `COUNT` times; counts delivered events.
///
/// # Errors
/// The first refusal.
pub async fn fanout(load: &Load) -> Result<Measured> {
    let writer = load.client()?;
    let selection = Selection::all(CONFIG_MAPS).in_namespace(NAMESPACE).with_fields(format!("metadata.name={}", name(0)));
    let mut watches = Vec::new();
    for _ in 0..load.clients {
        watches.push(load.client()?.list_watch(selection.clone()).await?.changes);
    }
    let last = format!("event {}", load.count - 1);
    let begin = Measured::begin();
    let readers = watches.into_iter().map(|mut watch| {
        let last = last.clone();
        tokio::spawn(async move {
            let mut seen = 0;
            while let Some(change) = watch.next().await {
                if let client::Change::Put(entry) = change? {
                    seen += 1;
                    let end =
                        entry.bytes.windows(last.len() + 1).any(|part| part[..last.len()] == *last.as_bytes() && part[last.len()] == b'"');
                    if end {
                        break;
                    }
                }
            }
            anyhow::Ok(seen)
        })
    });
    let readers: Vec<_> = readers.collect();
    for number in 0..load.count {
        let patch = json!({"data": {"key": format!("event {number}")}});
        writer.patch(&CONFIG_MAPS, NAMESPACE, &name(0), "", &PatchKind::Merge, &patch).await?;
    }
    let mut done = 0;
    for reader in readers {
        done += reader.await??;
    }
    Ok(Measured::new(done, begin.elapsed(), Vec::new()))
}

/// Shares numbers from 0 to `COUNT` among the clients and times each call.
///
/// # Errors
/// The first failure.
pub async fn each<F, R>(load: &Load, call: F) -> Result<Measured>
where
    F: Fn(Client, usize) -> R,
    R: Future<Output = Result<()>>,
{
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..load.clients).map(|_| load.client()).collect::<Result<Vec<_>>>()?;
    for client in &clients {
        // The connection is made before the clock starts.
        client.call(Method::GET, "/version", &Value::Null).await?;
    }
    let begin = Measured::begin();
    let workers = clients.into_iter().map(|client| {
        let (next, call) = (next.clone(), &call);
        async move {
            let mut times: Vec<Duration> = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.count {
                    return anyhow::Ok(times);
                }
                let begin = Instant::now();
                call(client.clone(), number).await?;
                times.push(begin.elapsed());
            }
        }
    });
    let times = try_join_all(workers).await?;
    Ok(Measured::new(load.count, begin.elapsed(), times.into_iter().flatten().collect()))
}
