//! Calls to etcd, over one connection to whichever member answers.

use std::sync::Arc;
use std::time::Duration;

use grpc::client::{Answers, Channel, Manner};
use grpc::wire::Message;
use grpc::{Code, Failure};
use http::Uri;
use tokio::sync::mpsc;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);

/// A watch has to notice that the other side is gone, and a page of large objects is as large as they are.
const MANNER: Manner =
    Manner { max_message: i32::MAX as usize, windows: (8 << 20, 32 << 20), keep_alive: Some(Duration::from_secs(10)), user_agent: None };

/// The members of one etcd cluster.
pub(super) struct Members(Channel);

impl Members {
    pub(super) fn new(endpoints: Vec<Uri>, tls: Option<Arc<rustls::ClientConfig>>) -> Members {
        Members(Channel::endpoints(endpoints.into_iter().map(with_port).collect(), tls, MANNER))
    }

    /// One request, one answer.
    pub(super) async fn call<M: Message>(&self, method: &str, request: &impl Message) -> Result<M, Failure> {
        self.0.call(method, request, Some(CALL)).await
    }

    /// The same, repeated as long as it may help and can do no harm: for reads.
    pub(super) async fn ask<M: Message>(&self, method: &str, request: &impl Message) -> Result<M, Failure> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.call(method, request).await {
                Err(failure) if matches!(failure.code, Code::Unavailable | Code::DeadlineExceeded) && pause < Duration::from_secs(2) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    /// Requests as they come, answers as they come.
    pub(super) async fn stream<R: Message>(&self, method: &str, requests: mpsc::UnboundedReceiver<R>) -> Result<Answers, Failure> {
        self.0.stream(method, requests).await
    }

    /// Gives up on the present connection: the next call tries the next member.
    pub(super) fn turn_away(&self) {
        self.0.turn_away();
    }
}

/// The address with the port that it has when it names none.
fn with_port(endpoint: Uri) -> Uri {
    let Some(authority) = endpoint.authority().filter(|authority| authority.port().is_none()) else {
        return endpoint;
    };
    let text = format!("{}://{authority}:2379", endpoint.scheme_str().unwrap_or("http"));
    text.parse().unwrap_or(endpoint)
}
