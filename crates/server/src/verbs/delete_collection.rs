//! Removes all objects of a selection.

use std::sync::Arc;

use api::Status;
use codec::ListHead;
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{self, DeleteOptions, Deleted};
use super::list;
use crate::request::{Reply, Request};
use crate::selection::Selected;
use crate::server::Server;
use crate::steps::{convert, encode};
use crate::write::Write;

/// Answers with the list of what was deleted.
///
/// # Errors
/// What the deletion of one of them refuses with; those before it are gone.
pub async fn delete_collection(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let body = request.take_body().collect().await?;
    let options = DeleteOptions::read(&request, &body)?;
    let attributes = request.allowed.attributes();
    let selected = Selected::read(&request.served, &attributes.namespace, &request.query)?;
    let found = list::find(server, &request, &selected).await?;
    let mut items: Vec<Value> = Vec::new();
    let said = Write::new(server, &request, "DeleteOptions")?;
    delete::warn_of_orphans(&said, &options);
    for entry in &found.entries {
        let one = request.allowed.within(&entry.header.namespace, &entry.header.name);
        let mut write = Write::with_options(server, &one, &request.served, Write::new(server, &request, "DeleteOptions")?.options);
        write.options.dry_run |= options.dry_run;
        let each = DeleteOptions { uid: options.uid.clone(), ..options.clone() };
        match delete::run(&write, &entry.header.name, &each).await {
            // The answer has the objects as they were listed.
            Ok(Deleted::Gone(_) | Deleted::Pending(_)) => items.push(convert::read(&request.served, entry)?.into_value()),
            Err(status) if status.is_not_found() || status.is_conflict() => {}
            Err(status) => return Err(status),
        }
    }
    let def = &request.served.def;
    let version = found.revision.to_string();
    let head = ListHead {
        api_version: &request.served.api_version,
        kind: &def.list_kind,
        resource_version: &version,
        continue_token: &found.token,
        remaining: found.remaining,
        always_continue: request.served.custom.is_some(),
    };
    let list = json!({"kind": head.kind, "apiVersion": head.api_version, "metadata": head.metadata(), "items": items});
    let plain = encode::Negotiated {
        media: if request.negotiated.media == encode::Media::Yaml { encode::Media::Yaml } else { encode::Media::Json },
        ..request.negotiated
    };
    let mut reply = encode::value_reply(&plain, StatusCode::OK, &list)?;
    encode::finish(&request, &mut reply, said.take_warnings());
    Ok(reply)
}
