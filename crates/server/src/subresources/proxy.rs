//! `proxy` of pods, services and nodes: any HTTP request, handed on to the port behind the object.

use std::sync::Arc;

use api::{Object, Reason, Status};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use pki::ServerTrust;
use rand::seq::IndexedRandom;
use regex::Regex;
use serde_json::Value;
use store::Kind;

use super::{Subresource, streams};
use crate::body::ResponseBody;
use crate::dial::{self, Connected, Tls};
use crate::request::{Reply, Request, reply};
use crate::server::Server;

/// Largest page whose links are rewritten.
const MAX_PAGE: usize = 8 << 20;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(Proxy)
}

struct Proxy;

/// `[scheme:]name[:port]`.
struct Place<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Place<'a> {
    fn read(text: &'a str) -> Option<Place<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        Some(match parts.as_slice() {
            [name] => Place { tls: false, name, port: "" },
            [name, port] => Place { tls: false, name, port },
            [scheme @ ("http" | "https" | ""), name, port] => Place { tls: *scheme == "https", name, port },
            _ => return None,
        })
    }
}

#[async_trait]
impl Subresource for Proxy {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        group.is_empty() && matches!(plural, "pods" | "services" | "nodes") && subresource == "proxy"
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        let attributes = request.allowed.attributes().clone();
        let place = Place::read(&attributes.name)
            .ok_or_else(|| Status::bad_request(format!("invalid {} request {:?}", attributes.resource, attributes.name)))?;
        let path = request.parts.uri.path().to_owned();
        // What follows `/api/v1[/namespaces/NAMESPACE]/RESOURCE/NAME/proxy`, counted in slashes: names may begin with "proxy" too.
        let slashes = if attributes.namespace.is_empty() { 5 } else { 7 };
        let rest = path.match_indices('/').nth(slashes).map_or("", |(at, _)| &path[at..]);
        if rest.is_empty() && matches!(request.parts.method, Method::GET | Method::HEAD) {
            return redirect(&request);
        }
        let (target, host) = match attributes.resource.as_str() {
            "pods" => pod(server, &attributes.namespace, &place).await?,
            "services" => service(server, &attributes.namespace, &place).await?,
            _ => (streams::kubelet(server, place.name).await?, place.name.to_owned()),
        };
        let prefix = path[..path.len() - rest.len()].to_owned();
        hand_on(request, target, &host, rest, &prefix).await
    }
}

fn redirect(request: &Request) -> Result<Reply, Status> {
    let query = request.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{}/{query}", request.parts.uri.path());
    let mut answer = reply(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", Bytes::new());
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&to).map_err(Status::internal)?);
    Ok(answer)
}

async fn reach(host: &str, port: u16, tls: bool) -> Result<(Connected, String), Status> {
    let tls = tls.then(|| Tls { trust: ServerTrust::Anybody, cert: None, name: host.to_owned() });
    Ok((dial::connect(host, port, tls).await?, format!("{host}:{port}")))
}

fn read(server: &Server, plural: &str, rest: &str) -> Option<Object> {
    let key = Kind::new(api::resources::storage_prefix("", plural, false)).key(rest);
    let entry = server.store.mvcc().get(&key).value?;
    codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)
}

