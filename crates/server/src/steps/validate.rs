//! Validation by kind and schema, then validating admission.

use std::sync::Arc;

use api::{Causes, Object, Status};

use super::prepare::Prepared;
use crate::admission::{Admission, Operation};
use crate::catalog::custom_rules;
use crate::expressions;
use crate::write::Write;

/// An object that may be stored.
pub struct Valid(pub(crate) Object);

impl Valid {
    /// The object.
    pub fn object(&self) -> &Object {
        &self.0
    }

    /// The object, for the parts that the server allocates.
    pub fn object_mut(&mut self) -> &mut Object {
        &mut self.0
    }
}

/// Validates a new object.
///
/// # Errors
/// 422 with every cause, or what a plugin refuses with.
pub async fn create(write: &Write<'_>, prepared: Prepared) -> Result<Valid, Status> {
    let object = prepared.0;
    let mut causes = api::kinds::validate_create(&write.served.def, &object);
    if write.served.custom.is_some() {
        custom_rules::validate(write.served, &object, None, false, &mut causes);
    } else {
        expressions::check(&object, &mut causes);
    }
    refuse(write, &object, &causes)?;
    if write.served.custom.is_none() {
        write.warn_all((write.served.kind.warnings)(&object));
    }
    admit(write, object, None).await
}

/// Validates a changed object.
///
/// # Errors
/// 422 with every cause, or what a plugin refuses with.
pub async fn update(write: &Write<'_>, prepared: Prepared, old: &Arc<Object>) -> Result<Valid, Status> {
    let object = prepared.0;
    let def = &write.served.def;
    let mut causes = match write.subresource() {
        "status" => api::kinds::validate_status_update(def, &object, old),
        _ => api::kinds::validate_update(def, &object, old),
    };
    if write.served.custom.is_some() {
        custom_rules::validate(write.served, &object, Some(old), write.subresource() == "status", &mut causes);
    } else if write.subresource().is_empty() {
        expressions::check(&object, &mut causes);
    }
    refuse(write, &object, &causes)?;
    if write.served.custom.is_none() && write.subresource().is_empty() {
        write.warn_all((write.served.kind.warnings)(&object));
    }
    admit(write, object, Some(old)).await
}

/// Runs validating admission for an object of which a subresource changed its part.
///
/// # Errors
/// What a plugin refuses with.
pub async fn part(write: &Write<'_>, prepared: Prepared, old: &Arc<Object>) -> Result<Valid, Status> {
    admit(write, prepared.0, Some(old)).await
}

/// An object whose change was checked by the subresource that made it.
pub fn done(prepared: Prepared) -> Valid {
    Valid(prepared.0)
}

fn refuse(write: &Write<'_>, object: &Object, causes: &Causes) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    // What is refused for its kind is named by it.
    let kind = if write.served.custom.is_some() { object.kind() } else { &write.served.def.kind };
    Err(Status::invalid(&write.served.def.group, kind, object.name(), causes))
}

async fn admit(write: &Write<'_>, object: Object, old: Option<&Arc<Object>>) -> Result<Valid, Status> {
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    let mut admission = Admission::of_write(write, operation, Some(object), old.cloned());
    write.server.admission.validate(write.server, &mut admission).await?;
    write.warn_all(std::mem::take(&mut admission.warnings));
    write.hold(std::mem::take(&mut admission.holds));
    Ok(Valid(admission.object.expect("a create or update has an object")))
}
