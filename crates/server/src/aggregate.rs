//! Groups that other servers serve: requests are relayed to the Service of an APIService object.
//!
//! The other server trusts our front-proxy certificate and reads from headers for whom we call.

use std::sync::{Arc, OnceLock};

use api::{Object, Reason, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pki::ServerTrust;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::Kind;

use crate::attributes::Attributes;
use crate::body::ResponseBody;
use crate::dial::{self, Connected, Tls};
use crate::query::percent_encode;
use crate::request::{Call, Reply};
use crate::server::Server;
use crate::steps::authorize::Allowed;
use crate::subresources::{endpoint, strip};
use crate::user::User;

/// Largest discovery document that is read.
const MAX_DOCUMENT: usize = 4 << 20;

/// Where a group version is served.
pub struct Service {
    object: Object,
}

/// The resource kind of the objects.
pub fn kind() -> Kind {
    Kind::new(api::resources::storage_prefix("apiregistration.k8s.io", "apiservices", false))
}

/// The other server of a path, if it has one.
pub fn service_for(server: &Server, asked: &Attributes) -> Option<Service> {
    let mut parts = asked.path.split('/').skip(1);
    if parts.next() != Some("apis") {
        return None;
    }
    let (group, version) = (parts.next()?, parts.next()?);
    find(server, group, version)
}

fn find(server: &Server, group: &str, version: &str) -> Option<Service> {
    static KIND: OnceLock<Kind> = OnceLock::new();
    let entry = server.store.mvcc().get(&KIND.get_or_init(kind).key(format!("{version}.{group}"))).value?;
    if !names_service(&entry.bytes) {
        return None;
    }
    let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)?;
    object.at(&["spec", "service"]).is_some_and(Value::is_object).then_some(Service { object })
}

/// Whether an APIService is served by somebody else. Every request of a named group asks, so the rest is skipped over.
fn names_service(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        spec: Option<Spec<'a>>,
    }
    #[derive(Deserialize)]
    struct Spec<'a> {
        #[serde(borrow)]
        service: Option<&'a RawValue>,
    }
    let service = serde_json::from_slice::<Top>(bytes).ok().and_then(|top| top.spec?.service);
    service.is_some_and(|service| service.get().starts_with('{'))
}

/// Group versions that other servers serve.
pub fn group_versions(server: &Server) -> Vec<(String, String)> {
    let snapshot = server.store.mvcc().snapshot(&kind());
    let objects = snapshot.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value));
    objects
        .filter(|object| object.at(&["spec", "service"]).is_some_and(Value::is_object))
        .map(|object| (object.text_at(&["spec", "group"]).to_owned(), object.text_at(&["spec", "version"]).to_owned()))
        .collect()
}

impl Service {
    /// An APIService that names a Service.
    pub fn new(object: Object) -> Service {
        Service { object }
    }

    fn unavailable(&self, why: &str) -> Status {
        Status::new(Reason::ServiceUnavailable, format!("error trying to reach service {}: {why}", self.object.name()))
    }

    /// A connection to one of its endpoints, with the name of the host.
    ///
    /// # Errors
    /// 503.
    pub async fn connect(&self, server: &Server) -> Result<(Connected, String), Status> {
        let text = |field: &str| self.object.text_at(&["spec", "service", field]);
        let (namespace, name) = (text("namespace"), text("name"));
        let port = self.object.at(&["spec", "service", "port"]).and_then(Value::as_u64).unwrap_or(443).to_string();
        let key = Kind::new(api::resources::storage_prefix("", "services", false)).key(format!("{namespace}/{name}"));
        let entry = server.store.mvcc().get(&key).value.ok_or_else(|| self.unavailable("service not found"))?;
        let service = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value).unwrap_or_default();
        let (host, port) = endpoint(server, &service, &port)?;
        let name = format!("{name}.{namespace}.svc");
        let insecure = self.object.at(&["spec", "insecureSkipTLSVerify"]) == Some(&Value::Bool(true));
        let trust = if insecure {
            ServerTrust::Anybody
        } else {
            let bundle = STANDARD.decode(self.object.text_at(&["spec", "caBundle"])).unwrap_or_default();
            ServerTrust::Authorities(vec![String::from_utf8_lossy(&bundle).into_owned()])
        };
        let tls = Tls { trust, cert: Some(&server.deps.front_proxy), name: name.clone() };
        Ok((dial::connect(&host, port, Some(tls)).await?, name))
    }
}

