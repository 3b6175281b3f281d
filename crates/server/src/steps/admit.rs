//! Admission of a request to a seat, and which requests need none.

use std::sync::Arc;

use api::Status;

use super::identify::Identified;
use crate::attributes::{Attributes, Classified, Verb};
use crate::fairness::{self, Schema, Seat, TooMany};
use crate::query::Query;
use crate::server::Server;

/// What came of it.
pub enum Admitted {
    /// The request may run while this is held; long-running requests hold nothing.
    Seated(Option<Seat>),
    /// It may not.
    Refused(TooMany),
}

/// Waits for a seat. The schema is told to the caller with whatever answer there will be.
pub async fn admit(
    server: &Server,
    caller: &Identified,
    classified: &Classified,
    query: &Query,
    told: &mut Option<Arc<Schema>>,
) -> Admitted {
    let Classified { attributes, verb } = classified;
    let Some(schema) = server.fairness.classify(caller.user(), attributes, *verb) else { return Admitted::Seated(None) };
    let schema = told.insert(schema);
    let width = |widest: u32| fairness::seats(server, attributes, *verb, Some(query), widest);
    match server.fairness.admit(schema, caller.user(), attributes, width).await {
        Ok(mut seat) => {
            seat.watch = *verb == Verb::Watch;
            Admitted::Seated(Some(seat))
        }
        Err(refused) => Admitted::Refused(refused),
    }
}

/// A seat for a list or watch of a component of the same process.
///
/// # Errors
/// 429 where none came free in time.
pub async fn admit_own(server: &Server, user: &crate::user::User, attributes: &Attributes) -> Result<Option<Seat>, Status> {
    let Some(schema) = server.fairness.classify(user, attributes, Verb::List) else { return Ok(None) };
    let width = |widest: u32| fairness::seats(server, attributes, Verb::List, None, widest);
    server.fairness.admit(&schema, user, attributes, width).await.map(Some).map_err(TooMany::status)
}

/// Whether a request may last: watches, logs, streams and proxies.
pub fn is_long_running(attributes: &Attributes, verb: Verb) -> bool {
    verb == Verb::Watch || matches!(attributes.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}
