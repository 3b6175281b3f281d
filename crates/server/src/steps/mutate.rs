//! Mutating admission: the plugins in upstream's order, then the webhooks.

use std::sync::Arc;

use api::{Object, Status};

use super::default::{self, Defaulted};
use crate::admission::{Admission, Operation};
use crate::write::Write;

/// An object that mutating admission let through, with defaults again.
pub struct Mutated(pub(super) Object);

/// Runs mutating admission for a create or update.
///
/// # Errors
/// Whatever a plugin refuses with.
pub async fn mutate(write: &Write<'_>, defaulted: Defaulted, old: Option<&Arc<Object>>) -> Result<Mutated, Status> {
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    let mut admission = Admission::of_write(write, operation, Some(defaulted.0), old.cloned());
    write.server.admission.mutate(write.server, &mut admission).await?;
    write.warn_all(std::mem::take(&mut admission.warnings));
    let mut object = admission.object.expect("a create or update has an object");
    if admission.changed {
        default::again(write.served, &mut object);
    }
    Ok(Mutated(object))
}

/// An object whose change was admitted by the subresource that made it.
pub fn done(defaulted: Defaulted) -> Mutated {
    Mutated(defaulted.0)
}
