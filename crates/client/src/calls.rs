//! The calls that components make: one method a verb, over typed kinds or raw JSON.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{ListWatch, ResourceId, Selection, Transport};

/// A user's access to the API; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

/// How a patch is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Strategic merge.
    Strategic,
    /// Server-side apply by this field manager.
    Apply {
        /// Name of the manager.
        manager: String,
        /// Take fields over from other managers.
        force: bool,
    },
}

/// What happens to dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that a pod has to stop; the kind's default where absent.
    pub grace_period_seconds: Option<i64>,
    /// Only this very object.
    pub uid: Option<String>,
    /// Only this very version.
    pub resource_version: Option<String>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn uid(uid: impl Into<String>) -> DeleteOptions {
        DeleteOptions { uid: Some(uid.into()), ..DeleteOptions::default() }
    }

    /// As the object that is sent.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            value["propagationPolicy"] = format!("{propagation:?}").into();
        }
        for (name, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                value["preconditions"][name] = text.as_str().into();
            }
        }
        value
    }
}

impl Client {
    /// A client over a transport.
    pub fn new(transport: Arc<dyn Transport>) -> Client {
        Client { transport }
    }

    /// The transport below, for what has no method here.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Objects of a selection and every change after them.
    ///
    /// # Errors
    /// The Status of the list.
    pub async fn list_watch(&self, selection: Selection) -> Result<ListWatch, Status> {
        self.transport.list_watch(selection).await
    }

    /// Any call with a JSON body (null for none), answered by JSON.
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Status> {
        let bytes = if body.is_null() { Bytes::new() } else { encode(body)? };
        let answer = self.send(method, path, "application/json", bytes).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).map_err(|error| Status::internal(format!("answer is no JSON: {error}")))
    }

    /// A call with a JSON body whose answer is not read.
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn tell(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), Status> {
        self.send(method, path, "application/json", encode(body)?).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, Status> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content_type)
            .body(body)
            .map_err(|error| Status::bad_request(format!("path {path:?}: {error}")))?;
        Ok(self.transport.call(request).await?.into_body())
    }

    /// One object.
    ///
    /// # Errors
    /// 404 where it is not there, and every other Status.
    pub async fn get<K: Resource + DeserializeOwned>(&self, namespace: &str, name: &str) -> Result<K, Status> {
        decode(self.send(Method::GET, &ResourceId::of::<K>().path(namespace, name, ""), "application/json", Bytes::new()).await?)
    }

    /// One object or nothing.
    ///
    /// # Errors
    /// Every Status but 404.
    pub async fn find<K: Resource + DeserializeOwned>(&self, namespace: &str, name: &str) -> Result<Option<K>, Status> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// All objects in a namespace (empty: in all) that match a label selector (empty: all).
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn list<K: Resource + DeserializeOwned>(&self, namespace: &str, labels: &str) -> Result<Vec<K>, Status> {
        let mut path = ResourceId::of::<K>().collection_path(namespace);
        if !labels.is_empty() {
            path.push_str("?labelSelector=");
            path.push_str(&escape(labels));
        }
        #[derive(serde::Deserialize)]
        struct List<K> {
            items: Vec<K>,
        }
        let list: List<K> = decode(self.send(Method::GET, &path, "application/json", Bytes::new()).await?)?;
        Ok(list.items)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// 409 where the name is taken, and every other Status.
    pub async fn create<
        K: Resource + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> + Serialize + DeserializeOwned,
    >(
        &self,
        object: &K,
    ) -> Result<K, Status> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or("");
        decode(self.send(Method::POST, &ResourceId::of::<K>().collection_path(namespace), "application/json", encode(object)?).await?)
    }

    /// Replaces an object; its resourceVersion guards against lost updates.
    ///
    /// # Errors
    /// 409 where another writer was faster, and every other Status.
    pub async fn update<
        K: Resource + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> + Serialize + DeserializeOwned,
    >(
        &self,
        object: &K,
    ) -> Result<K, Status> {
        self.put(object, "").await
    }

    /// Replaces the status of an object.
    ///
    /// # Errors
    /// As `update`.
    pub async fn update_status<
        K: Resource + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> + Serialize + DeserializeOwned,
    >(
        &self,
        object: &K,
    ) -> Result<K, Status> {
        self.put(object, "status").await
    }

    async fn put<K: Resource + Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> + Serialize + DeserializeOwned>(
        &self,
        object: &K,
        subresource: &str,
    ) -> Result<K, Status> {
        let metadata = object.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or("");
        let name = metadata.name.as_deref().unwrap_or("");
        decode(
            self.send(Method::PUT, &ResourceId::of::<K>().path(namespace, name, subresource), "application/json", encode(object)?).await?,
        )
    }

    /// Patches an object of any resource, or its subresource unless that is empty; the answer is the new object.
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn patch(
        &self,
        resource: &ResourceId,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: &PatchKind,
        patch: &Value,
    ) -> Result<Value, Status> {
        let mut path = resource.path(namespace, name, subresource);
        let content_type = match kind {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply { manager, force } => {
                path.push_str(&format!("?fieldManager={}&force={force}", escape(manager)));
                "application/apply-patch+yaml"
            }
        };
        decode(self.send(Method::PATCH, &path, content_type, encode(patch)?).await?)
    }

    /// Deletes an object. Finding nothing is a Status too (404).
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn delete(&self, resource: &ResourceId, namespace: &str, name: &str, options: &DeleteOptions) -> Result<(), Status> {
        let body = encode(&options.to_value())?;
        self.send(Method::DELETE, &resource.path(namespace, name, ""), "application/json", body).await.map(drop)
    }
}

/// Percent-encodes a query value.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(crate) fn query_escape(text: &str) -> String {
    escape(text)
}

fn encode(value: &impl Serialize) -> Result<Bytes, Status> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Status::internal(format!("request cannot be encoded: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: Bytes) -> Result<T, Status> {
    serde_json::from_slice(&bytes).map_err(|error| Status::internal(format!("answer cannot be decoded: {error}")))
}
