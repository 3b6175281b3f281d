//! `metadata.managedFields`: owners with what they own, read from an object and written back in a fixed order.

use std::collections::BTreeMap;

use api::Object;
use serde_json::{Map, Value, json};

use super::field_set::FieldSet;
use super::{ManagedBy, Operation};

/// Most owners with operation Update; the oldest are merged into one beyond that.
const MAX_UPDATERS: usize = 10;
/// Name of the owner that stands for merged ones.
const ANCIENT: &str = "ancient-changes";

/// Who owns. An applier is the same in all versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) operation: Operation,
    pub(super) manager: String,
    pub(super) subresource: String,
    /// Empty for appliers.
    version: String,
}

/// What an owner owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

/// All owners.
pub(super) type Owners = BTreeMap<Owner, Owned>;

impl Owner {
    pub(super) fn new(operation: Operation, by: &ManagedBy) -> Owner {
        let manager = if by.manager.is_empty() { "unknown" } else { by.manager };
        Owner::named(operation, manager, by.api_version, by.subresource)
    }

    pub(super) fn named(operation: Operation, manager: &str, api_version: &str, subresource: &str) -> Owner {
        let version = if operation == Operation::Apply { "" } else { api_version };
        Owner { operation, manager: manager.into(), subresource: subresource.into(), version: version.into() }
    }

    /// As conflicts name it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

/// The owners in an object's metadata; `None` when an entry cannot be understood.
pub(super) fn read(object: &Object) -> Option<Owners> {
    let mut owners = Owners::new();
    let entries = object.metadata().and_then(|metadata| metadata.get("managedFields")).and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or("");
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || !matches!(text("fieldsType"), "FieldsV1" | "") {
            return None;
        }
        let owner = Owner::named(operation, text("manager"), text("apiVersion"), text("subresource"));
        let owned = Owned {
            api_version: text("apiVersion").into(),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::from_value(entry.get("fieldsV1").unwrap_or(&Value::Null)),
        };
        owners.insert(owner, owned);
    }
    Some(owners)
}

/// Whether the client asks to forget all owners: a list of one empty entry.
pub(super) fn is_reset(object: &Object) -> bool {
    let entries = object.metadata().and_then(|metadata| metadata.get("managedFields")).and_then(Value::as_array);
    matches!(entries.map(Vec::as_slice), Some([Value::Object(entry)]) if entry.values().all(|value| matches!(value, Value::Null) || value == ""))
}

/// Writes the owners into an object's metadata: appliers first, then by time.
pub(super) fn write(object: &mut Object, owners: &Owners) {
    let mut list: Vec<(&Owner, &Owned)> = owners.iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
    list.sort_by_key(|(owner, owned)| (owner.operation, &owned.time, &owner.manager, &owned.api_version, &owner.subresource));
    if list.is_empty() {
        object.metadata_mut().remove("managedFields");
        return;
    }
    let list: Vec<Value> = list.into_iter().map(|(owner, owned)| entry(owner, owned)).collect();
    object.set_meta("managedFields", list);
}

fn entry(owner: &Owner, owned: &Owned) -> Value {
    let operation = match owner.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut entry = Map::new();
    for (field, text) in [("manager", &owner.manager), ("apiVersion", &owned.api_version), ("subresource", &owner.subresource)] {
        if !text.is_empty() {
            entry.insert(field.into(), text.as_str().into());
        }
    }
    entry.insert("operation".into(), operation.into());
    if let Some(time) = &owned.time {
        entry.insert("time".into(), time.as_str().into());
    }
    entry.insert("fieldsType".into(), json!("FieldsV1"));
    entry.insert("fieldsV1".into(), owned.fields.to_value());
    Value::Object(entry)
}

/// Merges the oldest updaters of each version into one when there are too many.
pub(super) fn cap(owners: &mut Owners) {
    let mut updaters: Vec<(Option<String>, Owner)> = owners
        .iter()
        .filter(|(owner, _)| owner.operation == Operation::Update)
        .map(|(owner, owned)| (owned.time.clone(), owner.clone()))
        .collect();
    if updaters.len() <= MAX_UPDATERS {
        return;
    }
    updaters.sort();
    // The merged owners take a place each, one for every version that has something to merge.
    let mut left = updaters.len();
    for (_, owner) in updaters {
        if left <= MAX_UPDATERS {
            return;
        }
        if owner.manager == ANCIENT {
            continue;
        }
        let Some(owned) = owners.remove(&owner) else { continue };
        let ancient = Owner::named(Operation::Update, ANCIENT, &owned.api_version, "");
        match owners.get_mut(&ancient) {
            Some(existing) => {
                existing.fields = std::mem::take(&mut existing.fields).union(&owned.fields);
                existing.time = existing.time.take().max(owned.time);
                left -= 1;
            }
            None => {
                owners.insert(ancient, owned);
            }
        }
    }
}
