//! Probes by the gRPC health protocol: `grpc.health.v1.Health/Check` over plain HTTP/2, SERVING passes.
//!
//! The two messages are so small that they are written and read by hand: field 1 of the request is the service, field
//! 1 of the answer the state.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use tokio::net::TcpStream;

use super::{Outcome, Target};

/// Largest answer that is read.
const MAX_BODY: usize = 4096;

/// Carries the probe out.
pub async fn probe(target: &Target, action: &GRPCAction, timeout: Duration) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else {
        return Outcome::Unknown(format!("invalid port number: {}", action.port));
    };
    let service = action.service.as_deref().unwrap_or("");
    match tokio::time::timeout(timeout, check(&target.address, port, service)).await {
        Ok(Ok(1)) => Outcome::Success("service healthy".into()),
        Ok(Ok(state)) => Outcome::Failure(format!("service unhealthy (responded with {:?})", state_name(state))),
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{}:{port}\" within {}s: context deadline exceeded",
            target.address,
            timeout.as_secs()
        )),
    }
}

fn state_name(state: u64) -> &'static str {
    match state {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

async fn check(address: &str, port: u16, service: &str) -> Result<u64, String> {
    let text = |error: &dyn std::fmt::Display| format!("error: {error}");
    let stream =
        TcpStream::connect((address, port)).await.map_err(|error| format!("failed to connect service \"{address}:{port}\": {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let early = status(response.headers());
    let collected = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| error.to_string())?;
    let late = collected.trailers().and_then(status);
    let body = collected.to_bytes();
    connection.abort();
    match early.or(late) {
        None | Some(0) => state(&body).ok_or_else(|| "error: the answer is no health check response".to_owned()),
        Some(12) => Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        Some(code) => Err(format!("error: health rpc probe failed: code {code}")),
    }
}

fn status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

fn varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Field 1 of the answer; absent means 0.
fn state(body: &[u8]) -> Option<u64> {
    let message = body.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, state, ..] => Some(u64::from(*state)),
        _ => None,
    }
}
