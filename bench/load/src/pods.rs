//! Pods as a watcher sees them: created, and Running so many milliseconds later.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Change, Client, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};
use store::Entry;

use crate::{Load, Measured};

const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const NAMESPACE: &str = "default";
/// What pods run that have nothing to do.
const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// How long anything may take.
pub const LONGEST: Duration = Duration::from_secs(180);

/// Waits until a node is Ready and the default service account is there; the server may not listen yet.
///
/// # Errors
/// It takes too long.
pub async fn node_ready(load: &Load) -> Result<Measured> {
    let begin = Measured::begin();
    while begin.elapsed() < LONGEST {
        if let Ok(client) = load.client()
            && wait_for_node(&client).await.is_ok()
        {
            return Ok(Measured::new(1, begin.elapsed(), Vec::new()));
        }
        // There is nothing to be woken by before the server listens.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("no node became Ready")
}

/// Waits until a server takes pods, with or without a node; it may not listen yet.
///
/// # Errors
/// It takes too long.
pub async fn server_ready(load: &Load) -> Result<Measured> {
    let begin = Measured::begin();
    served(&load.client()?).await?;
    Ok(Measured::new(1, begin.elapsed(), Vec::new()))
}

/// Waits until the default service account is there, without which no pod is taken.
///
/// # Errors
/// It takes too long.
pub async fn served(client: &Client) -> Result<()> {
    let begin = Instant::now();
    while let Err(status) = client.call(Method::GET, &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"), &Value::Null).await
    {
        if begin.elapsed() > LONGEST {
            bail!("there is no default service account: {status}");
        }
        // There is nothing to be woken by before the server listens.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn wait_for_node(client: &Client) -> Result<()> {
    let mut watch = client.list_watch(Selection::all(NODES)).await?;
    if watch.initial.iter().any(|entry| is_ready(entry)) {
        return Ok(());
    }
    while let Some(change) = watch.changes.next().await {
        if let Change::Put(entry) = change?
            && is_ready(&entry)
        {
            return Ok(());
        }
    }
    bail!("the watch ended")
}

/// The JSON of an object.
pub fn object(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.bytes).unwrap_or_default()
}

fn is_ready(entry: &Entry) -> bool {
    let object = object(entry);
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Creates `COUNT` pods, one after the other, each when the one before is Running.
///
/// # Errors
/// A pod does not run in time.
pub async fn one_by_one(load: &Load) -> Result<Measured> {
    let mut pods = Pods::open(load).await?;
    let begin = Measured::begin();
    let mut each = Vec::new();
    for number in 0..load.count {
        let started = pods.create(number, PAUSE, &[]).await?;
        let running = pods.all_running(&[number]).await?;
        each.push(running[&number].duration_since(started));
    }
    let wall = begin.elapsed();
    pods.delete().await?;
    Ok(Measured::new(load.count, wall, each))
}

/// Creates `COUNT` pods at once. They are left running unless `CLIENTS` is 0, so that their cost can be measured.
///
/// # Errors
/// A pod does not run in time.
pub async fn at_once(load: &Load) -> Result<Measured> {
    let mut pods = Pods::open(load).await?;
    let numbers: Vec<usize> = (0..load.count).collect();
    let begin = Measured::begin();
    let started = futures_util::future::try_join_all(numbers.iter().map(|number| pods.create(*number, PAUSE, &[]))).await?;
    let running = pods.all_running(&numbers).await?;
    let wall = begin.elapsed();
    let each = numbers.iter().map(|number| running[number].duration_since(started[*number])).collect();
    if load.clients == 0 {
        pods.delete().await?;
    }
    Ok(Measured::new(load.count, wall, each))
}

/// Pods that this program made, and what happens to them.
pub struct Pods {
    client: Client,
    changes: client::ChangeStream,
}

impl Pods {
    /// Begins to watch, after pods of an earlier run are gone.
    ///
    /// # Errors
    /// A refusal, or a pod that does not go.
    pub async fn open(load: &Load) -> Result<Pods> {
        let client = load.client()?;
        served(&client).await?;
        let selection = Selection::all(PODS).in_namespace(NAMESPACE).with_labels("made-by=load");
        let watch = client.list_watch(selection).await?;
        let mut pods = Pods { client, changes: watch.changes };
        if !watch.initial.is_empty() {
            pods.delete().await?;
        }
        Ok(pods)
    }

    /// Creates one of them, and says when. Where there is no command, the image says what runs.
    ///
    /// # Errors
    /// A refusal.
    pub async fn create(&self, number: usize, image: &str, command: &[&str]) -> Result<Instant> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("load-{number}"), "labels": {"made-by": "load"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": image, "command": command, "imagePullPolicy": "IfNotPresent"}]}});
        let started = Instant::now();
        self.client.call(Method::POST, &PODS.collection_path(NAMESPACE), &pod).await?;
        Ok(started)
    }

    /// When each of these pods was first seen Running.
    ///
    /// # Errors
    /// The watch ends, or nothing happens any more.
    pub async fn all_running(&mut self, numbers: &[usize]) -> Result<HashMap<usize, Instant>> {
        let mut running = HashMap::new();
        while running.len() < numbers.len() {
            let entry = self.next().await?;
            let Change::Put(entry) = entry else { continue };
            let object = object(&entry);
            let number =
                object["metadata"]["name"].as_str().and_then(|name| name.strip_prefix("load-")).and_then(|number| number.parse().ok());
            if let Some(number) = number.filter(|number| numbers.contains(number))
                && object["status"]["phase"] == "Running"
            {
                running.entry(number).or_insert_with(Instant::now);
            }
        }
        Ok(running)
    }

    /// Deletes all pods and waits until none is left.
    ///
    /// # Errors
    /// They take too long.
    pub async fn delete(&mut self) -> Result<()> {
        let path = format!("{}?labelSelector=made-by%3Dload", PODS.collection_path(NAMESPACE));
        self.client.call(Method::DELETE, &path, &Value::Null).await?;
        let begin = Instant::now();
        loop {
            let left = self.client.call(Method::GET, &path, &Value::Null).await?;
            if left["items"].as_array().is_none_or(Vec::is_empty) {
                return Ok(());
            }
            if begin.elapsed() > LONGEST {
                bail!("pods were not deleted in time");
            }
            self.next().await?;
        }
    }

    async fn next(&mut self) -> Result<Change> {
        let change = tokio::time::timeout(LONGEST, self.changes.next()).await.context("nothing happens any more")?;
        Ok(change.context("the watch ended")??)
    }
}
