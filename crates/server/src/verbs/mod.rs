//! The verbs, one file each: a recipe that calls the steps from top to bottom.

mod apply_yaml;
pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod get;
pub mod list;
pub mod patch;
pub mod update;
pub mod watch;

use std::sync::Arc;

use api::Status;

use crate::attributes::Verb;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;

/// Serves a request for a resource, or its status, by its verb.
///
/// # Errors
/// The Status of the answer.
pub async fn serve(server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
    let verb = request.allowed.verb();
    if !is_served(&request, verb) {
        return Err(failure::method_not_allowed());
    }
    // Each has its own size, and none pays for the largest.
    match verb {
        Verb::Get => get::get(server, request),
        Verb::List => Box::pin(list::list(server, request)).await,
        Verb::Watch => Box::pin(watch::watch(server, request)).await,
        Verb::Create => Box::pin(create::create(server, request)).await,
        Verb::Update => Box::pin(update::update(server, request)).await,
        Verb::Patch => Box::pin(patch::patch(server, request)).await,
        Verb::Delete => Box::pin(delete::delete(server, request)).await,
        Verb::DeleteCollection => Box::pin(delete_collection::delete_collection(server, request)).await,
        Verb::Head | Verb::Options => Err(failure::method_not_allowed()),
    }
}

fn is_served(request: &Request, verb: Verb) -> bool {
    let subresource = &request.allowed.attributes().subresource;
    if subresource.is_empty() {
        return request.served.def.has_verb(verb.text());
    }
    let found = request.served.def.subresource(subresource);
    found.is_some_and(|one| one.verbs.iter().any(|served| &**served == verb.text()))
}
