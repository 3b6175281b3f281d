//! Calls to servers that configuration files name: webhooks by a kubeconfig, identity providers by a URL.
//!
//! Connections are kept and used again, since such a call is on the way of a request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pki::{HotCert, Issued, Kubeconfig, ServerTrust};

use crate::dial::{self, Tls};

/// Largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;
/// Most connections that are kept.
const KEPT: usize = 32;
/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// One server.
pub struct Remote {
    uri: Uri,
    trust: ServerTrust,
    cert: Option<Arc<HotCert>>,
    name: String,
    token: Option<String>,
    token_file: Option<std::path::PathBuf>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// An answer: code and body.
pub type Answer = (u16, Bytes);

impl Remote {
    /// The server of a URL, trusted by a PEM bundle or by what the system trusts.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, authorities: Option<&str>) -> Result<Remote, String> {
        let uri: Uri = url.parse().map_err(|error| format!("bad URL {url:?}: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("bad URL {url:?}: no host"))?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let bundle = match authorities {
            Some(bundle) => bundle.to_owned(),
            None => SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default(),
        };
        let trust = ServerTrust::Authorities(vec![bundle]);
        Ok(Remote { uri, trust, cert: None, name, token: None, token_file: None, idle: Mutex::default() })
    }

    /// The server of the current context of a kubeconfig file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn of_kubeconfig(path: &Path) -> Result<Remote, String> {
        let fail = |why: String| format!("{}: {why}", path.display());
        let resolved = Kubeconfig::read(path).and_then(|config| config.resolve(None)).map_err(|error| fail(error.to_string()))?;
        let mut remote = Remote::new(&resolved.server, resolved.ca_pem.as_deref()).map_err(fail)?;
        if resolved.insecure {
            remote.trust = ServerTrust::Anybody;
        }
        if let Some(name) = resolved.tls_server_name {
            remote.name = name;
        }
        if let Some(client) = resolved.client {
            let issued = Issued::from_pem(&client.cert_pem, &client.key_pem).map_err(|error| fail(error.to_string()))?;
            remote.cert = Some(HotCert::new(issued).map_err(|error| fail(error.to_string()))?);
        }
        remote.token = resolved.token;
        remote.token_file = resolved.token_file;
        Ok(remote)
    }

    /// Posts JSON to the URL itself.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn post(&self, body: Bytes, patience: Duration) -> Result<Answer, String> {
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        self.call(Method::POST, &path, body, patience).await
    }

    /// Reads the URL itself.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn get(&self, patience: Duration) -> Result<Answer, String> {
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        self.call(Method::GET, &path, Bytes::new(), patience).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, patience: Duration) -> Result<Answer, String> {
        let verb = if method == Method::POST { "Post" } else { "Get" };
        let fail = |why: String| format!("{verb} {:?}: {why}", self.uri.to_string());
        match tokio::time::timeout(patience, self.attempt(method.clone(), path, body)).await {
            Ok(result) => result.map_err(fail),
            Err(_) => Err(fail("context deadline exceeded".into())),
        }
    }

    async fn attempt(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, String> {
        loop {
            let kept = self.idle.lock().pop();
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let request = self.request(&method, path, body.clone())?;
            let response = match sender.send_request(request).await {
                Ok(response) => response,
                // A connection that was kept may have ended meanwhile.
                Err(_) if was_kept => continue,
                Err(error) => return Err(error.to_string()),
            };
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
            let mut idle = self.idle.lock();
            if !sender.is_closed() && idle.len() < KEPT {
                idle.push(sender);
            }
            return Ok((code, body.to_bytes()));
        }
    }

    fn request(&self, method: &Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json, */*")
            .header(http::header::USER_AGENT, "kube-apiserver")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let token = match &self.token_file {
            Some(file) => std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).or_else(|| self.token.clone()),
            None => self.token.clone(),
        };
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let https = self.uri.scheme_str() == Some("https");
        let host = self.uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
        let port = self.uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let tls = https.then(|| Tls { trust: self.trust.clone(), cert: self.cert.as_ref(), name: self.name.clone() });
        let stream = dial::connect(host, port, tls).await.map_err(|status| status.message)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
