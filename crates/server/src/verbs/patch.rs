//! Changes an object by a patch of one of the four sorts.

use std::sync::Arc;

use api::{Object, Reason, Status};
use bytes::Bytes;
use codec::Strictness;
use http::StatusCode;
use serde_json::{Map, Value};

use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit::Written;
use crate::steps::options::WriteOptions;
use crate::steps::update::{Changed, guaranteed_update};
use crate::steps::{decode, encode};
use crate::verbs::apply_yaml::duplicate_keys;
use crate::verbs::create;
use crate::write::Write;

/// Largest number of operations in a JSON patch.
const MAX_OPERATIONS: usize = 10_000;

/// Sorts of patches by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Strategic merge.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Sort {
    /// Reads a content type.
    ///
    /// # Errors
    /// 415.
    pub fn of(content_type: &str, custom: bool) -> Result<Sort, Status> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Ok(Sort::Json),
            "application/merge-patch+json" => Ok(Sort::Merge),
            "application/strategic-merge-patch+json" if !custom => Ok(Sort::Strategic),
            "application/apply-patch+yaml" => Ok(Sort::Apply),
            _ => {
                if !custom {
                    let mut status = Status::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
                    status.details = serde_json::json!({});
                    return Err(status);
                }
                Err(Status::new(
                    Reason::UnsupportedMediaType,
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ))
            }
        }
    }
}

/// Answers with the new version.
///
/// # Errors
/// What a step refuses with.
pub async fn patch(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let sort = Sort::of(request.header("content-type"), request.served.custom.is_some())?;
    if sort == Sort::Apply && request.query.text("fieldManager").is_empty() {
        let mut causes = api::Causes::default();
        causes.required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &causes));
    }
    if sort != Sort::Apply && request.query.get("force").is_some() {
        let mut causes = api::Causes::default();
        causes.forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &causes));
    }
    let body = request.take_body().collect().await?;
    let write = Write::new(server, &request, "PatchOptions")?;
    let (code, written) = match sort {
        Sort::Apply => write.told(apply(server, &request, &write, &body).await)?,
        _ => (StatusCode::OK, write.told(change(&write, &request.allowed.attributes().name, sort, &body).await)?),
    };
    encode::written(&request, code, &written, write.take_warnings())
}

async fn change(write: &Write<'_>, name: &str, sort: Sort, body: &Bytes) -> Result<Written, Status> {
    let document = document(body, sort)?;
    guaranteed_update(write, name, |old| {
        let value = patched(sort, old, &document, write.served.schema())?;
        Ok(Changed::whole(checked(write, value, old, (sort == Sort::Strategic).then_some(&document))?))
    })
    .await
}

fn document(body: &Bytes, sort: Sort) -> Result<Value, Status> {
    let document = codec::json::parse(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if sort == Sort::Json && document.as_array().is_some_and(|list| list.len() > MAX_OPERATIONS) {
        let got = document.as_array().map_or(0, Vec::len);
        return Err(patch::PatchError::TooManyOperations { limit: MAX_OPERATIONS, got }.status());
    }
    if sort != Sort::Json && !document.is_object() {
        let found = if document.is_array() {
            "array"
        } else if document.is_string() {
            "string"
        } else {
            "number"
        };
        let why = format!("error decoding patch: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(Status::bad_request(why));
    }
    Ok(document)
}

/// The document after a patch.
///
/// # Errors
/// 400 and 422 for patches that do not fit.
pub fn patched(sort: Sort, old: &Object, document: &Value, schema: &api::Type) -> Result<Value, Status> {
    let mut value = Value::Object(old.0.clone());
    match sort {
        Sort::Json => patch::json_patch::apply(&value, document).map_err(|error| error.status()),
        Sort::Merge => {
            patch::merge_patch::apply(&mut value, document);
            Ok(value)
        }
        Sort::Strategic => patch::strategic::apply(&value, document, schema).map_err(|error| error.status()),
        Sort::Apply => Err(Status::internal("apply patches have a way of their own")),
    }
}

/// A patched document must still be an object of its kind. A strategic patch is shown in the failure instead of what came of it.
fn checked(write: &Write<'_>, value: Value, old: &Object, shown: Option<&Value>) -> Result<Object, Status> {
    let served = write.served;
    let text = shown.map_or_else(|| value.to_string(), patch::go_text);
    let refused = |why: &str| {
        let mut causes = api::Causes::default();
        causes.invalid("patch", &Value::from(text.as_str()), why);
        Status::invalid("", "", "", &causes)
    };
    let (api_version, kind) = (value["apiVersion"].as_str().unwrap_or(""), value["kind"].as_str().unwrap_or(""));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let own = api_version == old.api_version() && kind == old.kind();
    if served.custom.is_none() && !own && api::schema::builtin_kind(group, version, kind).is_none() {
        return Err(refused(&decode::no_such_kind(api_version, kind)));
    }
    let (unchanged, changed) = split(value, old, served.custom.is_none());
    let decoded = codec::json::decode_value(changed, served.schema(), write.options.strictness).map_err(|error| {
        let why = error.to_string();
        refused(&if shown.is_some() { unstructured(&why) } else { why })
    })?;
    write.warn_all(decoded.problems);
    let mut object = joined(unchanged, decoded.object);
    if !object.name().is_empty() && object.name() != old.name() {
        return Err(name_differs(object.name(), old.name()));
    }
    if object.kind() != old.kind() || object.api_version() != old.api_version() {
        object.set_kind(old.api_version(), old.kind());
    }
    decode::keep_reset(&mut object);
    if served.custom.is_none() {
        codec::normalize(&mut object, served.schema());
    }
    Ok(object)
}

fn name_differs(own: &str, name: &str) -> Status {
    Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})"))
}

