//! Makes an object.

use std::sync::Arc;

use api::{Object, Reason, Status};
use http::StatusCode;

use crate::body::RequestBody;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit::Written;
use crate::steps::decode::{self, Decoded, Expected};
use crate::steps::{commit, default, encode, mutate, prepare, validate};
use crate::write::Write;

/// Answers with the new object.
///
/// # Errors
/// What a step refuses with.
pub async fn create(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let body = request.take_body();
    let write = Write::new(server, &request, "CreateOptions")?;
    let decoded = write.told(decode_body(&write, body, request.header("content-type")).await)?;
    let written = write.told(run(&write, decoded).await)?;
    encode::written(&request, StatusCode::CREATED, &written, write.take_warnings())
}

async fn decode_body(write: &Write<'_>, body: RequestBody, content_type: &str) -> Result<Decoded, Status> {
    let served = write.served;
    let expected = Expected { schema: served.schema(), api_version: &served.api_version, kind: &served.def.kind };
    decode::decode(write, body, content_type, expected).await
}

/// The steps behind the decoding: also how updates and applies create what they do not find.
///
/// # Errors
/// What a step refuses with.
pub async fn run(write: &Write<'_>, decoded: Decoded) -> Result<Written, Status> {
    let mut defaulted = default::default(write.served, decoded);
    prepare::place(write, &mut defaulted)?;
    prepare::once_each_owner(write, defaulted.object_mut());
    write.manage(None, defaulted.object_mut());
    finish(write, defaulted).await
}

/// An object whose managed fields are kept already, by an apply.
///
/// # Errors
/// What a step refuses with.
pub async fn run_applied(write: &Write<'_>, object: Object) -> Result<Written, Status> {
    let mut defaulted = default::of_object(write.served, object);
    prepare::place(write, &mut defaulted)?;
    finish(write, defaulted).await
}

async fn finish(write: &Write<'_>, defaulted: default::Defaulted) -> Result<Written, Status> {
    if write.served.custom.as_ref().is_some_and(|custom| custom.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::new(Reason::MethodNotAllowed, why));
    }
    let generated = !defaulted.object().generate_name().is_empty();
    let mutated = mutate::mutate(write, defaulted, None).await?;
    let mut prepared = prepare::create(write, mutated);
    let reserved = crate::allocate::for_create(write, prepared.object_mut()).await?;
    let valid = validate::create(write, prepared).await?;
    let written = commit::create(write, valid, generated).await?;
    if let (Some(reserved), Written::Stored(_)) = (reserved, &written) {
        reserved.keep(write.server).await;
    }
    Ok(written)
}

/// An object that an update found missing.
///
/// # Errors
/// What a step refuses with.
pub async fn run_placed(write: &Write<'_>, object: Object) -> Result<Written, Status> {
    let mut defaulted = default::of_object(write.served, object);
    prepare::place(write, &mut defaulted)?;
    write.manage(None, defaulted.object_mut());
    finish(write, defaulted).await
}
