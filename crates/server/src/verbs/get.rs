//! Reads one object: the stored bytes, as they are.

use std::sync::Arc;

use api::Status;
use http::StatusCode;

use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::{commit, encode};

/// Answers with the object of the path.
///
/// # Errors
/// 404 where there is none.
pub fn get(server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
    let attributes = request.allowed.attributes();
    let key = commit::key(&request.served, &attributes.namespace, &attributes.name);
    let entry = server.store.mvcc().get(&key).value.ok_or_else(|| request.served.not_found(&attributes.name))?;
    let mut reply = encode::entry_reply(&request, StatusCode::OK, &entry)?;
    encode::finish(&request, &mut reply, Vec::new());
    Ok(reply)
}
