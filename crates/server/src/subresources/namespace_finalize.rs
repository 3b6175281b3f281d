//! `namespaces/finalize`: the only way to change `spec.finalizers` of a namespace.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use http::StatusCode;
use serde_json::Value;

use super::{Subresource, decoded};
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::encode;
use crate::steps::update::{Changed, guaranteed_update};
use crate::write::Write;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(NamespaceFinalize)
}

struct NamespaceFinalize;

#[async_trait]
impl Subresource for NamespaceFinalize {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural, subresource) == ("", "namespaces", "finalize")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        if request.allowed.attributes().verb != "update" {
            return Err(failure::method_not_allowed());
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "UpdateOptions")?;
        let given = decoded(&write, body, request.header("content-type")).await?;
        let written = guaranteed_update(&write, &request.allowed.attributes().name, |old| {
            let mut new = old.clone();
            let finalizers = given.at(&["spec", "finalizers"]).cloned().unwrap_or(Value::Null);
            let spec = new.map_at_mut(&["spec"]);
            match finalizers {
                Value::Array(list) if !list.is_empty() => spec.insert("finalizers".into(), list.into()),
                _ => spec.remove("finalizers"),
            };
            new.set_meta("resourceVersion", given.resource_version().to_owned());
            Ok(Changed::done(new))
        })
        .await?;
        encode::written(&request, StatusCode::OK, &written, write.take_warnings())
    }
}
