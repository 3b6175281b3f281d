//! What a big cluster holds: custom resource definitions that nobody uses, and config maps by the hundred thousand that a
//! server has to bring back after it was killed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::ResourceId;
use http::Method;
use serde_json::{Map, Value, json};

use crate::api::each;
use crate::{Load, Measured};

const DEFINITIONS: ResourceId = ResourceId::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const CONFIG_MAPS: ResourceId = ResourceId::new("", "v1", "configmaps");
/// How many kinds one operator brings.
const KINDS: usize = 10;

/// A definition as generators of operators write them: 28 fields with their descriptions, a status with conditions, columns.
fn definition(number: usize) -> Value {
    let group = format!("operator{}.example.com", number / KINDS);
    let plural = format!("widget{number}s");
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut spec: Map<String, Value> = (0..10)
        .map(|one| {
            (
                format!("option{one}"),
                text(&format!("Option {one} chooses how the widget treats what comes in; empty leaves it to the operator.")),
            )
        })
        .collect();
    spec.insert("replicas".into(), json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 100, "default": 1, "description": "How many there shall be."}));
    spec.insert("paused".into(), json!({"type": "boolean", "description": "Whether the operator leaves the widget alone for now."}));
    spec.insert("size".into(), json!({"type": "string", "enum": ["small", "medium", "large"], "default": "medium"}));
    spec.insert("labels".into(), json!({"type": "object", "additionalProperties": {"type": "string"}}));
    spec.insert("storage".into(), json!({"type": "object", "required": ["class"], "properties": {
        "class": text("Name of the storage class."), "bytes": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}));
    spec.insert("ports".into(), json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
        "type": "object", "required": ["name"], "properties": {"name": text("Name of the port."), "port": {"type": "integer", "format": "int32"}}}}));
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {"type": text("What it is about."),
        "status": text("True, False or Unknown."), "reason": text("A word for programs."), "message": text("A sentence for people."),
        "lastTransitionTime": {"type": "string", "format": "date-time"}, "observedGeneration": {"type": "integer", "format": "int64"}}});
    let status = json!({"type": "object", "properties": {"ready": {"type": "integer", "format": "int32"},
        "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": condition}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "singular": format!("widget{number}"), "kind": format!("Widget{number}")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Ready", "type": "integer", "jsonPath": ".status.ready"}],
                "schema": {"openAPIV3Schema": {"type": "object", "description": "Widget is one widget.", "properties": {
                    "apiVersion": text("APIVersion defines the versioned schema of this representation."), "kind": text("Kind is the resource that this object represents."),
                    "metadata": {"type": "object"}, "spec": {"type": "object", "properties": spec}, "status": status}}}}]}})
}

/// Creates such definitions, and waits until the last kinds of all are served.
///
/// # Errors
/// The first refusal.
pub async fn definitions(load: &Load) -> Result<Measured> {
    let measured = each(load, |client, number| async move {
        client.call(Method::POST, &DEFINITIONS.collection_path(""), &definition(number)).await?;
        Ok(())
    })
    .await?;
    let client = load.client()?;
    for number in load.count.saturating_sub(KINDS)..load.count {
        let path = format!("/apis/operator{}.example.com/v1/widget{number}s", number / KINDS);
        let served = async {
            while client.call(Method::GET, &path, &Value::Null).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), served).await.with_context(|| format!("{path} is not served"))?;
    }
    Ok(measured)
}

fn name(number: usize) -> String {
    format!("settings-{number:06}")
}

/// Creates config maps of a kilobyte.
///
/// # Errors
/// The first refusal.
pub async fn maps(load: &Load) -> Result<Measured> {
    let text = "a line of settings as programs have them: some = 1\n".repeat(16);
    each(load, |client, number| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(number), "labels": {"made-by": "maps"}}, "data": {"settings": &text}});
        async move {
            client.call(Method::POST, &CONFIG_MAPS.collection_path("default"), &map).await?;
            Ok(())
        }
    })
    .await
}

/// Asks for the last of those config maps and for a first page of them, consistently, until both are answered. Every try
/// has a connection of its own, for the server may not be there yet.
///
/// # Errors
/// What was written is not there.
pub async fn restored(load: &Load) -> Result<Measured> {
    let begin = Measured::begin();
    let last = CONFIG_MAPS.path("default", &name(load.count - 1), "");
    let page = format!("{}?limit=500&labelSelector=made-by%3Dmaps", CONFIG_MAPS.collection_path("default"));
    loop {
        let client = load.client()?;
        let tried = async {
            client.call(Method::GET, &last, &Value::Null).await?;
            client.call(Method::GET, &page, &Value::Null).await
        };
        match tokio::time::timeout(Duration::from_secs(2), tried).await {
            Ok(Ok(page)) => {
                let listed = page["items"].as_array().map_or(0, Vec::len);
                let rest = page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize;
                if listed != load.count.min(500) {
                    bail!("{listed} config maps are on the first page, with {rest} to follow");
                }
                return Ok(Measured::new(1, begin.elapsed(), vec![begin.elapsed()]));
            }
            // Who asks before the roles were read is refused.
            Ok(Err(status)) if status.is_not_found() => bail!("{last} is lost"),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
