//! `bindings`: the old way to bind a pod, by an object of its own.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;

use super::Review;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::decode::{self, Expected};
use crate::steps::encode;
use crate::subresources::pod_binding::bind;
use crate::write::Write;

/// The review.
pub fn review() -> Box<dyn Review> {
    Box::new(Bindings)
}

struct Bindings;

#[async_trait]
impl Review for Bindings {
    fn resource(&self) -> (&'static str, &'static str) {
        ("", "bindings")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        let body = request.take_body();
        let pods = server.catalog().find("", "v1", "pods").cloned().ok_or_else(|| Status::internal("pods are not served"))?;
        let write = Write::new(server, &request, "CreateOptions")?;
        let served = &request.served;
        let expected = Expected { schema: served.schema(), api_version: &served.api_version, kind: &served.def.kind };
        let binding = decode::decode(&write, body, request.header("content-type"), expected).await?.into_object();
        let name = binding.name().to_owned();
        let on_pods = Write::with_options(server, &request.allowed, &pods, write.options.clone());
        bind(&on_pods, &name, binding).await?;
        let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        encode::value_reply(&request.negotiated, StatusCode::CREATED, &value)
    }
}
