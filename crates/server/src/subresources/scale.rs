//! `scale` of workloads and custom resources: one number, read and written through `autoscaling/v1` Scale.

use std::sync::Arc;

use api::label_selector::LabelSelector;
use api::{Causes, Object, Reason, Status};
use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Subresource, admit, decoded, reply_with};
use crate::admission::Operation;
use crate::attributes::Verb;
use crate::catalog::Served;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit::{self, Written};
use crate::steps::convert;
use crate::steps::encode;
use crate::steps::update::{Changed, MODIFIED, guaranteed_update};
use crate::verbs::patch::{Sort, patched};
use crate::write::Write;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(Scale)
}

struct Scale;

#[async_trait]
impl Subresource for Scale {
    fn serves(&self, _group: &str, _plural: &str, subresource: &str) -> bool {
        subresource == "scale"
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        let name = request.allowed.attributes().name.clone();
        let key = commit::key(&request.served, &request.allowed.attributes().namespace, &name);
        let entry = server.store.mvcc().get(&key).value.ok_or_else(|| request.served.not_found(&name))?;
        let current = scale_of(&request.served, &convert::read(&request.served, &entry)?);
        if request.allowed.verb() == Verb::Get {
            if current.at(&["spec", "replicas"]).is_none()
                && let Some(custom) = &request.served.custom
            {
                let path: String = custom.scale.iter().flat_map(|scale| &scale.spec).map(|field| format!(".{field}")).collect();
                return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
            }
            return answer(&request, &current);
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "UpdateOptions")?;
        let content_type = request.header("content-type");
        let mut wanted = if request.allowed.verb() == Verb::Update {
            decoded(&write, body, content_type).await?
        } else {
            let sort = Sort::of(content_type, false)?;
            let bytes = body.collect().await?;
            patch(&current, sort, &bytes)?
        };
        if wanted.name().is_empty() {
            wanted.set_meta("name", name.clone());
        } else if wanted.name() != name {
            let own = wanted.name();
            return Err(Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})")));
        }
        let wanted = admit(&write, Operation::Update, wanted, Some(current)).await?;
        let replicas = check(&wanted)?;
        let given = wanted.resource_version().to_owned();
        let uid = wanted.uid().to_owned();
        let patching = request.allowed.verb() == Verb::Patch;
        let applies = patching && Sort::of(content_type, false)? == Sort::Apply;
        let written = guaranteed_update(&write, &name, |old| {
            if !patching && !given.is_empty() && given != old.resource_version() {
                return Err(Status::conflict(&write.served.def.group, &write.served.def.plural, &name, MODIFIED));
            }
            if !uid.is_empty() && uid != old.uid() {
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
                return Err(Status::conflict(&write.served.def.group, &write.served.def.plural, &name, &why));
            }
            let mut new = old.clone();
            set_replicas(write.served, &mut new, replicas);
            let changes = scale_of(write.served, old).at(&["spec"]) != scale_of(write.served, &new).at(&["spec"]);
            // Nobody owns what is changed of a custom resource in this way.
            if write.served.custom.is_none() {
                own_replicas(&write, &mut new, applies, changes)?;
            }
            Ok(Changed { managed: true, ..Changed::done(new) })
        })
        .await?;
        let object = match &written {
            Written::Stored(entry) => convert::read(&request.served, entry)?,
            Written::DryRun(object) => object.clone(),
        };
        let mut reply = answer(&request, &scale_of(&request.served, &object))?;
        encode::finish(&request, &mut reply, write.take_warnings());
        Ok(reply)
    }
}

fn answer(request: &Request, scale: &Object) -> Result<Reply, Status> {
    let meta = || json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": scale.get("metadata")});
    match request.negotiated.shape {
        encode::Shape::Object => reply_with(request, StatusCode::OK, scale),
        encode::Shape::Metadata => encode::value_reply(&request.negotiated, StatusCode::OK, &meta()),
        encode::Shape::Table => {
            let column = |name: &str, kind: &str| json!({"name": name, "type": kind, "format": "", "description": "", "priority": 0});
            let number = |part: &str| scale.at(&[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0);
            let row = match encode::include(&request.query) {
                codec::table::IncludeObject::None => Value::Null,
                codec::table::IncludeObject::Object => Value::Object(scale.0.clone()),
                codec::table::IncludeObject::Metadata => meta(),
            };
            let cells = json!([scale.name(), number("spec"), number("status"), api::print::age(scale, &encode::clock())]);
            let table = json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": scale.resource_version()},
                "columnDefinitions": [column("Name", "string"), column("Desired", "integer"), column("Available", "integer"), column("Age", "string")],
                "rows": [{"cells": cells, "object": row}],
            });
            encode::value_reply(&request.negotiated, StatusCode::OK, &table)
        }
    }
}

