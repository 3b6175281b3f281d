//! Calls of webhooks that objects of the cluster name, by a URL or a Service: admission and conversion.

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pki::ServerTrust;
use serde_json::Value;
use store::Kind;

use crate::dial::{self, Tls};
use crate::server::Server;
use crate::subresources::endpoint;
use crate::trace;

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Where a `clientConfig` leads.
pub fn address(client: &Value, timeout: Duration) -> String {
    let seconds = timeout.as_secs();
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

/// Posts JSON to a webhook.
///
/// # Errors
/// When it does not answer, or not with success.
pub async fn post(server: &Arc<Server>, client: &Value, timeout: Duration, agent: &'static str, body: Bytes) -> Result<Bytes, String> {
    let address = address(client, timeout);
    let uri: Uri = address.parse().map_err(|error| format!("bad address {address:?}: {error}"))?;
    let bundle = STANDARD.decode(client["caBundle"].as_str().unwrap_or("")).map_err(|error| error.to_string())?;
    let bundle = String::from_utf8(bundle).map_err(|error| error.to_string())?;
    let bundle = if bundle.trim().is_empty() { server.deps.pki.server_ca.cert_pem().to_owned() } else { bundle };
    let name = uri.host().unwrap_or("").to_owned();
    let (host, port) = target(server, client, &uri)?;
    let tls = Tls { trust: ServerTrust::Authorities(vec![bundle]), cert: None, name };
    let fail = |why: String| format!("Post {address:?}: {why}");
    let stream = dial::connect(&host, port, Some(tls)).await.map_err(|status| fail(status.message))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(
            http::header::HOST,
            HeaderValue::from_str(uri.authority().map_or("", |authority| authority.as_str())).map_err(|error| error.to_string())?,
        )
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .header(http::header::USER_AGENT, agent)
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    trace::carry(request.headers_mut());
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
fn target(server: &Server, client: &Value, uri: &Uri) -> Result<(String, u16), String> {
    let service = &client["service"];
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
