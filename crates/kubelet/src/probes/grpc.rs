//! Probes by the gRPC health protocol: `grpc.health.v1.Health/Check` over plain HTTP/2, SERVING passes.

use std::time::Duration;

use grpc::client::{Channel, Manner};
use grpc::{Code, messages};
use http::Uri;
use k8s_openapi::api::core::v1::GRPCAction;

use super::{Outcome, Target};

/// Answers are a few bytes.
const MANNER: Manner = Manner { max_message: 4096, user_agent: Some("kube-probe/1.36"), ..Manner::LOCAL };

/// How long it waits to connect again.
const RECONNECT: Duration = Duration::from_secs(1);

messages! {
    HealthCheckRequest { service: String = 1 }
    HealthCheckResponse { status: i32 = 1 }
}

/// Carries the probe out.
pub async fn probe(target: &Target, action: &GRPCAction, timeout: Duration) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else {
        return Outcome::Unknown(format!("invalid port number: {}", action.port));
    };
    let service = action.service.as_deref().unwrap_or("");
    match check(&target.address, port, service, timeout).await {
        Ok(1) => Outcome::Success("service healthy".into()),
        Ok(state) => Outcome::Failure(format!("service unhealthy (responded with {:?})", state_name(state))),
        Err(why) => Outcome::Failure(why),
    }
}

fn state_name(state: i32) -> &'static str {
    match state {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

async fn check(address: &str, port: u16, service: &str, timeout: Duration) -> Result<i32, String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let endpoint: Uri = format!("http://{host}:{port}").parse().map_err(|error| format!("error: {error}"))?;
    let channel = Channel::endpoints(vec![endpoint], None, MANNER);
    let request = HealthCheckRequest { service: service.to_owned() };
    let until = tokio::time::Instant::now() + timeout;
    let answer = loop {
        let answer = channel.call("/grpc.health.v1.Health/Check", &request, Some(timeout)).await;
        // Who is not there yet has until the end of the time to come.
        match &answer {
            Err(failure) if !failure.sent && failure.code != Code::DeadlineExceeded => {
                if tokio::time::timeout_at(until, tokio::time::sleep(RECONNECT)).await.is_err() {
                    return Err(late(address, port, timeout));
                }
            }
            _ => break answer,
        }
    };
    answer.map(|HealthCheckResponse { status }| status).map_err(|failure| match failure.code {
        Code::Unimplemented => "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        Code::DeadlineExceeded => late(address, port, timeout),
        code => format!("error: health rpc probe failed: code {}: {failure}", code.number()),
    })
}

fn late(address: &str, port: u16, timeout: Duration) -> String {
    let seconds = timeout.as_secs();
    format!("timeout: failed to connect service \"{address}:{port}\" within {seconds}s: context deadline exceeded")
}
