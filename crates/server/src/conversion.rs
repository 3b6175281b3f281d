//! Custom resources between their versions: only another `apiVersion`, or whatever a webhook makes of them.
//!
//! Reading, writing and watching convert in code that cannot wait, so a conversion that is not remembered holds up its
//! thread (the runtime gets another). Lists convert all their objects in one call before they need them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use api::{Object, Status};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use store::{Entry, Key, Revision};

use crate::hook_client;
use crate::server::Server;
use crate::wait::wait;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects of one call.
const BATCH: usize = 500;
/// Bytes of converted objects that are remembered for one definition.
const REMEMBERED: usize = 16 << 20;

/// The server, for code that exists before it. Set once.
pub type Late = Arc<OnceLock<Weak<Server>>>;

/// How the versions of one definition become each other.
pub struct Converter {
    /// `clientConfig` and review version of the webhook; none for conversion by name only.
    webhook: Option<(Value, String)>,
    server: Late,
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    objects: HashMap<(Key, Revision, Box<str>), Bytes>,
    size: usize,
}

impl Remembered {
    fn put(&mut self, key: (Key, Revision, Box<str>), bytes: Bytes) {
        if self.size + bytes.len() > REMEMBERED {
            self.objects.clear();
            self.size = 0;
        }
        self.size += bytes.len();
        self.objects.insert(key, bytes);
    }
}

impl Converter {
    /// From `spec.conversion`.
    pub fn new(conversion: &Value, server: &Late) -> Arc<Converter> {
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let version = versions.filter(|version| matches!(*version, "v1" | "v1beta1")).next();
        let is_webhook = conversion["strategy"] == "Webhook";
        let webhook = is_webhook.then(|| (webhook["clientConfig"].clone(), version.unwrap_or("v1").to_owned()));
        Arc::new(Converter { webhook, server: server.clone(), remembered: Mutex::default() })
    }

    /// An object in another version.
    ///
    /// # Errors
    /// 500 where the webhook fails.
    pub fn convert(&self, object: &Object, to: &str) -> Result<Object, Status> {
        if self.webhook.is_none() {
            let mut converted = object.clone();
            let kind = object.kind().to_owned();
            converted.set_kind(to, &kind);
            return Ok(converted);
        }
        let mut converted = wait(self.call(vec![object.clone()], to))?;
        converted.pop().ok_or_else(|| Status::internal("the webhook converted nothing"))
    }

    /// A stored object in another version.
    ///
    /// # Errors
    /// 500 where the webhook fails.
    pub fn read(&self, entry: &Entry, object: Object, to: &str) -> Result<Object, Status> {
        if self.webhook.is_none() {
            return self.convert(&object, to);
        }
        let key = (entry.key.clone(), entry.revision, Box::from(to));
        let known = self.remembered.lock().objects.get(&key).cloned();
        if let Some(bytes) = known {
            return codec::json::parse(&bytes)
                .ok()
                .and_then(Object::from_value)
                .ok_or_else(|| Status::internal("a converted object is no object"));
        }
        let converted = self.convert(&object, to)?;
        self.remembered.lock().put(key, Bytes::from(codec::json::encode(&converted)));
        Ok(converted)
    }

    /// Converts stored objects all at once, so that reading them finds them.
    ///
    /// # Errors
    /// 500 where the webhook fails.
    pub async fn prepare(&self, entries: &[Arc<Entry>], to: &str) -> Result<(), Status> {
        if self.webhook.is_none() {
            return Ok(());
        }
        let mut wanted: Vec<(&Arc<Entry>, Object)> = Vec::new();
        let mut size = 0;
        for entry in entries {
            let is_known = self.remembered.lock().objects.contains_key(&(entry.key.clone(), entry.revision, Box::from(to)));
            size += entry.bytes.len();
            // What does not fit is converted when it is read.
            if is_known || size > REMEMBERED / 2 {
                continue;
            }
            let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value).unwrap_or_default();
            if object.api_version() != to {
                wanted.push((entry, object));
            }
        }
        for batch in wanted.chunks(BATCH) {
            let objects = batch.iter().map(|(_, object)| object.clone()).collect();
            let converted = self.call(objects, to).await?;
            let mut remembered = self.remembered.lock();
            for ((entry, _), object) in batch.iter().zip(converted) {
                remembered.put((entry.key.clone(), entry.revision, Box::from(to)), Bytes::from(codec::json::encode(&object)));
            }
        }
        Ok(())
    }

    async fn call(&self, objects: Vec<Object>, to: &str) -> Result<Vec<Object>, Status> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let Some((client, version)) = &self.webhook else { return Ok(objects) };
        let (from, kind) = (first.api_version().to_owned(), first.kind().to_owned());
        let fail = |why: String| Status::internal(format!("conversion webhook for {from}, Kind={kind} failed: {why}"));
        let server = self.server.get().and_then(Weak::upgrade).ok_or_else(|| fail("the server is not there".into()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects.iter().map(|object| &object.0).collect::<Vec<_>>()},
        });
        let posting = hook_client::post(&server, client, PATIENCE, "kube-apiserver", Bytes::from(review.to_string()));
        let bytes = match tokio::time::timeout(PATIENCE, posting).await {
            Ok(answer) => answer.map_err(fail)?,
            Err(_) => return Err(fail(format!("Post {:?}: context deadline exceeded", hook_client::address(client, PATIENCE)))),
        };
        let review = codec::json::parse(&bytes).map_err(|error| fail(format!("invalid response: {error}")))?;
        let response = &review["response"];
        if response["uid"] != uid.as_str() {
            return Err(fail(format!("expected response.uid={uid:?}, got {}", response["uid"])));
        }
        if response["result"]["status"] != "Success" {
            let message = response["result"]["message"].as_str().filter(|text| !text.is_empty());
            return Err(fail(message.unwrap_or("the webhook gave no message").to_owned()));
        }
        let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
        if converted.len() != objects.len() {
            return Err(fail(format!("webhook returned {} objects, expected {}", converted.len(), objects.len())));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (object, value))| {
                checked(object, value, to).map_err(|why| fail(format!("invalid converted object at index {index}: {why}")))
            })
            .collect()
    }
}

/// A webhook may change everything but what the object is: of its metadata, only labels and annotations.
fn checked(original: &Object, value: Value, to: &str) -> Result<Object, String> {
    let mut converted = Object::from_value(value).ok_or("it is no object")?;
    if converted.api_version() != to {
        return Err(format!("apiVersion must be {to:?}, got {:?}", converted.api_version()));
    }
    if converted.kind() != original.kind() {
        return Err(format!("kind must be {:?}, got {:?}", original.kind(), converted.kind()));
    }
    if converted.metadata().is_none() {
        return Err("metadata must be an object".into());
    }
    for (field, was, is) in [
        ("name", original.name(), converted.name()),
        ("namespace", original.namespace(), converted.namespace()),
        ("UID", original.uid(), converted.uid()),
    ] {
        if was != is {
            return Err(format!("must have the same {field}: {is} != {was}"));
        }
    }
    let mut metadata: Map<String, Value> = original.metadata().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match converted.metadata_mut().remove(field) {
            Some(Value::Null) | None => {
                metadata.remove(field);
            }
            Some(value) if value.as_object().is_some_and(|map| map.values().all(Value::is_string)) => {
                metadata.insert(field.into(), value);
            }
            Some(_) => return Err(format!("metadata.{field} must be a map of strings")),
        }
    }
    converted.0.insert("metadata".into(), Value::Object(metadata));
    Ok(converted)
}
