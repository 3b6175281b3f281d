//! Probes by a TCP connection: being accepted passes.

use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;
use tokio::net::TcpStream;

use super::{Outcome, Target, port};

/// Carries the probe out.
pub async fn probe(target: &Target, action: &TCPSocketAction, timeout: Duration) -> Outcome {
    let port = match port(&target.container, &action.port) {
        Ok(port) => port,
        Err(why) => return Outcome::Unknown(why),
    };
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.address);
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success(String::new()),
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: connect: {}", super::go_error(&error))),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}
