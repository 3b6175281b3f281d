//! What a kind can do beside being data: the hooks that each file of `kinds` fills, and the functions through
//! which the request pipeline runs them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::causes::Causes;
use crate::object::Object;
use crate::resources::ResourceDef;
use crate::schema::{Shape, Type};
use crate::types::object_meta;

/// Behaviour of one kind. Every hook has a default that does nothing special.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Group, empty for core.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Grammar of `metadata.name`.
    pub name: NameRule,
    /// Resets what clients may not set on create (status) and fills what the server decides without a clock.
    pub prepare_create: fn(&mut Object),
    /// The same on update; keeps what an update through this subresource may not change.
    pub prepare_update: fn(&mut Object, &Object),
    /// On update of `status` only the status (and few other fields) come from the request.
    pub prepare_status_update: fn(&mut Object, &Object),
    /// What a write through `status` never owns.
    pub status_keeps: &'static [&'static str],
    /// Validation of a new object (types inside are validated by their rules).
    pub validate: fn(&Object, &mut Causes),
    /// Validation of a change.
    pub validate_update: fn(&Object, &Object, &mut Causes),
    /// Validation of a change through `status`.
    pub validate_status_update: fn(&Object, &Object, &mut Causes),
    /// Selectable fields beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [Selectable],
    /// Values of the columns in order, `None` for the generic name and age.
    pub columns: Option<fn(&Object, &Clock) -> Vec<Value>>,
    /// Warnings for the client about deprecated or doubtful fields.
    pub warnings: fn(&Object) -> Vec<String>,
    /// Whether `spec` changes bump `metadata.generation`, and which parts count.
    pub generation: Generation,
}

/// Grammar of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain (most kinds).
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label (services).
    Label1035,
    /// Path segment: anything but `.`, `..`, `/` and `%` (RBAC and others).
    PathSegment,
    /// A canonical IP address.
    IpAddress,
}

/// What bumps the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// Any change outside metadata and status.
    Spec,
    /// The same, and any change of annotations.
    SpecAndAnnotations,
    /// The same, and any change of labels.
    SpecAndLabels,
}

/// A selectable field: its path in the object and how its text is made.
#[derive(Debug, Clone, Copy)]
pub struct Selectable {
    /// As clients write it, for example `spec.nodeName`.
    pub field: &'static str,
    /// The value, empty for absent; `spec.unschedulable` is `false` when absent.
    pub value: fn(&Object) -> Cow<'_, str>,
}

/// Times that columns need; this crate has no clock of its own.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Seconds since the epoch.
    pub now: i64,
}

impl Kind {
    /// The behaviour of a kind that has nothing special.
    pub const fn plain(group: &'static str, kind: &'static str) -> Kind {
        Kind {
            group,
            kind,
            name: NameRule::Subdomain,
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            prepare_status_update: keep_all_but_status,
            status_keeps: &["spec"],
            validate: |_, _| {},
            validate_update: |_, _, _| {},
            validate_status_update: |_, _, _| {},
            selectable: &[],
            columns: None,
            warnings: |_| Vec::new(),
            generation: Generation::None,
        }
    }
}

/// The behaviour of a kind; kinds without a file (and custom ones) are plain.
pub fn find(group: &str, kind: &str) -> &'static Kind {
    static PLAIN: Kind = Kind::plain("", "");
    static BY_NAME: OnceLock<HashMap<(&str, &str), &Kind>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| crate::kinds::ALL.iter().map(|one| ((one.group, one.kind), one)).collect());
    by_name.get(&(group, kind)).copied().unwrap_or(&PLAIN)
}

/// Validates a new object: its metadata, then what the kind says. Empty means valid.
pub fn validate_create(resource: &ResourceDef, object: &Object) -> Causes {
    let kind = of(resource);
    let mut causes = Causes::default();
    object_meta::validate_meta(object, kind.name, resource.namespaced(), &mut causes);
    (kind.validate)(object, &mut causes);
    causes
}

/// Validates a changed object through the main resource.
pub fn validate_update(resource: &ResourceDef, new: &Object, old: &Object) -> Causes {
    let kind = of(resource);
    let mut causes = Causes::default();
    // The real server checks metadata before it asks the kind, which checks it again, and tells of both.
    object_meta::validate_meta_update(new, old, &mut causes);
    object_meta::validate_meta_update(new, old, &mut causes);
    (kind.validate_update)(new, old, &mut causes);
    causes
}

/// Validates a changed object through `status`.
pub fn validate_status_update(resource: &ResourceDef, new: &Object, old: &Object) -> Causes {
    let mut causes = Causes::default();
    object_meta::validate_meta_update(new, old, &mut causes);
    (of(resource).validate_status_update)(new, old, &mut causes);
    causes
}

/// The behaviour behind a resource; custom ones are plain even if they bear the name of a built-in kind.
pub fn of(resource: &ResourceDef) -> &'static Kind {
    if resource.custom { find("", "") } else { find(&resource.group, &resource.kind) }
}

/// A status update changes only the status: everything else stays as it was, metadata's labels and the like included.
pub fn keep_all_but_status(new: &mut Object, old: &Object) {
    let status = new.0.remove("status");
    let resource_version = new.resource_version().to_owned();
    let managed = new.metadata_mut().remove("managedFields");
    *new = old.clone();
    if let Some(managed) = managed {
        new.set_meta("managedFields", managed);
    }
    if !resource_version.is_empty() {
        new.set_meta("resourceVersion", resource_version);
    }
    match status {
        Some(status) => new.0.insert("status".into(), status),
        None => new.0.remove("status"),
    };
}

/// A status update as most kinds do it: the spec stays, metadata (labels, annotations, finalizers) may change.
pub fn keep_spec(new: &mut Object, old: &Object) {
    keep(new, old, "spec");
}

/// An update as kinds with a status subresource do it: the status stays as it was.
pub fn keep_status(new: &mut Object, old: &Object) {
    keep(new, old, "status");
}

/// Takes a field of the top level from the old object.
pub fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.0.get(field) {
        Some(value) => new.0.insert(field.into(), value.clone()),
        None => new.0.remove(field),
    };
}

/// On create the status is what an empty struct prints, whatever the client sent.
pub fn reset_status(object: &mut Object, schema: &Type) {
    let Some(field) = schema.field("status") else { return };
    let status = match &field.shape {
        Shape::Ref(status) if !field.pointer => {
            let mut map = serde_json::Map::new();
            crate::normal::normalize(&mut map, status);
            Some(Value::Object(map))
        }
        _ => None,
    };
    match status {
        Some(status) => object.0.insert("status".into(), status),
        None => object.0.remove("status"),
    };
}

/// Resets the status of a built-in kind by the name of its type.
pub fn reset_status_of(object: &mut Object, type_name: &str) {
    let schema = crate::schema::builtin(type_name).expect("kinds name their own type");
    reset_status(object, &schema);
}