/// What the reader of strategic patches says of a value of the wrong type, which it reads without JSON.
fn unstructured(why: &str) -> String {
    let Some((found, place)) = why.strip_prefix("json: cannot unmarshal ").and_then(|rest| rest.split_once(' ')) else {
        return why.to_owned();
    };
    let Some((_, wanted)) = place.rsplit_once(" of type ") else { return why.to_owned() };
    let found = match found {
        "object" => "map",
        "array" => "slice",
        "number" => "int64",
        other => other,
    };
    match wanted {
        list if list.starts_with("[]") => format!("cannot restore slice from {found}"),
        map if map.starts_with("map[") => format!("cannot restore map from {found}"),
        named if named.contains('.') => format!("cannot restore struct from: {found}"),
        scalar => format!("unrecognized type: {scalar}"),
    }
}

/// What a patch left as it was stored, and what has to be read again: the parts of the first two levels that differ.
fn split(value: Value, old: &Object, builtin: bool) -> (Map<String, Value>, Value) {
    let mut unchanged = Map::new();
    let Value::Object(whole) = value else { return (unchanged, value) };
    if !builtin {
        return (unchanged, Value::Object(whole));
    }
    let mut changed = Map::new();
    for (name, value) in whole {
        match (value, old.0.get(&name)) {
            (value, Some(before)) if value == *before => {
                unchanged.insert(name, value);
            }
            (Value::Object(inner), Some(Value::Object(before))) if name == "metadata" => {
                let (same, differs) = inner.into_iter().partition(|(field, value)| before.get(field) == Some(value));
                unchanged.insert(name.clone(), Value::Object(same));
                changed.insert(name, Value::Object(differs));
            }
            (value, _) => {
                changed.insert(name, value);
            }
        }
    }
    (unchanged, Value::Object(changed))
}

/// The parts together again.
fn joined(unchanged: Map<String, Value>, mut decoded: Object) -> Object {
    for (name, value) in unchanged {
        match (decoded.0.get_mut(&name), value) {
            (Some(Value::Object(read)), Value::Object(kept)) => read.extend(kept),
            (_, value) => {
                decoded.0.insert(name, value);
            }
        }
    }
    decoded
}

