//! One call of a webhook: the review that goes out and the answer that comes back.

use std::sync::Arc;

use api::{Object, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pki::ServerTrust;
use serde_json::{Value, json};
use store::Kind;

use super::hook::Hook;
use crate::admission::Admission;
use crate::admission::facts::{self, shown};
use crate::catalog::Served;
use crate::dial::{self, Tls};
use crate::server::Server;
use crate::subresources::endpoint;

/// Largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;

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
    let result = tokio::time::timeout(hook.timeout, post(server, hook, body)).await;
    let why = match result {
        Ok(Ok(bytes)) => match answer(&bytes, &uid) {
            Ok(answer) => return Ok(Some(answer)),
            Err(why) => why,
        },
        Ok(Err(why)) => format!("failed to call webhook: {why}"),
        Err(_) => format!("failed to call webhook: Post {:?}: context deadline exceeded", address(hook)),
    };
    failed(hook, &why).map(|()| None)
}

fn address(hook: &Hook) -> String {
    let client = &hook.client;
    let seconds = hook.timeout.as_secs();
    if let Some(url) = client["url"].as_str() {
        let sign = if url.contains('?') { '&' } else { '?' };
        return format!("{url}{sign}timeout={seconds}s");
    }
    let service = &client["service"];
    let text = |field: &str| service[field].as_str().unwrap_or("");
    let port = service["port"].as_u64().unwrap_or(443);
    let path = text("path").trim_start_matches('/');
    format!("https://{}.{}.svc:{port}/{path}?timeout={seconds}s", text("name"), text("namespace"))
}

async fn post(server: &Arc<Server>, hook: &Hook, body: Bytes) -> Result<Bytes, String> {
    let address = address(hook);
    let uri: Uri = address.parse().map_err(|error| format!("bad address {address:?}: {error}"))?;
    let bundle = STANDARD.decode(hook.client["caBundle"].as_str().unwrap_or("")).map_err(|error| error.to_string())?;
    let bundle = String::from_utf8(bundle).map_err(|error| error.to_string())?;
    let bundle = if bundle.trim().is_empty() { server.deps.pki.server_ca.cert_pem().to_owned() } else { bundle };
    let name = uri.host().unwrap_or("").to_owned();
    let (host, port) = target(server, hook, &uri)?;
    let tls = Tls { trust: ServerTrust::Authorities(vec![bundle]), cert: None, name };
    let fail = |why: String| format!("Post {address:?}: {why}");
    let stream = dial::connect(&host, port, Some(tls)).await.map_err(|status| fail(status.message))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(
            http::header::HOST,
            HeaderValue::from_str(uri.authority().map_or("", |authority| authority.as_str())).map_err(|error| error.to_string())?,
        )
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .header(http::header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let result = async {
        let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
        let code = response.status();
        let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| fail(error.to_string()))?;
        if code.is_success() {
            return Ok(collected.to_bytes());
        }
        let text = String::from_utf8_lossy(&collected.to_bytes()).chars().take(200).collect::<String>();
        Err(format!("an error on the server ({text:?}) has prevented the request from succeeding: {code}"))
    };
    let result = result.await;
    driver.abort();
    result
}

/// Services are resolved here, not by DNS: the server need not be able to use its own cluster's.
fn target(server: &Server, hook: &Hook, uri: &Uri) -> Result<(String, u16), String> {
    let service = &hook.client["service"];
    if !service.is_object() {
        let port = uri.port_u16().unwrap_or(443);
        return Ok((uri.host().unwrap_or("").to_owned(), port));
    }
    let (namespace, name) = (service["namespace"].as_str().unwrap_or(""), service["name"].as_str().unwrap_or(""));
    let key = Kind::new(api::resources::storage_prefix("", "services", false)).key(format!("{namespace}/{name}"));
    let entry = server.store.mvcc().get(&key).value.ok_or_else(|| format!("service {name:?} not found"))?;
    let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value).unwrap_or_default();
    let port = service["port"].as_u64().unwrap_or(443).to_string();
    endpoint(server, &object, &port).map_err(|status| status.message)
}

fn request(uid: &str, served: &Served, admission: &Admission) -> Result<Value, Status> {
    let mut request = facts::request(admission, served);
    request["uid"] = uid.into();
    request["object"] = shown(admission, admission.object.as_ref(), served)?;
    request["oldObject"] = shown(admission, admission.old.as_ref(), served)?;
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
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Answer {
        allowed: response["allowed"] == true,
        status: response["status"].clone(),
        patch: patch.filter(|patch| patch.as_array().is_none_or(|list| !list.is_empty())),
        warnings: warnings.map(|text| text.chars().take(256).collect()).collect(),
    })
}
