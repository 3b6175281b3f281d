//! Server-side apply and `managedFields`: who owns which field, and what happens when owners disagree.
//!
//! Every write goes through [`update`] (creates, updates, all patches but one) or [`apply`] (the apply patch), after
//! defaulting and before mutating admission: what admission adds belongs to nobody.

mod combine;
mod compare;
mod entries;
mod field_set;
mod node;
mod validate;

use std::sync::OnceLock;

use api::{Object, Reason, Status, TypeRef};
use serde_json::{Map, Value, json};

use combine::with_named_fields;
use compare::{Comparison, field_set};
use entries::{Owned, Owner, Owners};
use node::Node;

pub use field_set::{FieldSet, Step};

/// Annotation in which client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Owner of what stood in an object without owners when it was applied for the first time.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Fields of every object that nobody owns.
const UNOWNED: [&[&str]; 12] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner, one.field);
    }
    let mut lines: Vec<String> = Vec::new();
    for (index, conflict) in conflicts.iter().enumerate() {
        if index == 0 || conflicts[index - 1].owner != conflict.owner {
            lines.push(format!("conflicts with {}:", conflict.owner));
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl ApplyError {
    /// The answer to the client: 409 with a cause per field, or the refusal.
    pub fn status(&self) -> Status {
        match self {
            ApplyError::Conflicts(conflicts) => {
                let mut status = Status::new(Reason::Conflict, self.to_string());
                let cause = |conflict: &Conflict| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", conflict.owner), "field": conflict.field});
                status.details = json!({"causes": conflicts.iter().map(cause).collect::<Vec<Value>>()});
                status
            }
            ApplyError::Refused(status) => (**status).clone(),
        }
    }
}

/// Keeps `managedFields` of `new` for a write that is no apply. `live` is `None` on create.
///
/// Both objects are complete, normalized and defaulted. When nothing but times of managed fields differs, `new` gets
/// the live ones, so that the caller sees an unchanged object.
pub fn update(live: Option<&Object>, new: &mut Object, by: &ManagedBy, kind: &dyn Managed) {
    let owners = owners_for_update(live, new, by);
    if live.is_some() && owners.is_empty() {
        // An object that nobody tracked stays untracked until it is applied.
        new.metadata_mut().remove("managedFields");
        return;
    }
    let mut owners = owners;
    let me = Owner::new(Operation::Update, by);
    match live {
        Some(live) => record_update(live, new, &mut owners, &me, by, kind),
        None => record_update(&empty_object(kind, by.api_version), new, &mut owners, &me, by, kind),
    }
    entries::cap(&mut owners);
    entries::write(new, &owners);
    keep_times(live, new);
}

/// Owners before an update: those in the request, so that clients can edit them, unless it says nothing about them.
fn owners_for_update(live: Option<&Object>, new: &Object, by: &ManagedBy) -> Owners {
    let live_owners = || live.and_then(entries::read).unwrap_or_default();
    if !by.subresource.is_empty() {
        return live_owners();
    }
    if entries::is_reset(new) {
        return Owners::new();
    }
    match entries::read(new) {
        Some(owners) if !owners.is_empty() => owners,
        _ => live_owners(),
    }
}

/// Gives what changed from `old` to `new` to the writer.
fn record_update(old: &Object, new: &Object, owners: &mut Owners, me: &Owner, by: &ManagedBy, kind: &dyn Managed) {
    let changed = settle(old, new, owners, None, by, kind, true).unwrap_or_default();
    let fields = changed.difference(unowned());
    if fields.is_empty() {
        return;
    }
    let time = Some(by.time.to_owned());
    match owners.get_mut(me) {
        Some(owned) => {
            owned.fields = std::mem::take(&mut owned.fields).union(&fields);
            owned.time = time;
        }
        None => {
            owners.insert(me.clone(), Owned { api_version: by.api_version.into(), time, fields });
        }
    }
}

/// Takes changed and removed fields from all owners but `except`. Without `force` a changed field that somebody owns is a
/// conflict, and nothing is taken. Returns what changed in the version of the request.
fn settle(
    old: &Object,
    new: &Object,
    owners: &mut Owners,
    except: Option<&Owner>,
    by: &ManagedBy,
    kind: &dyn Managed,
    force: bool,
) -> Result<FieldSet, Vec<Conflict>> {
    let ignored = reset_fields(kind, by.subresource);
    let compare_in = |api_version: &str| -> Option<Comparison> {
        let schema = kind.schema(api_version)?;
        let node = Node::of_type(&schema);
        if api_version == by.api_version {
            return Some(Comparison::new(&old.0, &new.0, node).exclude(&ignored));
        }
        let (old, new) = (kind.convert(old, api_version)?, kind.convert(new, api_version)?);
        Some(Comparison::new(&old.0, &new.0, node).exclude(&ignored))
    };
    // What changed, by version: mostly there is one.
    let mut versions: Vec<(String, Option<(Comparison, FieldSet)>)> = Vec::new();
    let with_changes = |compare: Comparison| {
        let changed = compare.changed();
        (compare, changed)
    };
    versions.push((by.api_version.to_owned(), compare_in(by.api_version).map(with_changes)));
    let mut conflicts = Vec::new();
    let mut taken: Vec<(Owner, Option<FieldSet>)> = Vec::new();
    for (owner, owned) in owners.iter().filter(|(owner, _)| Some(*owner) != except) {
        let place = versions.iter().position(|(version, _)| *version == owned.api_version).unwrap_or_else(|| {
            versions.push((owned.api_version.clone(), compare_in(&owned.api_version).map(with_changes)));
            versions.len() - 1
        });
        let Some((compare, changed)) = &versions[place].1 else {
            // A version that is not served any more.
            taken.push((owner.clone(), None));
            continue;
        };
        let conflict = owned.fields.intersection(changed);
        if !force {
            conflicts.extend(conflict.paths().into_iter().map(|field| Conflict { owner: owner.describe(), field }));
        }
        taken.push((owner.clone(), Some(conflict.union(&compare.removed))));
    }
    if !conflicts.is_empty() {
        conflicts.sort_by(|one, other| one.owner.cmp(&other.owner));
        return Err(conflicts);
    }
    for (owner, fields) in taken.into_iter().filter(|(_, fields)| fields.as_ref().is_none_or(|fields| !fields.is_empty())) {
        if let Some(owned) = owners.get_mut(&owner) {
            owned.fields = fields.map(|fields| owned.fields.difference(&fields)).unwrap_or_default();
        }
    }
    owners.retain(|_, owned| !owned.fields.is_empty());
    Ok(versions.swap_remove(0).1.map(|(_, changed)| changed).unwrap_or_default())
}

/// Applies a configuration. `live` is `None` when the object does not exist (then the result is what to create).
///
/// The result is not defaulted. It equals `live` when the apply changes nothing.
pub fn apply(live: Option<&Object>, config: &Object, by: &ManagedBy, force: bool, kind: &dyn Managed) -> Result<Object, ApplyError> {
    let schema = check(config, by, kind)?;
    let upgraded = match try_apply(live, config, by, force, kind, &schema) {
        // Client-side apply of the same tool owned these fields; what it applied may be taken over.
        Err(ApplyError::Conflicts(conflicts)) if by.manager == "kubectl" => {
            let Some(allowed) = live.and_then(|live| last_applied_fields(live, by, &schema)) else {
                return Err(ApplyError::Conflicts(conflicts));
            };
            let allowed = allowed.paths();
            let left: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.field)).collect();
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            try_apply(live, config, by, true, kind, &schema)?
        }
        result => result?,
    };
    let mut result = upgraded;
    if by.manager == "kubectl" && by.subresource.is_empty() && result.annotation(LAST_APPLIED).is_some() {
        let mut configuration = config.clone();
        configuration.remove_at(&["metadata", "annotations", LAST_APPLIED]);
        let text = Value::Object(configuration.0).to_string() + "\n";
        result.map_at_mut(&["metadata", "annotations"]).insert(LAST_APPLIED.into(), text.into());
    }
    keep_times(live, &mut result);
    Ok(result)
}

