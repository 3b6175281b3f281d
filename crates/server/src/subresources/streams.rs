//! Logs, exec, attach, port-forward and proxies: requests that are handed on to a kubelet, pod or service.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::Subresource;
use crate::request::{Reply, Request};
use crate::server::Server;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(Streams)
}

struct Streams;

#[async_trait]
impl Subresource for Streams {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        group.is_empty()
            && match plural {
                "pods" => matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy"),
                "services" | "nodes" => subresource == "proxy",
                _ => false,
            }
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        let _ = (server, request);
        Err(Status::internal("streams are not handed on yet"))
    }
}