/// Says in headers for whom we call.
fn identify(headers: &mut http::HeaderMap, user: &User) -> Result<(), Status> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(Status::internal);
    headers.insert("x-remote-user", value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", percent_encode(key).to_lowercase());
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Status::internal)?;
        for one in values {
            headers.append(name.clone(), value(one)?);
        }
    }
    Ok(())
}

/// Relays a request.
///
/// # Errors
/// 503 where the other server cannot be reached.
pub async fn relay(server: &Arc<Server>, call: Call, allowed: &Allowed, service: &Service) -> Result<Reply, Status> {
    let (target, name) = service.connect(server).await?;
    let Call { mut parts, body, caller } = call;
    strip(&mut parts.headers);
    identify(&mut parts.headers, allowed.user())?;
    parts.headers.insert(http::header::HOST, HeaderValue::from_str(&name).map_err(Status::internal)?);
    if let Some(value) = caller.peer().and_then(|peer| HeaderValue::from_str(&peer.ip().to_string()).ok()) {
        parts.headers.insert("x-forwarded-for", value);
    }
    if !stream::wants_upgrade(&parts.headers) {
        parts.headers.remove(http::header::CONNECTION);
    }
    let answer = stream::proxy_upgrade(Request::from_parts(parts, body), target).await;
    Ok(answer.map_err(|error| service.unavailable(&error.to_string()))?.map(ResponseBody::Relayed))
}

/// Reads a document of another server as somebody.
///
/// # Errors
/// 503 where it cannot be read.
pub async fn fetch(server: &Server, service: &Service, user: &User, path: &str) -> Result<Value, Status> {
    let (stream, name) = service.connect(server).await?;
    let fail = |error: String| service.unavailable(&error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(path.parse::<Uri>().map_err(Status::internal)?)
        .header(http::header::HOST, name)
        .header(http::header::ACCEPT, "application/json")
        .body(Full::new(Bytes::new()))
        .map_err(Status::internal)?;
    identify(request.headers_mut(), user)?;
    let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| fail(error.to_string()))?;
    driver.abort();
    if !code.is_success() {
        return Err(fail(format!("bad status from {path}: {code}")));
    }
    codec::json::parse(&body.to_bytes()).map_err(|error| fail(error.to_string()))
}

/// The old discovery document of a group version as a part of the new one.
///
/// # Errors
/// 503 where the other server cannot be asked.
pub async fn discovery(server: &Server, group: &str, version: &str) -> Result<Value, Status> {
    let service = find(server, group, version).ok_or_else(crate::failure::no_such_resource)?;
    let list = fetch(server, &service, &crate::bootstrap::own_user(), &format!("/apis/{group}/{version}")).await?;
    let rows = list["resources"].as_array().cloned().unwrap_or_default();
    let kind = |row: &Value| {
        let text = |field: &str, usual: &str| row[field].as_str().filter(|text| !text.is_empty()).unwrap_or(usual).to_owned();
        json!({"group": text("group", group), "version": text("version", version), "kind": row["kind"]})
    };
    let main = rows.iter().filter(|row| !row["name"].as_str().unwrap_or("").contains('/'));
    let resources: Vec<Value> = main
        .map(|row| {
            let name = row["name"].as_str().unwrap_or("");
            let scope = if row["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut one = json!({
                "resource": name, "responseKind": kind(row), "scope": scope, "singularResource": row["singularName"], "verbs": row["verbs"],
            });
            for field in ["shortNames", "categories"] {
                if row[field].is_array() {
                    one[field] = row[field].clone();
                }
            }
            let prefix = format!("{name}/");
            let parts: Vec<Value> = rows
                .iter()
                .filter_map(|sub| Some(json!({"subresource": sub["name"].as_str()?.strip_prefix(&prefix)?, "responseKind": kind(sub), "verbs": sub["verbs"]})))
                .collect();
            if !parts.is_empty() {
                one["subresources"] = parts.into();
            }
            one
        })
        .collect();
    Ok(json!({"version": version, "resources": resources, "freshness": "Current"}))
}