/// Lays a configuration over an object by the ownership rules of lists and maps, without owners: what a mutating
/// admission policy does. The error says what does not fit, or which place the configuration may not touch because it is
/// owned as a whole.
pub fn merge_configuration(object: &Object, config: &Object, schema: &api::Type) -> Result<Object, String> {
    let errors = validate::validate(&config.0, schema);
    if !errors.is_empty() {
        return Err(validate::joined(&errors));
    }
    let node = Node::of_type(schema);
    let wholes = validate::wholes(&config.0, node);
    if !wholes.is_empty() {
        return Err(format!("may not mutate atomic arrays, maps or structs: {}", wholes.join(", ")));
    }
    Ok(Object(combine::merge(&object.0, &config.0, node)))
}

/// Whether a configuration fits its type as it was sent, before anything is dropped from it: unknown fields are an error
/// here however strict the request is.
///
/// # Errors
/// 500 with every place that does not fit, as the real server answers.
pub fn validate_configuration(config: &Object, api_version: &str, schema: &api::Type) -> Result<(), Status> {
    let errors = validate::validate(&config.0, schema);
    if errors.is_empty() {
        return Ok(());
    }
    let (namespace, name, kind) = (config.namespace(), config.name(), config.kind());
    let what = format!("failed to create typed patch object ({namespace}/{name}; {api_version}, Kind={kind})");
    Err(Status::new(Reason::Unknown, format!("{what}: {}", validate::joined(&errors))))
}

