//! `Table`: the server-side columns that kubectl prints.

use api::kinds::Clock;
use api::{Object, ResourceDef};
use serde_json::Value;

use crate::ListHead;

/// What of each object goes along with its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, the default.
    Metadata,
    /// All of it.
    Object,
}

/// A table of objects of one resource. `head.kind` and `head.api_version` are not used: the kind is `Table`.
/// Without columns (`head` of a watch event) `with_columns` is false: only the first event of a watch has them.
pub fn table<'a>(
    resource: &ResourceDef,
    head: &ListHead,
    objects: impl IntoIterator<Item = &'a Object>,
    include: IncludeObject,
    clock: &Clock,
) -> Value {
    let _ = (resource, head, objects.into_iter(), include, clock);
    Value::Null
}

/// A duration in seconds as kubectl prints ages: `42s`, `5m3s`, `3h`, `12d`, `2y1d`.
pub fn human_duration(seconds: i64) -> String {
    format!("{seconds}s")
}
