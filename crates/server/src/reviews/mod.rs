//! Kinds that are answered and never stored: reviews of tokens and access, bindings, component statuses.

mod access;
mod bindings;
mod component_statuses;
mod list;
mod self_subject_review;
mod self_subject_rules;
mod token_review;

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use http::StatusCode;

pub use access::verb;

use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::decode::{self, Expected};
use crate::steps::encode;
use crate::write::Write;

/// One such kind.
#[async_trait]
pub trait Review: Send + Sync {
    /// Group and plural.
    fn resource(&self) -> (&'static str, &'static str);

    /// Answers a request.
    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status>;
}

/// The review that a request is for.
pub fn find(request: &Request) -> Option<&'static dyn Review> {
    let attributes = request.allowed.attributes();
    if !attributes.subresource.is_empty() {
        return None;
    }
    list::all().iter().map(|review| &**review).find(|review| review.resource() == (&*request.served.def.group, &*request.served.def.plural))
}

/// Decodes the posted object, notes who wrote which fields, lets `answer` fill its status, and sends it back.
///
/// # Errors
/// 400, and what `answer` refuses with.
pub async fn answered(
    server: &Arc<Server>,
    mut request: Request,
    answer: impl FnOnce(&Request, &mut Object) -> Result<(), Status> + Send,
) -> Result<Reply, Status> {
    let body = request.take_body();
    let write = Write::new(server, &request, "CreateOptions")?;
    let served = &request.served;
    let expected = Expected { schema: served.schema(), api_version: &served.api_version, kind: &served.def.kind };
    let mut object = decode::decode(&write, body, request.header("content-type"), expected).await?.into_object();
    write.manage(None, &mut object);
    answer(&request, &mut object)?;
    codec::normalize(&mut object, served.schema());
    let mut reply = encode::object_reply(&request, StatusCode::CREATED, &object)?;
    encode::finish(&request, &mut reply, write.take_warnings());
    Ok(reply)
}
