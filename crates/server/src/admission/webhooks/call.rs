//! One call of a webhook: the review that goes out and the answer that comes back.

use std::sync::Arc;

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::hook::Hook;
use crate::admission::Admission;
use crate::admission::facts::{self, shown};
use crate::catalog::Served;
use crate::hook_client;
use crate::server::Server;

/// What a webhook said.
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why not.
    pub status: Value,
    /// A JSON patch.
    pub patch: Option<Value>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

/// A call that failed: refused or passed over, as the hook's failure policy says.
pub fn failed(hook: &Hook, why: &str) -> Result<(), Status> {
    if hook.fails_closed {
        return Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name)));
    }
    tracing::warn!(webhook = %hook.name, %why, "a failed webhook was passed over");
    Ok(())
}

/// Calls a hook; `None` where it failed and may be passed over.
///
/// # Errors
/// 500 where it failed and may not.
pub async fn review(server: &Arc<Server>, hook: &Hook, served: &Served, admission: &Admission) -> Result<Option<Answer>, Status> {
    let uid = uuid::Uuid::new_v4().to_string();
    let body = Bytes::from(request(&uid, served, admission)?.to_string());
    let result =
        tokio::time::timeout(hook.timeout, hook_client::post(server, &hook.client, hook.timeout, "kube-apiserver-admission", body)).await;
    let why = match result {
        Ok(Ok(bytes)) => match answer(&bytes, &uid) {
            Ok(answer) => return Ok(Some(answer)),
            Err(why) => why,
        },
        Ok(Err(why)) => format!("failed to call webhook: {why}"),
        Err(_) => format!("failed to call webhook: Post {:?}: context deadline exceeded", hook_client::address(&hook.client, hook.timeout)),
    };
    failed(hook, &why).map(|()| None)
}

fn request(uid: &str, served: &Served, admission: &Admission) -> Result<Value, Status> {
    let mut request = facts::request(admission, served);
    request["uid"] = uid.into();
    request["object"] = shown(admission, admission.object.as_ref(), served)?;
    request["oldObject"] = shown(admission, admission.old.as_deref(), served)?;
    Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}))
}

fn answer(bytes: &[u8], uid: &str) -> Result<Answer, String> {
    let review = codec::json::parse(bytes).map_err(|error| format!("the answer is no JSON: {error}"))?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got none".into());
    }
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    let patch = match response["patch"].as_str().filter(|patch| !patch.is_empty()) {
        None => None,
        Some(_) if response["patchType"] != "JSONPatch" => return Err(format!("unsupported patch type {}", response["patchType"])),
        Some(text) => {
            let bytes = STANDARD.decode(text).map_err(|error| format!("the patch is no base64: {error}"))?;
            Some(codec::json::parse(&bytes).map_err(|error| format!("the patch is no JSON: {error}"))?)
        }
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Answer {
        allowed: response["allowed"] == true,
        status: response["status"].clone(),
        patch: patch.filter(|patch| patch.as_array().is_none_or(|list| !list.is_empty())),
        warnings: warnings.map(|text| text.chars().take(256).collect()).collect(),
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
    })
}
