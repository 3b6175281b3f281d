//! `Table`: the server-side columns that kubectl prints.
//!
//! Cells of built-in kinds come from the kind's own file, cells of custom resources from JSON paths.

mod json_path;

use api::kinds::{self, Clock};
use api::resources::Column;
use api::{Object, ResourceDef, print};
use serde_json::{Map, Value, json};

use crate::ListHead;

pub use json_path::JsonPath;

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

/// A table of objects of one resource. The head gives the metadata of the table; its kind and version are not used.
pub fn table<'a>(
    resource: &ResourceDef,
    head: &ListHead,
    objects: impl IntoIterator<Item = &'a Object>,
    include: IncludeObject,
    clock: &Clock,
) -> Value {
    let generic = [generic_column("Name", "name"), generic_column("Created At", "")];
    let columns = if resource.columns.is_empty() { &generic[..] } else { &resource.columns };
    let paths: Vec<Option<JsonPath>> = columns.iter().map(|column| JsonPath::parse(&column.json_path)).collect();
    let kind = kinds::find(&resource.group, &resource.kind);
    let definitions: Vec<Value> = columns.iter().map(definition).collect();
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells = match kind.columns.filter(|_| !resource.custom && !resource.columns.is_empty()) {
                Some(cells) => cells(object, clock),
                None => columns.iter().zip(&paths).map(|(column, path)| cell(column, path.as_ref(), object, clock)).collect(),
            };
            row(object, cells, include)
        })
        .collect();
    // Without a printer of its own a kind has no list to begin with.
    let rows = if rows.is_empty() && resource.columns.is_empty() { Value::Null } else { rows.into() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": head.metadata(), "columnDefinitions": definitions, "rows": rows})
}

fn generic_column(name: &str, format: &str) -> Column {
    let kind = if format.is_empty() { "date" } else { "string" };
    Column { name: name.into(), kind: kind.into(), format: format.into(), priority: 0, json_path: "".into(), description: "".into() }
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.kind, "format": column.format, "priority": column.priority, "description": column.description,
    })
}

fn row(object: &Object, cells: Vec<Value>, include: IncludeObject) -> Value {
    let mut row = Map::new();
    row.insert("cells".into(), cells.into());
    let phase = object.text_at(&["status", "phase"]);
    if object.kind() == "Pod" && object.api_version() == "v1" && matches!(phase, "Succeeded" | "Failed") {
        let message = if phase == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." };
        row.insert("conditions".into(), json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]));
    }
    let included = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or(json!({}))})
        }
        IncludeObject::Object => Value::Object(object.0.clone()),
    };
    row.insert("object".into(), included);
    Value::Object(row)
}

fn cell(column: &Column, path: Option<&JsonPath>, object: &Object, clock: &Clock) -> Value {
    let Some(path) = path else {
        return match &*column.name {
            "Name" => object.name().into(),
            "Created At" => object.text_at(&["metadata", "creationTimestamp"]).into(),
            "Age" => print::age(object, clock),
            _ => "<none>".into(),
        };
    };
    let Some(value) = path.first(&object.0) else { return Value::Null };
    match (&*column.kind, value) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|double| double as i64)).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) if text.is_empty() => "<unknown>".into(),
        ("date", Value::String(text)) => match api::time::parse(text) {
            Some(instant) => print::human_duration(clock.now - instant.seconds).into(),
            None => "<invalid>".into(),
        },
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", value) => value.to_string().into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_columns() {
        let mut def = (**api::resources::find("", "v1", "configmaps").expect("config maps are served")).clone();
        def.custom = true;
        let column = |name: &str, kind: &str, path: &str| Column { kind: kind.into(), json_path: path.into(), ..generic_column(name, "") };
        def.columns = vec![
            generic_column("Name", "name"),
            column("Size", "integer", ".spec.size"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            column("Born", "date", ".metadata.creationTimestamp"),
            column("Tags", "string", ".spec.tags"),
            column("None", "string", ".spec.none"),
        ];
        let object = Object::from_value(json!({
            "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"size": 3, "tags": ["a"]},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
        }))
        .expect("an object");
        let clock = Clock { now: api::time::parse("2026-01-01T00:05:00Z").expect("a time").seconds };
        let table = table(&def, &ListHead { resource_version: "7", ..ListHead::default() }, [&object], IncludeObject::None, &clock);
        assert_eq!(table["rows"][0]["cells"], json!(["x", 3, "True", "5m", "[\"a\"]", null]));
        assert_eq!(table["metadata"], json!({"resourceVersion": "7"}));
    }
}
