//! A connection of its own to the server, for answers that do not end by themselves: logs, watches, terminals.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http::request::Builder;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::access::{Cluster, tls};

/// Longest refusal that is read.
const MAX_REFUSAL: usize = 1 << 20;

impl Cluster {
    /// Connects, TLS done.
    pub(crate) async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let uri: http::Uri = self.resolved.server.parse().context("the kubeconfig's server is no address")?;
        let host = uri.host().context("the kubeconfig's server has no host")?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let bare = self.resolved.tls_server_name.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
        let tcp = TcpStream::connect(&authority).await.with_context(|| format!("connect to {authority}"))?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(tls(&self.resolved, &["http/1.1"])?));
        connector.connect(ServerName::try_from(bare)?, tcp).await.with_context(|| format!("TLS with {authority}"))
    }

    /// A GET with the headers that every call of this cluster carries.
    pub(crate) fn request(&self, path: &str) -> Builder {
        let request = Request::get(path).header("host", "kubernetes");
        match self.token() {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// The body of a GET, as it comes.
    pub(crate) async fn follow(&self, path: &str, accept: &str) -> Result<Incoming> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.dial().await?)).await?;
        tokio::spawn(connection);
        let request = self.request(path).header("accept", accept).body(Empty::<Bytes>::new())?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        if parts.status.is_success() {
            return Ok(body);
        }
        let body = Limited::new(body, MAX_REFUSAL).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        bail!("{}", refusal(&body))
    }
}

/// The message of a Status, or the text itself.
pub(crate) fn refusal(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str());
    message.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned)
}
