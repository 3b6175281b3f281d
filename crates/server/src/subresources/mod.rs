//! Subresources that are more than a part of their object: each one file, all others are served by the verbs.

mod certificate_approval;
mod list;
mod namespace_finalize;
pub mod pod_binding;
mod pod_eviction;
mod pod_part;
mod proxy;
mod scale;
mod service_account_token;
mod streams;

pub use proxy::{endpoint, strip};

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use http::StatusCode;

use crate::admission::{Admission, Operation};
use crate::body::RequestBody;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::decode::{self, Expected};
use crate::steps::encode;
use crate::write::Write;

/// One subresource.
#[async_trait]
pub trait Subresource: Send + Sync {
    /// Whether it serves this subresource of this resource.
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool;

    /// Answers a request.
    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status>;
}

/// The subresource that a request is for, if it is an odd one.
pub fn find(request: &Request) -> Option<&'static dyn Subresource> {
    let subresource = &request.allowed.attributes().subresource;
    if subresource.is_empty() || subresource == "status" {
        return None;
    }
    let def = &request.served.def;
    list::all().iter().map(|one| &**one).find(|one| one.serves(&def.group, &def.plural, subresource))
}

/// Decodes the body as the kind that the subresource exchanges.
///
/// # Errors
/// 400, 413 and 415.
pub(crate) async fn decoded(write: &Write<'_>, body: RequestBody, content_type: &str) -> Result<Object, Status> {
    let served = write.served;
    let sub = served.def.subresource(write.subresource()).ok_or_else(crate::failure::no_such_resource)?;
    let (group, version) = if sub.version.is_empty() { (&served.def.group, &served.def.version) } else { (&sub.group, &sub.version) };
    let schema = api::schema::builtin_kind(group, version, &sub.kind)
        .ok_or_else(|| Status::internal(format!("{group}/{version} {} has no type", sub.kind)))?;
    let api_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    let expected = Expected { schema: &schema, api_version: &api_version, kind: &sub.kind };
    Ok(decode::decode(write, body, content_type, expected).await?.into_object())
}

/// Runs admission for an object that is posted to a subresource and not stored itself.
///
/// # Errors
/// What a plugin refuses with.
pub(crate) async fn admit(write: &Write<'_>, operation: Operation, object: Object, old: Option<Object>) -> Result<Object, Status> {
    let mut admission = Admission::of_write(write, operation, Some(object), old.map(Arc::new));
    admission.name = write.allowed.attributes().name.clone();
    write.server.admission.mutate(write.server, &mut admission).await?;
    write.server.admission.validate(write.server, &mut admission).await?;
    write.warn_all(std::mem::take(&mut admission.warnings));
    Ok(admission.object.expect("admission keeps the object"))
}

/// The answer of subresources that have nothing else to say.
pub(crate) fn success(request: &Request) -> Result<Reply, Status> {
    let value = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    encode::value_reply(&request.negotiated, StatusCode::CREATED, &value)
}

/// An object of another kind than the resource's, in the encoding of the request.
pub(crate) fn reply_with(request: &Request, code: StatusCode, object: &Object) -> Result<Reply, Status> {
    encode::value_reply(&request.negotiated, code, &serde_json::Value::Object(object.0.clone()))
}
