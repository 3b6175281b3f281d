//! Probes and hooks by HTTP GET. Certificates are not verified: the pod's own are rarely issued for its address.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Outcome, Target, port};

/// Part of an answer that is read.
const MAX_BODY: usize = 10 * 1024;

/// Carries the probe out: 200 to 399 passes.
pub async fn probe(target: &Target, action: &HTTPGetAction, timeout: Duration) -> Outcome {
    match get(action, &target.container, &target.address, timeout).await {
        Ok((code, body)) if (200..400).contains(&code) => Outcome::Success(body),
        Ok((code, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        Err(why) => Outcome::Failure(why),
    }
}

/// Sends the request and gives code and body. Redirects to the same host are followed, others count as they are.
///
/// # Errors
/// No answer, in the words of an event.
pub async fn get(action: &HTTPGetAction, container: &Container, address: &str, timeout: Duration) -> Result<(u16, String), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address).to_owned();
    let port = port(container, &action.port)?;
    let tls = action.scheme.as_deref() == Some("HTTPS");
    let mut path = action.path.clone().unwrap_or_default();
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let scheme = if tls { "https" } else { "http" };
    let shown = format!("Get \"{scheme}://{}:{port}{path}\"", bracketed(&host));
    let follow = async {
        let mut path = path;
        for _ in 0..10 {
            let (code, body, location) = once(action, &host, port, tls, &path).await?;
            match location.as_deref().and_then(|location| local_path(location, &host, port)) {
                Some(next) if (300..400).contains(&code) => path = next,
                _ => return Ok((code, body)),
            }
        }
        Err("stopped after 10 redirects".to_owned())
    };
    match tokio::time::timeout(timeout, follow).await {
        Ok(result) => result.map_err(|error| format!("{shown}: {error}")),
        Err(_) => Err(format!("{shown}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The path of a redirect that stays on this host and port.
fn local_path(location: &str, host: &str, port: u16) -> Option<String> {
    if location.starts_with('/') {
        return Some(location.to_owned());
    }
    let uri: Uri = location.parse().ok()?;
    let same = uri.host() == Some(host) && uri.port_u16().unwrap_or(80) == port;
    same.then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
}

type Answer = (u16, String, Option<String>);

async fn once(action: &HTTPGetAction, host: &str, port: u16, tls: bool, path: &str) -> Result<Answer, String> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {}:{port}: connect: {}", bracketed(host), super::go_error(&error)))?;
    if !tls {
        return exchange(stream, action, host, port, path).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(unverified()).connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, action, host, port, path).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    action: &HTTPGetAction,
    host: &str,
    port: u16,
    path: &str,
) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header("Connection", "close");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    let given = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    if !given("Host") {
        request = request.header("Host", format!("{}:{port}", bracketed(host)));
    }
    if !given("User-Agent") {
        request = request.header("User-Agent", "kube-probe/1.36");
    }
    if !given("Accept") {
        request = request.header("Accept", "*/*");
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status().as_u16();
    let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    connection.abort();
    Ok((code, String::from_utf8_lossy(&body).into_owned(), location))
}

/// TLS that takes any certificate; only for probes and hooks.
fn unverified() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let make = || pki::client_config(&pki::ServerTrust::Anybody, None, &[]).expect("the provider has the default versions");
    CONFIG.get_or_init(|| Arc::new(make())).clone()
}