fn patch(current: &Object, sort: Sort, bytes: &[u8]) -> Result<Object, Status> {
    let schema = api::schema::builtin("autoscaling.v1.Scale")
        .or_else(|| api::schema::builtin_kind("autoscaling", "v1", "Scale"))
        .ok_or_else(|| Status::internal("Scale has no type"))?;
    let mut value = if sort == Sort::Apply {
        let mut merged = Value::Object(current.0.clone());
        let config = codec::yaml::parse(bytes).map_err(|error| Status::bad_request(error.to_string()))?;
        patch::merge_patch::apply(&mut merged, &config);
        merged
    } else {
        let document = codec::json::parse(bytes).map_err(|error| Status::bad_request(error.to_string()))?;
        patched(sort, current, &document, &schema)?
    };
    value["kind"] = "Scale".into();
    value["apiVersion"] = "autoscaling/v1".into();
    let decoded = codec::json::decode_value(value, &schema, codec::Strictness::Ignore).map_err(|error| error.status("v1", "Scale"))?;
    Ok(decoded.object)
}

fn check(scale: &Object) -> Result<i64, Status> {
    let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas >= 0 {
        return Ok(replicas);
    }
    let mut causes = Causes::default();
    causes.invalid("spec.replicas", &Value::from(replicas), "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", scale.name(), &causes))
}

fn set_replicas(served: &Served, object: &mut Object, replicas: i64) {
    match served.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => {
            let path: Vec<&str> = paths.spec.iter().map(String::as_str).collect();
            if let Some((last, parents)) = path.split_last() {
                object.map_at_mut(parents).insert((*last).to_owned(), replicas.into());
            }
        }
        None => {
            object.map_at_mut(&["spec"]).insert("replicas".into(), replicas.into());
        }
    }
}

/// Where the number stands, as managed fields have it.
fn replicas_path(served: &Served) -> Vec<String> {
    let own = served.custom.as_ref().and_then(|custom| custom.scale.as_ref()).map(|paths| paths.spec.clone());
    own.unwrap_or_else(|| vec!["spec".into(), "replicas".into()]).into_iter().map(|step| format!("f:{step}")).collect()
}