async fn apply(server: &Arc<Server>, request: &Request, write: &Write<'_>, body: &Bytes) -> Result<(StatusCode, Written), Status> {
    let name = &request.allowed.attributes().name;
    let config = configuration(write, body, name)?;
    let merge = |live: Option<&Object>| {
        patch::managed::apply(live, &config, &write.managed_by(), write.options.force, &write.kind()).map_err(|error| error.status())
    };
    let result = guaranteed_update(write, name, |old| Ok(Changed::applied(merge(Some(old))?))).await;
    match result {
        Err(status) if status.is_not_found() && write.subresource().is_empty() => {
            if !config.uid().is_empty() {
                let why = format!("uid mismatch: the provided object specified uid {}, and no existing object was found", config.uid());
                return Err(Status::conflict(&request.served.def.group, &request.served.def.plural, name, &why));
            }
            let allowed = request.allowed.also_create(server)?;
            let options = WriteOptions::read(request, "PatchOptions")?;
            let create = Write::with_options(server, &allowed, &request.served, options);
            let object = merge(None)?;
            match create::run_applied(&create, object).await {
                Err(status) if status.is_already_exists() => {
                    let again = guaranteed_update(write, name, |old| Ok(Changed::applied(merge(Some(old))?))).await?;
                    Ok((StatusCode::OK, again))
                }
                other => {
                    write.warn_all(create.take_warnings());
                    Ok((StatusCode::CREATED, other?))
                }
            }
        }
        other => Ok((StatusCode::OK, other?)),
    }
}

/// The applied configuration: YAML (or JSON) of the kind, with its name.
fn configuration(write: &Write<'_>, body: &Bytes, name: &str) -> Result<Object, Status> {
    let served = write.served;
    let decoded = match plain_json(write, body) {
        Some(decoded) => decoded,
        None => {
            let value = codec::yaml::parse(body).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
            strict_yaml(write, body)?;
            let raw = as_object(&value)?;
            codec::json::decode_value(value, served.schema(), Strictness::Warn).map_err(|error| {
                let api_version = format!("{}/{}", served.def.group, served.def.version);
                let fits = patch::managed::validate_configuration(&raw, &api_version, served.schema());
                fits.err().unwrap_or_else(|| error.status(&served.def.version, &served.def.kind))
            })?
        }
    };
    declared(write, &decoded.problems, &decoded.object, name)?;
    let mut object = decoded.object;
    if object.api_version() != served.api_version || object.kind() != &*served.def.kind {
        let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
        let found = format!("invalid object type: {group}/{version}, Kind={}", object.kind());
        return Err(Status::bad_request(found));
    }
    match object.name() {
        "" => object.set_meta("name", name.to_owned()),
        own if own != name => return Err(name_differs(own, name)),
        _ => {}
    }
    // One without a namespace is put into that of the path later; messages name it as it was sent.
    if served.def.namespaced() && !object.namespace().is_empty() && object.namespace() != write.namespace() {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(object)
}

/// A configuration has fields.
fn as_object(value: &Value) -> Result<Object, Status> {
    let found = match value {
        Value::Object(map) => return Ok(Object(map.clone())),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => return Ok(Object::default()),
    };
    let why = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
    Err(Status::bad_request(format!("error decoding YAML: error unmarshaling JSON: while decoding JSON: {why}")))
}

/// Programs apply JSON, which is YAML too and read much faster. What has faults goes the way of YAML for its messages.
fn plain_json(write: &Write<'_>, body: &Bytes) -> Option<codec::Decoded> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let decoded = codec::json::decode(body, write.served.schema(), Strictness::Warn).ok()?;
    let twice = decoded.problems.iter().any(|problem| problem.starts_with("duplicate field"));
    (!twice).then_some(decoded)
}

/// Keys that come twice are refused or told of, as the caller wants it.
fn strict_yaml(write: &Write<'_>, body: &Bytes) -> Result<(), Status> {
    if write.options.strictness == Strictness::Ignore {
        return Ok(());
    }
    let twice = std::str::from_utf8(body).map(duplicate_keys).unwrap_or_default();
    if twice.is_empty() {
        return Ok(());
    }
    let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", twice.join("\n  "));
    if write.options.strictness == Strictness::Strict {
        return Err(Status::bad_request(format!("error strict decoding YAML: {text}")));
    }
    write.warn(text);
    Ok(())
}

/// Nobody can own a field that the schema does not know, so an apply is strict about them always.
fn declared(write: &Write<'_>, problems: &[String], object: &Object, name: &str) -> Result<(), Status> {
    let field = |problem: &String| {
        let path = problem.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned();
        Some(format!(".{path}: field not declared in schema"))
    };
    let unknown: Vec<String> = problems.iter().filter_map(field).collect();
    let texts = match unknown.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let def = &write.served.def;
    let (place, kind) = (object.namespace(), format!("{}/{}, Kind={}", def.group, def.version, def.kind));
    Err(crate::failure::unexplained(format!("failed to create typed patch object ({place}/{name}; {kind}): {texts}")))
}
