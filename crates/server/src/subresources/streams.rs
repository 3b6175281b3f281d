//! Logs, exec, attach and port-forward of pods: handed on to the kubelet of the pod's node, byte by byte.

use std::sync::Arc;

use api::{Object, Reason, Status};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};
use store::Kind;

use super::{Subresource, admit, proxy};
use crate::admission::Operation;
use crate::attributes::Verb;
use crate::body::ResponseBody;
use crate::dial::{self, Connected, Tls};
use crate::failure;
use crate::query::{Query, percent_encode};
use crate::request::{Reply, Request, reply};
use crate::server::Server;
use crate::steps::{commit, convert};
use crate::websocket;
use crate::write::Write;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(Streams)
}

struct Streams;

/// Largest text of a refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

#[async_trait]
impl Subresource for Streams {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural) == ("", "pods") && matches!(subresource, "log" | "exec" | "attach" | "portforward")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        let attributes = request.allowed.attributes().clone();
        let verb = request.allowed.verb();
        let allowed = matches!(verb, Verb::Get) || (verb == Verb::Create && attributes.subresource != "log");
        if !allowed {
            return Err(failure::method_not_allowed());
        }
        let key = commit::key(&request.served, &attributes.namespace, &attributes.name);
        let entry = server.store.mvcc().get(&key).value.ok_or_else(|| request.served.not_found(&attributes.name))?;
        let pod = convert::read(&request.served, &entry)?;
        if attributes.subresource != "log" {
            check_connect(server, &request).await?;
        }
        let target = path(&request.query, &attributes.subresource, &pod)?;
        let node = pod.text_at(&["spec", "nodeName"]);
        if node.is_empty() {
            if attributes.subresource == "log" {
                return Ok(reply(StatusCode::NO_CONTENT, "text/plain", Vec::new()));
            }
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
        }
        // Whoever asks for a pod is told of pods, even where it is the node that is missing.
        let kubelet = kubelet(server, node)
            .await
            .map_err(|status| if status.is_not_found() { Status::not_found("", "pods", node) } else { status })?;
        let socket = if attributes.subresource == "log" { websocket::take(&mut request.parts) } else { None };
        let mut answer = hand_on(request, kubelet, &target).await?;
        if attributes.subresource == "log" && !answer.status().is_success() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(answer).await);
        }
        if let Some(socket) = socket {
            return Ok(websocket::log(server, socket, answer));
        }
        if attributes.subresource == "log" && answer.status() == StatusCode::OK {
            answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        Ok(answer)
    }
}

/// What a kubelet says in plain text, as the Status that clients read.
async fn refusal(answer: Reply) -> Status {
    let code = answer.status().as_u16();
    let text = match answer.into_body() {
        ResponseBody::Relayed(body) => Limited::new(body, MAX_REFUSAL).collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
        _ => Bytes::new(),
    };
    let message = String::from_utf8_lossy(&text).trim_end().to_owned();
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        _ => Reason::InternalError,
    };
    Status { code, ..Status::new(reason, message) }
}

/// Lets admission see (and refuse) the connection.
async fn check_connect(server: &Arc<Server>, request: &Request) -> Result<(), Status> {
    let attributes = request.allowed.attributes();
    let kind = match attributes.subresource.as_str() {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let write = Write::new(server, request, kind)?;
    let mut options = Map::new();
    options.insert("kind".into(), kind.into());
    options.insert("apiVersion".into(), "v1".into());
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if request.query.flag(name) {
            options.insert(name.into(), true.into());
        }
    }
    let container = request.query.text("container");
    if !container.is_empty() {
        options.insert("container".into(), container.into());
    }
    let command: Vec<&str> = request.query.all("command").collect();
    if !command.is_empty() {
        options.insert("command".into(), json!(command));
    }
    admit(&write, Operation::Connect, Object(options), None).await.map(drop)
}

