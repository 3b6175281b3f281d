//! Events as they are written: the fields of `audit.k8s.io/v1` in their usual order.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::policy::{Level, Stage};
use crate::attributes::Attributes;

/// One event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    /// `Event`.
    pub kind: &'static str,
    /// `audit.k8s.io/v1`.
    pub api_version: &'static str,
    /// How fully.
    pub level: &'static str,
    /// The same for all events of a request.
    #[serde(rename = "auditID")]
    pub id: &'a str,
    /// When.
    pub stage: &'static str,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: &'a str,
    /// Verb.
    pub verb: &'a str,
    /// Who.
    pub user: &'a Value,
    /// As whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<&'a Value>,
    /// From where, proxies first.
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    pub source_ips: &'a [String],
    /// With what.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user_agent: &'a str,
    /// About what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<&'a Value>,
    /// With which outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<&'a Value>,
    /// What was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<&'a Value>,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<&'a Value>,
    /// When the request came.
    pub request_received_timestamp: String,
    /// When this stage was reached.
    pub stage_timestamp: String,
    /// What authorization and admission add.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Event<'a> {
    /// Names of kind, level and stage.
    pub fn names(level: Level, stage: Stage) -> (&'static str, &'static str, &'static str, &'static str) {
        ("Event", "audit.k8s.io/v1", level.text(), stage.text())
    }
}

/// A time with microseconds.
pub fn micro(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The object that a path names.
pub fn object_ref(attributes: &Attributes) -> Option<Value> {
    if !attributes.is_resource() {
        return None;
    }
    let mut found = json!({"resource": attributes.resource, "apiVersion": attributes.version});
    for (field, text) in [
        ("namespace", &attributes.namespace),
        ("name", &attributes.name),
        ("apiGroup", &attributes.group),
        ("subresource", &attributes.subresource),
    ] {
        if !text.is_empty() {
            found[field] = text.as_str().into();
        }
    }
    Some(found)
}

/// Adds what a sent object says about itself.
pub fn complete_ref(reference: &mut Value, object: &Value) {
    for (field, from) in [("namespace", "namespace"), ("name", "name"), ("uid", "uid"), ("resourceVersion", "resourceVersion")] {
        if reference[field].is_null() {
            if let Some(text) = object["metadata"][from].as_str().filter(|text| !text.is_empty()) {
                reference[field] = text.into();
            }
        }
    }
}

/// A body as JSON, whatever its encoding; none for what is no object.
pub fn body_value(bytes: &Bytes, content_type: &str) -> Option<Value> {
    if bytes.is_empty() {
        return None;
    }
    if codec::protobuf::is_protobuf(bytes) {
        let envelope = codec::protobuf::open(bytes).ok()?;
        let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
        let schema = api::schema::builtin_kind(group, version, envelope.kind)
            .or_else(|| api::schema::builtin(&format!("apis.meta.v1.{}", envelope.kind)))?;
        let mut object = codec::protobuf::decode(&envelope, &schema).ok()?;
        codec::normalize(&mut object, &schema);
        return Some(object.into_value());
    }
    if content_type.contains("yaml") {
        return codec::yaml::parse(bytes).ok();
    }
    serde_json::from_slice(bytes).ok()
}

/// Takes the managed fields out of an object, the items of a list, or the rows of a table.
pub fn drop_managed_fields(value: &mut Value) {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(value);
    for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        strip(item);
    }
    for row in value.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            strip(object);
        }
    }
}