fn check(config: &Object, by: &ManagedBy, kind: &dyn Managed) -> Result<TypeRef, ApplyError> {
    let refused = |status: Status| ApplyError::Refused(Box::new(status));
    if config.api_version() != by.api_version {
        return Err(refused(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            config.api_version(),
            by.api_version
        ))));
    }
    if config.metadata().is_some_and(|metadata| metadata.get("managedFields").is_some_and(|fields| !fields.is_null())) {
        return Err(refused(Status::bad_request("metadata.managedFields must be nil")));
    }
    let Some(schema) = kind.schema(by.api_version) else {
        return Err(refused(Status::bad_request(format!("{} is not served", by.api_version))));
    };
    validate_configuration(config, by.api_version, &schema).map_err(refused)?;
    Ok(schema)
}

fn try_apply(
    live: Option<&Object>,
    config: &Object,
    by: &ManagedBy,
    force: bool,
    kind: &dyn Managed,
    schema: &TypeRef,
) -> Result<Object, ApplyError> {
    let node = Node::of_type(schema);
    let old = live.map_or_else(|| empty_object(kind, by.api_version), without_owners);
    let mut owners = match live {
        Some(live) => entries::read(live).unwrap_or_default(),
        None => Owners::new(),
    };
    if live.is_some() && owners.is_empty() {
        let before = Owner::named(Operation::Update, BEFORE_FIRST_APPLY, by.api_version, by.subresource);
        record_update(&empty_object(kind, by.api_version), &old, &mut owners, &before, by, kind);
    }
    let merged = Object(combine::merge(&old.0, &config.0, node));
    let me = Owner::new(Operation::Apply, by);
    let last = owners.get(&me).cloned();
    let fields = field_set(&config.0, node).without_below(&reset_fields(kind, by.subresource));
    let time = last.as_ref().and_then(|last| last.time.clone());
    // A heartbeat applies the same fields again and again: then there is nothing to take out.
    let dropped = last.as_ref().filter(|last| last.api_version != by.api_version || !last.fields.difference(&fields).is_empty());
    owners.insert(me.clone(), Owned { api_version: by.api_version.into(), time, fields });
    let mut result = match dropped {
        Some(last) if !last.fields.is_empty() => prune(merged, &owners, last, by, kind).unwrap_or_else(|merged| *merged),
        _ => merged,
    };
    settle(&old, &result, &mut owners, Some(&me), by, kind, force).map_err(ApplyError::Conflicts)?;
    if let Some(owned) = owners.get_mut(&me) {
        owned.fields = owned.fields.difference(unowned());
        // The time is that of the last apply that changed the object; whoever changed nothing yet has none.
        if result.0 != old.0 {
            owned.time = Some(by.time.to_owned());
        }
    }
    owners.retain(|_, owned| !owned.fields.is_empty());
    entries::cap(&mut owners);
    entries::write(&mut result, &owners);
    Ok(result)
}

/// Takes out what the applier applied last time, does not apply now, and nobody else owns. The merged object comes back as
/// the error when a version on the way is not served any more.
fn prune(merged: Object, owners: &Owners, last: &Owned, by: &ManagedBy, kind: &dyn Managed) -> Result<Object, Box<Object>> {
    let in_version = |object: &Object, version: &str, from: &str| -> Option<Object> {
        if version == from { Some(object.clone()) } else { kind.convert(object, version) }
    };
    let version = last.api_version.as_str();
    let (Some(mut base), Some(schema)) = (in_version(&merged, version, by.api_version), kind.schema(version)) else {
        return Err(Box::new(merged));
    };
    let node = Node::of_type(&schema);
    let last_fields = with_named_fields(&last.fields, node);
    let mut pruned = Object(combine::remove(&base.0, &last_fields, node));
    // The version of the last apply comes first: conversion may need fields that others own in it.
    let mut versions: Vec<&str> = owners.values().map(|owned| owned.api_version.as_str()).collect();
    versions.sort_by_key(|other| (*other != version, *other));
    versions.dedup();
    let mut current = version;
    for other in versions {
        let (Some(base_there), Some(pruned_there), Some(schema)) =
            (in_version(&base, other, current), in_version(&pruned, other, current), kind.schema(other))
        else {
            continue;
        };
        let node = Node::of_type(&schema);
        let owned =
            owners.values().filter(|owned| owned.api_version == other).fold(FieldSet::default(), |all, owned| all.union(&owned.fields));
        let keep = with_named_fields(&field_set(&pruned_there.0, node), node).union(&with_named_fields(&owned, node));
        let gone = with_named_fields(&field_set(&base_there.0, node), node).difference(&keep);
        pruned = Object(combine::remove(&base_there.0, &gone, node));
        base = base_there;
        current = other;
    }
    // What was not applied last time is not taken out.
    let (Some(base), Some(pruned)) = (in_version(&base, version, current), in_version(&pruned, version, current)) else {
        return Err(Box::new(merged));
    };
    let all = with_named_fields(&field_set(&base.0, node), node);
    let kept = with_named_fields(&field_set(&pruned.0, node), node);
    let result = Object(combine::remove(&base.0, &all.difference(&kept).intersection(&last_fields), node));
    in_version(&result, by.api_version, version).ok_or_else(|| Box::new(merged))
}

