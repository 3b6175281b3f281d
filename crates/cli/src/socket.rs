//! Calls to the running process on this machine over its unix socket.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

type Body = BoxBody<Bytes, std::io::Error>;

/// A call without body, answered by JSON.
pub(crate) async fn json(socket: &Path, method: Method, path: &str) -> Result<Value> {
    let empty = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
    call(socket, method, path, empty).await
}

/// Sends text.
pub(crate) async fn put(socket: &Path, path: &str, text: &str) -> Result<Value> {
    let text = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed();
    call(socket, Method::PUT, path, text).await
}

/// Sends a file.
pub(crate) async fn upload(socket: &Path, path: &str, file: &Path) -> Result<Value> {
    let file = tokio::fs::File::open(file).await.context("open")?;
    let stream = ReaderStream::with_capacity(file, 256 << 10).map_ok(Frame::data);
    call(socket, Method::POST, path, BodyExt::boxed(StreamBody::new(stream))).await
}

async fn call(socket: &Path, method: Method, path: &str, body: Body) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {} (is knarr running, and are you root?)", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "knarr").body(body)?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    let value: Value = serde_json::from_slice(&bytes).context("answer is no JSON")?;
    if !code.is_success() {
        bail!("{}", value["error"].as_str().unwrap_or("the call was refused"));
    }
    Ok(value)
}
