//! Reads one object: the stored bytes, as they are.

use std::sync::Arc;

use api::Status;
use http::StatusCode;
use store::{ReadError, Revision};

use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::{commit, encode};

/// Answers with the object of the path.
///
/// # Errors
/// 404 where there is none.
pub fn get(server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
    let attributes = request.allowed.attributes();
    let version = request.query.text("resourceVersion");
    if !version.is_empty() {
        let wanted = version.parse::<u64>().map_err(|_| failure::unexplained(failure::no_version(version)))?;
        let now = server.store.mvcc().revision();
        if wanted > now.0 {
            return Err(failure::read(ReadError::Future { asked: Revision(wanted), now }));
        }
    }
    let key = commit::key(&request.served, &attributes.namespace, &attributes.name);
    let entry = server.store.mvcc().get(&key).value.ok_or_else(|| request.served.not_found(&attributes.name))?;
    let mut reply = encode::entry_reply(&request, StatusCode::OK, &entry)?;
    encode::finish(&request, &mut reply, Vec::new());
    Ok(reply)
}