/// Fields that client-side apply set last and that still have the value it gave them.
fn last_applied_fields(live: &Object, by: &ManagedBy, schema: &TypeRef) -> Option<FieldSet> {
    let text = live.annotation(LAST_APPLIED).filter(|text| !text.is_empty())?;
    let last = Object::from_value(serde_json::from_str(text).ok()?)?;
    if last.api_version() != by.api_version {
        return None;
    }
    let node = Node::of_type(schema);
    let compare = Comparison::new(&last.0, &live.0, node);
    Some(field_set(&last.0, node).difference(&compare.modified).difference(&compare.added).difference(&compare.removed))
}

/// An object without its managed fields.
fn without_owners(live: &Object) -> Object {
    let fields = live.0.iter().map(|(name, value)| match value {
        Value::Object(metadata) if name == "metadata" => {
            let rest = metadata.iter().filter(|(field, _)| *field != "managedFields");
            (name.clone(), Value::Object(rest.map(|(field, value)| (field.clone(), value.clone())).collect()))
        }
        value => (name.clone(), value.clone()),
    });
    Object(fields.collect())
}

/// An object of the kind before anybody set anything.
fn empty_object(kind: &dyn Managed, api_version: &str) -> Object {
    match kind.schema(api_version) {
        Some(schema) if schema.structural.is_none() => Object(schema.zero()),
        _ => Object(Map::new()),
    }
}

fn reset_fields(kind: &dyn Managed, subresource: &str) -> FieldSet {
    kind.reset(subresource).iter().fold(FieldSet::default(), |all, path| all.union(&FieldSet::of_names(path)))
}

fn unowned() -> &'static FieldSet {
    static FIELDS: OnceLock<FieldSet> = OnceLock::new();
    FIELDS.get_or_init(|| UNOWNED.iter().fold(FieldSet::default(), |all, path| all.union(&FieldSet::of_names(path))))
}

/// Gives `new` the live managed fields when the objects differ in nothing but their times.
fn keep_times(live: Option<&Object>, new: &mut Object) {
    let Some(live) = live else { return };
    if same_but(&live.0, &new.0, &["metadata"])
        && let (Some(old), Some(changed)) = (live.metadata(), new.metadata())
        && (changed.get("resourceVersion").is_none_or(|version| version == "")
            || old.get("resourceVersion") == changed.get("resourceVersion"))
        && same_but(old, changed, &["managedFields", "resourceVersion"])
        && same_owners(live, new)
        && let Some(fields) = old.get("managedFields")
    {
        new.set_meta("managedFields", fields.clone());
    }
}

/// Whether two maps are equal in all but some fields.
fn same_but(left: &Map<String, Value>, right: &Map<String, Value>, but: &[&str]) -> bool {
    let rest = |map: &Map<String, Value>| map.len() - but.iter().filter(|name| map.contains_key(**name)).count();
    rest(left) == rest(right)
        && left.iter().filter(|(name, _)| !but.contains(&name.as_str())).all(|(name, value)| right.get(name) == Some(value))
}

/// Whether two objects have the same owners with the same fields.
fn same_owners(left: &Object, right: &Object) -> bool {
    let entries = |object: &Object| -> usize {
        object.metadata().and_then(|metadata| metadata.get("managedFields")).and_then(Value::as_array).map_or(0, Vec::len)
    };
    if entries(left) != entries(right) {
        return false;
    }
    match (entries::read(left), entries::read(right)) {
        (Some(left), Some(right)) => {
            left.len() == right.len()
                && left.iter().zip(&right).all(|((owner, owned), (other, other_owned))| {
                    owner == other && owned.fields == other_owned.fields && owned.api_version == other_owned.api_version
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
