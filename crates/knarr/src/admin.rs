//! The local door to a running process: a unix socket for root, for images, status and log levels.
//!
//! It speaks HTTP with JSON, has no network side, and only the same user or root may connect.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use client::Client;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use image::{Image, ImageStore};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::io::StreamReader;

use crate::logging::Levels;
use crate::node::Ready;
use crate::supervise::Supervisor;

/// What the socket shows and changes.
#[derive(Clone)]
pub struct State {
    /// Log levels.
    pub levels: Levels,
    /// Components.
    pub supervisor: Supervisor,
    /// Images of the node, where there is one.
    pub images: Option<ImageStore>,
    /// Readiness of the node's parts.
    pub ready: Option<Arc<Ready>>,
    /// Reads the node's object.
    pub client: Option<Client>,
    /// Configuration files that are read again when they change.
    pub files: Arc<server::Reloads>,
    /// Name of the node.
    pub node: Option<String>,
}

/// Serves the socket until the future is dropped.
///
/// # Errors
/// The socket cannot be made.
pub async fn run(path: PathBuf, state: State) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).context("set the mode of the socket")?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, state).await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

async fn connection(stream: UnixStream, state: State) -> Result<()> {
    let peer = stream.peer_cred().context("peer credentials")?;
    if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&state, request).await) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.map_err(Into::into)
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let result = match (request.method(), path.as_str()) {
        (&Method::GET, "/status") => Ok(status(state).await),
        (&Method::GET, "/log-level") => Ok(json!({"level": state.levels.get()})),
        (&Method::PUT, "/log-level") => log_level(state, request).await,
        (&Method::GET, "/images") => images(state).map(|images| images.list().iter().map(describe).collect()),
        (&Method::POST, "/images") => import(state, request).await,
        (&Method::POST, "/images/demo") => demo(state).await,
        (&Method::DELETE, _) if path.starts_with("/images/") => remove(state, &path["/images/".len()..]).await,
        _ => Err((StatusCode::NOT_FOUND, format!("{path} is not served here"))),
    };
    let (code, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err((code, message)) => (code, json!({"error": message})),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = code;
    response
}

type Answer = Result<Value, (StatusCode, String)>;

fn failed(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}

fn images(state: &State) -> Result<&ImageStore, (StatusCode, String)> {
    state.images.as_ref().ok_or_else(|| (StatusCode::NOT_FOUND, "this process runs no node".to_owned()))
}

fn describe(image: &Image) -> Value {
    json!({"id": image.id, "names": image.names, "digests": image.digests, "size": image.size, "pinned": image.pinned})
}

/// What is ready and what is waited for, by name.
async fn status(state: &State) -> Value {
    let mut waiting: Vec<&str> = Vec::new();
    if let Some(ready) = &state.ready {
        if !*ready.kubelet.borrow() {
            waiting.push("kubelet registered");
        }
        if !*ready.dns.borrow() {
            waiting.push("DNS answering");
        }
    }
    if let (Some(node), Some(client)) = (&state.node, &state.client) {
        let path = format!("/api/v1/nodes/{node}");
        let object = client.call(Method::GET, &path, &Value::Null).await.unwrap_or(Value::Null);
        let conditions = object["status"]["conditions"].as_array();
        let is_ready = conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if !is_ready {
            waiting.push("node Ready");
        }
    }
    json!({"version": api::VERSION, "ready": waiting.is_empty(), "waitingFor": waiting, "components": state.supervisor.status(), "files": files(state)})
}

/// Each configuration file and why it could not be used, if so.
fn files(state: &State) -> Value {
    let states = state.files.states().into_iter();
    states
        .map(|(path, file)| json!({"file": path, "what": file.what, "error": file.error, "taken": file.taken, "refused": file.refused}))
        .collect()
}

async fn log_level(state: &State, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), 4096).collect().await.map_err(failed)?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    state.levels.set(text.trim()).map_err(|error| failed(format!("{error:#}")))?;
    Ok(json!({"level": text.trim()}))
}

async fn import(state: &State, request: Request<Incoming>) -> Answer {
    let images = images(state)?;
    let frames = TryStreamExt::map_err(BodyStream::new(request.into_body()), std::io::Error::other);
    let chunks = frames.try_filter_map(|frame| async move { Ok(frame.into_data().ok()) });
    let reader = StreamReader::new(Box::pin(chunks));
    let imported = images.import(reader).await.map_err(failed)?;
    Ok(imported.iter().map(describe).collect())
}

async fn demo(state: &State) -> Answer {
    let imported = image::demo::import_demo(images(state)?).await.map_err(failed)?;
    Ok(imported.iter().map(describe).collect())
}

async fn remove(state: &State, name: &str) -> Answer {
    let name = percent_decoded(name);
    images(state)?.remove(&name).await.map_err(failed)?;
    Ok(json!({"removed": name}))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