async fn pod(server: &Server, namespace: &str, place: &Place<'_>) -> Result<(Connected, String), Status> {
    let pod = read(server, "pods", &format!("{namespace}/{}", place.name)).ok_or_else(|| Status::not_found("", "pods", place.name))?;
    let containers = pod.at(&["spec", "containers"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let ports: Vec<&Value> = containers.iter().flat_map(|one| one["ports"].as_array().into_iter().flatten()).collect();
    let port = match place.port {
        "" => ports.first().and_then(|port| port["containerPort"].as_u64()).unwrap_or(80),
        text => text
            .parse()
            .ok()
            .or_else(|| ports.iter().find(|port| port["name"] == text)?["containerPort"].as_u64())
            .ok_or_else(|| Status::bad_request(format!("no port {text:?} in pod {}", place.name)))?,
    };
    match pod.text_at(&["status", "podIP"]) {
        "" => Err(Status::bad_request("address not allowed")),
        host => reach(host, port as u16, place.tls).await,
    }
}

async fn service(server: &Server, namespace: &str, place: &Place<'_>) -> Result<(Connected, String), Status> {
    let rest = format!("{namespace}/{}", place.name);
    let service = read(server, "services", &rest).ok_or_else(|| Status::not_found("", "services", place.name))?;
    let (host, port) = endpoint(server, &service, place.port)?;
    reach(&host, port, place.tls).await
}

/// A ready endpoint of a service's port, by chance.
///
/// # Errors
/// 503 where there is none.
pub fn endpoint(server: &Server, service: &Object, wanted: &str) -> Result<(String, u16), Status> {
    let none = |why: &str| Status::new(Reason::ServiceUnavailable, format!("{why} available for service {:?}", service.name()));
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let port = match wanted {
        "" if ports.len() == 1 => ports.first(),
        "" => ports.iter().find(|port| port["name"].as_str().unwrap_or("").is_empty()).or_else(|| ports.first()),
        text => ports.iter().find(|port| port["name"] == text || text.parse::<u64>().ok() == port["port"].as_u64()),
    };
    let port = port.ok_or_else(|| {
        Status::new(Reason::ServiceUnavailable, format!("no service port {wanted:?} found for service {:?}", service.name()))
    })?;
    let name = port["name"].as_str().unwrap_or("");
    if service.text_at(&["spec", "type"]) == "ExternalName" {
        return Ok((service.text_at(&["spec", "externalName"]).to_owned(), port["port"].as_u64().unwrap_or(80) as u16));
    }
    let kind = Kind::new(api::resources::storage_prefix("discovery.k8s.io", "endpointslices", false));
    let snapshot = server.store.mvcc().snapshot(&kind);
    let prefix = kind.namespace(service.namespace());
    let slices = snapshot.under(&prefix).filter(|entry| entry.header.label("kubernetes.io/service-name") == Some(service.name()));
    let mut all: Vec<(String, u16)> = Vec::new();
    for slice in slices.filter_map(|entry| serde_json::from_slice::<Value>(&entry.bytes).ok()) {
        let port = slice["ports"].as_array().into_iter().flatten().find(|port| port["name"].as_str().unwrap_or("") == name);
        let Some(number) = port.and_then(|port| port["port"].as_u64()) else { continue };
        let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|one| one["conditions"]["ready"] != false);
        all.extend(ready.filter_map(|one| Some((one["addresses"][0].as_str()?.to_owned(), number as u16))));
    }
    all.choose(&mut rand::rng()).cloned().ok_or_else(|| none("no endpoints"))
}

/// Headers that are for this server, not for the one behind it.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let ours = |name: &str| name.starts_with("impersonate-") || name.starts_with("x-remote-");
    let names: Vec<_> = headers.keys().filter(|name| ours(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

async fn hand_on(mut request: Request, target: Connected, host: &str, rest: &str, prefix: &str) -> Result<Reply, Status> {
    let body = request.take_body();
    let peer = request.peer;
    let mut parts = request.parts;
    let path = if rest.is_empty() { "/" } else { rest };
    let whole = parts.uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    parts.uri = whole.parse::<Uri>().map_err(Status::internal)?;
    strip(&mut parts.headers);
    parts.headers.insert(HOST, HeaderValue::from_str(host).map_err(Status::internal)?);
    if let Some(value) = peer.and_then(|peer| HeaderValue::from_str(&peer.ip().to_string()).ok()) {
        parts.headers.insert("x-forwarded-for", value);
    }
    if !stream::wants_upgrade(&parts.headers) {
        parts.headers.remove(http::header::CONNECTION);
    }
    let answer = stream::proxy_upgrade(http::Request::from_parts(parts, body), target).await;
    let answer = answer.map_err(|error| Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {error}")))?;
    rewritten(answer, host, prefix).await
}

/// Links and redirects to the server behind must lead through the proxy.
async fn rewritten(mut answer: http::Response<stream::Body>, host: &str, prefix: &str) -> Result<Reply, Status> {
    if let Some(to) = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()) {
        let own = to.strip_prefix("http://").or_else(|| to.strip_prefix("https://")).and_then(|rest| rest.strip_prefix(host)).unwrap_or(to);
        if own.starts_with('/') && !own.starts_with(prefix) {
            let value = HeaderValue::from_str(&format!("{prefix}{own}")).map_err(Status::internal)?;
            answer.headers_mut().insert(LOCATION, value);
        }
    }
    let html = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| kind.starts_with("text/html"));
    if !html || answer.headers().contains_key(CONTENT_ENCODING) || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(ResponseBody::Relayed));
    }
    let (mut parts, body) = answer.into_parts();
    let collected = Limited::new(body, MAX_PAGE).collect().await.map_err(Status::internal)?;
    let page = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Reply::from_parts(parts, ResponseBody::Full(Bytes::from(links(&page, prefix)))))
}

/// Puts the prefix in front of absolute paths in attributes that hold links.
fn links(page: &str, prefix: &str) -> String {
    static LINKS: std::sync::OnceLock<Regex> = std::sync::OnceLock::new();
    let links = LINKS.get_or_init(|| {
        Regex::new(r#"(?i)\b(href|src|action|cite|background|longdesc|usemap|codebase|profile|data|formaction|icon|manifest|poster)(\s*=\s*["']?)(/[^/"'\s>][^"'\s>]*|/)"#)
            .expect("a literal pattern")
    });
    links.replace_all(page, |found: &regex::Captures<'_>| format!("{}{}{prefix}{}", &found[1], &found[2], &found[3])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_through_the_proxy() {
        let page = r#"<a href="/rewriteme">test</a><a href="http://x/y">z</a><img src='/a.png'>"#;
        assert_eq!(links(page, "/p"), r#"<a href="/p/rewriteme">test</a><a href="http://x/y">z</a><img src='/p/a.png'>"#);
    }

    #[test]
    fn places() {
        let place = Place::read("https:web:8443").unwrap();
        assert!(place.tls);
        assert_eq!((place.name, place.port), ("web", "8443"));
        assert!(Place::read("a:b:c:d").is_none());
    }
}
