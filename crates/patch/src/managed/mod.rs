//! Server-side apply and `managedFields`: who owns which field, and what happens when owners disagree.
//!
//! Every write goes through [`update`] (creates, updates, all patches) or [`apply`] (the apply patch), after
//! defaulting and before admission; after admission changed the object, [`update`] runs again for the same writer.

mod field_set;

use api::{Object, Status, TypeRef};

pub use field_set::FieldSet;

/// How a writer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Anything else.
    Update,
}

/// Who writes, through what, when.
#[derive(Debug, Clone, Copy)]
pub struct ManagedBy<'a> {
    /// `fieldManager`, or what the user agent says.
    pub manager: &'a str,
    /// Version of the request, for example `apps/v1`.
    pub api_version: &'a str,
    /// `status`, `scale`..., empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 time of the write.
    pub time: &'a str,
}

/// What the functions here must know of the kind.
pub trait Managed {
    /// The type of the kind in a version (`apps/v1`); `None` for a version that is not served any more.
    fn schema(&self, api_version: &str) -> Option<TypeRef>;

    /// The object in another version; `None` where it cannot be converted.
    fn convert(&self, object: &Object, api_version: &str) -> Option<Object>;

    /// Fields that a write through this subresource never owns, as paths of names: `[["status"]]` for the object itself
    /// of a kind whose status is a subresource, `[["spec"], ["metadata"]...]` for `status`.
    fn reset(&self, subresource: &str) -> Vec<Vec<&'static str>>;
}

/// One field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other owner as messages name it: `"kubectl-scale" using apps/v1`.
    pub owner: String,
    /// The field, for example `.spec.replicas`.
    pub field: String,
}

/// Why an apply patch was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that the configuration wants to change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is not acceptable.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    let _ = conflicts;
    String::new()
}

impl ApplyError {
    /// The answer to the client: 409 with a cause per field, or the refusal.
    pub fn status(&self) -> Status {
        match self {
            ApplyError::Conflicts(_) => Status::new(api::Reason::Conflict, self.to_string()),
            ApplyError::Refused(status) => (**status).clone(),
        }
    }
}

/// Keeps `managedFields` of `new` for a write that is no apply. `live` is `None` on create.
///
/// Both objects are complete, normalized and defaulted. When nothing but times of managed fields differs, `new` gets
/// the live ones, so that the caller sees an unchanged object.
pub fn update(live: Option<&Object>, new: &mut Object, by: &ManagedBy, kind: &dyn Managed) {
    let _ = (live, new, by, kind);
}

/// Applies a configuration. `live` is `None` when the object does not exist (then the result is what to create).
///
/// The result is not defaulted. It equals `live` when the apply changes nothing.
pub fn apply(live: Option<&Object>, config: &Object, by: &ManagedBy, force: bool, kind: &dyn Managed) -> Result<Object, ApplyError> {
    let _ = (live, config, by, force, kind);
    Err(ApplyError::Refused(Box::new(Status::internal("server-side apply is not available yet"))))
}