/// Who scales owns the number. Entries of updates that hold it without this subresource give it to an entry of its own, which has no time;
/// of two entries of the same writer the later one counts.
fn own_replicas(write: &Write<'_>, object: &mut Object, applies: bool, changes: bool) -> Result<(), Status> {
    let path = replicas_path(write.served);
    let by = write.managed_by();
    let mine = [by.manager, if applies { "Apply" } else { "Update" }, "scale"].map(Value::from);
    let all = object.metadata().and_then(|meta| meta.get("managedFields")).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut entries: Vec<Value> = Vec::new();
    for entry in all {
        entries.retain(|earlier| writer(earlier) != writer(&entry));
        entries.push(entry);
    }
    let owners: Vec<[Value; 3]> = entries.iter().filter(|entry| owns(&entry["fieldsV1"], &path)).map(writer).collect();
    if applies && changes && !write.options.force {
        let others = owners.iter().filter(|owner| **owner != mine);
        let conflicts: Vec<String> = others
            .map(|[manager, _, subresource]| {
                let part = subresource.as_str().map(|part| format!(" with subresource {part:?}")).unwrap_or_default();
                format!("conflict with {:?}{part} using autoscaling/v1", manager.as_str().unwrap_or(""))
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(scale_conflict(&conflicts));
        }
    }
    let mut holders = if changes { Vec::new() } else { owners };
    if (changes || applies) && !holders.contains(&mine) {
        holders.push(mine);
    }
    for entry in entries.iter_mut().filter(|entry| owns(&entry["fieldsV1"], &path)) {
        let own = writer(entry);
        match holders.iter().position(|holder| *holder == own).filter(|_| entry["operation"] == "Apply") {
            Some(at) => drop(holders.remove(at)),
            None => disown(&mut entry["fieldsV1"], &path),
        }
    }
    entries.retain(|entry| entry["fieldsV1"].as_object().is_some_and(|fields| !fields.is_empty()));
    for [manager, operation, subresource] in holders {
        let fields = path.iter().rev().fold(json!({}), |inner, step| json!({ step.as_str(): inner }));
        let mut entry = json!({
            "manager": manager, "operation": operation, "apiVersion": write.served.api_version, "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        if !subresource.is_null() {
            entry["subresource"] = subresource;
        }
        entries.push(entry);
    }
    entries.sort_by_key(|entry| (entry["operation"] != "Apply", !entry["time"].is_null()));
    object.set_meta("managedFields", entries);
    Ok(())
}

/// Whose entry it is: manager, operation and subresource.
fn writer(entry: &Value) -> [Value; 3] {
    ["manager", "operation", "subresource"].map(|part| entry[part].clone())
}

fn owns(fields: &Value, path: &[String]) -> bool {
    path.iter().try_fold(fields, |at, step| at.get(step)).is_some()
}

/// Takes a field out of a set, and what is empty without it.
fn disown(fields: &mut Value, path: &[String]) {
    let (Some(map), Some((first, rest))) = (fields.as_object_mut(), path.split_first()) else { return };
    if let Some(inner) = map.get_mut(first) {
        disown(inner, rest);
        if inner.as_object().is_none_or(Map::is_empty) {
            map.remove(first);
        }
    }
}

fn scale_conflict(conflicts: &[String]) -> Status {
    let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let texts: Vec<String> = conflicts.iter().map(|one| format!("{one}: .spec.replicas")).collect();
    let mut status = Status::new(Reason::Conflict, format!("Apply failed with {} {plural}: {}", conflicts.len(), texts.join(", ")));
    let causes = conflicts.iter().map(|one| json!({"reason": "FieldManagerConflict", "message": one, "field": ".spec.replicas"}));
    status.details = json!({"causes": causes.collect::<Vec<Value>>()});
    status
}

/// The scale of an object.
fn scale_of(served: &Served, object: &Object) -> Object {
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let (spec, status, selector) = match served.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => {
            let text = |path: &[String]| path.to_vec();
            let at = |path: &[String]| {
                let path = text(path);
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                object.at(&path).cloned()
            };
            let selector = paths.selector.as_ref().and_then(|path| at(path)).and_then(|value| value.as_str().map(str::to_owned));
            (
                at(&paths.spec).and_then(|value| value.as_i64()).unwrap_or(0),
                at(&paths.status).and_then(|value| value.as_i64()).unwrap_or(0),
                selector,
            )
        }
        None => (number(&["spec", "replicas"]), number(&["status", "replicas"]), Some(selector_text(object))),
    };
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.metadata().and_then(|meta| meta.get(field)) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut spec_part = Map::new();
    if spec != 0 {
        spec_part.insert("replicas".into(), spec.into());
    }
    let mut status_part = json!({"replicas": status});
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status_part["selector"] = selector.into();
    }
    let value = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec_part, "status": status_part,
    });
    Object::from_value(value).expect("a literal object")
}

/// The selector of a workload as text.
fn selector_text(object: &Object) -> String {
    let selector = object.at(&["spec", "selector"]).cloned().unwrap_or_default();
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let parsed = if plain {
        let labels = selector.as_object().into_iter().flatten();
        LabelSelector::from_map(labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))))
    } else {
        LabelSelector::from_value(&selector).unwrap_or_default()
    };
    parsed.requirements.iter().map(requirement_text).collect::<Vec<_>>().join(",")
}

fn requirement_text(requirement: &api::label_selector::Requirement) -> String {
    use api::label_selector::Operator;
    let key = &requirement.key;
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
        Operator::In(values) => format!("{key} in ({})", sorted(values)),
        Operator::NotIn(values) => format!("{key} notin ({})", sorted(values)),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
        Operator::Greater(bound) => format!("{key}>{bound}"),
        Operator::Less(bound) => format!("{key}<{bound}"),
    }
}

fn sorted(values: &[String]) -> String {
    let mut values = values.to_vec();
    values.sort();
    values.join(",")
}
