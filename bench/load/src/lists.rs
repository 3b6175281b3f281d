//! Many pods that nobody schedules, and whole lists of them. A list is read and dropped as it comes, so that what is
//! measured is the server and not a client that gathers and decodes.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{Connect, ResourceId};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::api::each;
use crate::{Load, Measured};

const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const NAMESPACE: &str = "default";

/// A pod as small web services have them. Its scheduler does not exist, so that it stays what it is.
fn pod(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("web-7d4b9c6f5-{number:05}"),
        "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5", "made-by": "fill"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "web", "image": "registry.example.com/shop/web:1.27.4",
            "env": [{"name": "LISTEN", "value": ":8080"}, {"name": "LOG_LEVEL", "value": "info"}],
            "ports": [{"containerPort": 8080, "name": "http"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}}]}})
}

/// Creates such pods.
///
/// # Errors
/// The first refusal.
pub async fn fill(load: &Load) -> Result<Measured> {
    each(load, |client, number| async move {
        client.call(Method::POST, &PODS.collection_path(NAMESPACE), &pod(number)).await?;
        Ok(())
    })
    .await
}

/// Lists all pods `COUNT` times in this encoding.
///
/// # Errors
/// A list fails or its connection breaks.
pub async fn lists(load: &Load, accept: &str) -> Result<Measured> {
    let mut connection = Connection::open(load.connect()?).await?;
    connection.read("/version", "application/json").await?;
    let begin = Measured::begin();
    let (mut each, mut bytes) = (Vec::new(), 0);
    for _ in 0..load.count {
        let begin = Instant::now();
        bytes += connection.read(&PODS.collection_path(""), accept).await?;
        each.push(begin.elapsed());
    }
    Ok(Measured { bytes, ..Measured::new(load.count, begin.elapsed(), each) })
}

/// One connection with the windows that client-go has.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    server: String,
}

impl Connection {
    async fn open(connect: Connect) -> Result<Connection> {
        let server = connect.server.clone();
        let authority = server.strip_prefix("https://").context("the server's address is not https")?.trim_end_matches('/');
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let tcp = TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(connect.tls).connect(ServerName::try_from(host.to_owned())?, tcp).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(1 << 30)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(connection);
        Ok(Connection { sender, server })
    }

    /// Reads an answer to its end; tells its size.
    async fn read(&mut self, path: &str, accept: &str) -> Result<u64> {
        let request = Request::get(format!("{}{path}", self.server)).header("accept", accept).body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let (status, mut body, mut bytes) = (answer.status(), answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
        if !status.is_success() {
            bail!("GET {path}: the server answered {status}");
        }
        Ok(bytes)
    }
}