/// The kubelet's path for a request.
fn path(query: &Query, subresource: &str, pod: &Object) -> Result<String, Status> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let mut pairs: Vec<(String, String)> = Vec::new();
    match subresource {
        "portforward" => {
            pairs.extend(query.all("ports").flat_map(|ports| ports.split(',')).map(|port| ("port".to_owned(), port.to_owned())));
            Ok(with_query(format!("/portForward/{namespace}/{name}"), &pairs))
        }
        "log" => {
            check_log_options(query, name)?;
            let container = container(query, pod)?;
            for field in ["follow", "previous", "timestamps"] {
                if query.flag(field) {
                    pairs.push((field.to_owned(), "true".to_owned()));
                }
            }
            for field in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
                if let Some(value) = query.get(field).filter(|value| !value.is_empty()) {
                    pairs.push((field.to_owned(), value.to_owned()));
                }
            }
            Ok(with_query(format!("/containerLogs/{namespace}/{name}/{container}"), &pairs))
        }
        _ => {
            let container = container(query, pod)?;
            for (field, name) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if query.flag(field) {
                    pairs.push((name.to_owned(), "1".to_owned()));
                }
            }
            let verb = if subresource == "exec" { "exec" } else { "attach" };
            pairs.extend(query.all("command").map(|word| ("command".to_owned(), word.to_owned())));
            Ok(with_query(format!("/{verb}/{namespace}/{name}/{container}"), &pairs))
        }
    }
}

fn check_log_options(query: &Query, pod: &str) -> Result<(), Status> {
    let mut causes = api::Causes::default();
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(value) = query.number(field)?.filter(|value| *value < least) {
            let detail = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            causes.invalid(field, &Value::from(value), detail);
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", pod, &causes)) }
}

fn with_query(path: String, pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return path;
    }
    let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    format!("{path}?{}", query.join("&"))
}

/// The container that is meant: the one that is named, or the only one.
fn container(query: &Query, pod: &Object) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let list = pod.at(&["spec", field]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let wanted = query.text("container");
    if wanted.is_empty() {
        if let Some(preferred) = pod.annotation("kubectl.kubernetes.io/default-container").filter(|name| main.iter().any(|one| one == name))
        {
            return Ok(preferred.to_owned());
        }
        return match main.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
            _ => {
                let mut text = format!("a container name must be specified for pod {}, choose one of: [{}]", pod.name(), main.join(" "));
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        };
    }
    let known = main.iter().chain(&init).chain(&ephemeral).any(|one| one == wanted);
    if known { Ok(wanted.to_owned()) } else { Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name()))) }
}

/// A connection to the kubelet of a node.
///
/// # Errors
/// 404 for a node that is not there, 503 where it cannot be reached.
pub async fn kubelet(server: &Server, node: &str) -> Result<Connected, Status> {
    let entry = server.store.mvcc().get(&Kind::new(api::resources::storage_prefix("", "nodes", false)).key(node)).value;
    let entry = entry.ok_or_else(|| Status::not_found("", "nodes", node))?;
    let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value).unwrap_or_default();
    let port = object.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64).unwrap_or(10250) as u16;
    let addresses = object.at(&["status", "addresses"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let host = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|one| one["type"] == *kind)?["address"].as_str())
        .ok_or_else(|| Status::internal(format!("no preferred addresses found; known addresses: {addresses:?}")))?;
    // Addresses change under a running node; its certificate speaks for its name.
    let name = addresses.iter().find(|one| one["type"] == "Hostname").and_then(|one| one["address"].as_str()).unwrap_or(host);
    let tls = Tls { trust: server.deps.pki.kubelets.clone(), cert: Some(&server.deps.kubelet_client), name: name.to_owned() };
    dial::connect(host, port, Some(tls)).await
}

/// Sends the request on over a connection and relays the answer.
async fn hand_on(mut request: Request, target: Connected, path: &str) -> Result<Reply, Status> {
    let body = request.take_body();
    let mut parts = request.parts;
    parts.uri = path.parse::<Uri>().map_err(Status::internal)?;
    if !stream::wants_upgrade(&parts.headers) {
        parts.method = if parts.method == Method::POST { Method::POST } else { Method::GET };
        parts.headers.remove(http::header::ACCEPT_ENCODING);
    }
    parts.headers.insert(http::header::HOST, HeaderValue::from_static("kubelet"));
    proxy::strip(&mut parts.headers);
    let answer = stream::proxy_upgrade(http::Request::from_parts(parts, body), target).await;
    Ok(answer.map_err(Status::internal)?.map(ResponseBody::Relayed))
}
