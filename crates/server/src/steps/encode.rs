//! How an answer looks: content negotiation, and one object in each of its forms.

use std::sync::Arc;

use api::kinds::Clock;
use api::{Object, Reason, Status};
use bytes::Bytes;
use codec::ListHead;
use codec::table::IncludeObject;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use store::{DerivedCache, Entry, Form as DerivedForm};

use super::commit::Written;
use super::convert;
use crate::catalog::Served;
use crate::query::Query;
use crate::request::{Reply, Request, reply, warn};

/// Encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf.
    Protobuf,
}

impl Media {
    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Which form of the objects is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As they are.
    Object,
    /// Columns.
    Table,
    /// Only metadata.
    Metadata,
}

/// The outcome of content negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Encoding.
    pub media: Media,
    /// Form.
    pub shape: Shape,
    /// JSON with line breaks.
    pub pretty: bool,
}

impl Negotiated {
    /// JSON as it is.
    pub const JSON: Negotiated = Negotiated { media: Media::Json, shape: Shape::Object, pretty: false };
}

/// What a resource can be sent as, beside JSON and YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// Protobuf.
    pub protobuf: bool,
    /// Tables and metadata: kinds that are answered and never stored have neither.
    pub shapes: bool,
    /// Streams of events: collections.
    pub streams: bool,
}

/// Reads `Accept`.
///
/// # Errors
/// 406 where nothing fits.
pub fn negotiate(accept: &str, query: &Query, agent: &str, forms: Forms) -> Result<Negotiated, Status> {
    let pretty = query.tristate("pretty").unwrap_or_else(|| ["curl", "Wget", "Mozilla/5.0"].iter().any(|one| agent.starts_with(one)));
    if accept.trim().is_empty() {
        return Ok(Negotiated { pretty, ..Negotiated::JSON });
    }
    for clause in ranked(accept) {
        let Some(media) = media_of(clause.split(';').next().unwrap_or("").trim()) else { continue };
        let shape = parameter(clause, "as").map(|kind| (kind, parameter(clause, "g"), parameter(clause, "v")));
        let shape = match shape {
            None => Shape::Object,
            Some(("Table", Some("meta.k8s.io"), Some("v1"))) if media != Media::Protobuf => Shape::Table,
            Some(("PartialObjectMetadata" | "PartialObjectMetadataList", Some("meta.k8s.io"), Some("v1"))) => Shape::Metadata,
            Some(_) => continue,
        };
        if (media == Media::Protobuf && !forms.protobuf && shape == Shape::Object) || (!forms.shapes && shape != Shape::Object) {
            continue;
        }
        return Ok(Negotiated { media, shape, pretty });
    }
    let known = |clause: &&str| media_of(clause.split(';').next().unwrap_or("").trim()).is_some();
    if forms.protobuf && !accept.split(',').any(|clause| known(&clause.trim())) {
        let all = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        let streams = if forms.streams { ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch" } else { "" };
        let mut status = Status::new(Reason::NotAcceptable, format!("406: Not Acceptable\n\nAvailable representations: {all}{streams}"));
        status.details = serde_json::json!({});
        return Err(status);
    }
    Err(Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    ))
}

/// The encoding of a failure: that of the first clause that asks for no other form of objects.
pub fn failure_media(accept: &str) -> Media {
    let plain = |clause: &&str| parameter(clause, "as").is_none();
    ranked(accept)
        .into_iter()
        .filter(plain)
        .find_map(|clause| media_of(clause.split(';').next().unwrap_or("").trim()))
        .unwrap_or(Media::Json)
}

/// 406 for an encoding that has no streams of events.
pub fn not_streamed() -> Status {
    Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
    )
}

/// Clauses by falling quality, in their order where equal.
fn ranked(accept: &str) -> Vec<&str> {
    let mut clauses: Vec<(&str, f32)> = accept
        .split(',')
        .map(|clause| (clause.trim(), parameter(clause, "q").and_then(|q| q.parse().ok()).unwrap_or(1.0)))
        .filter(|(clause, quality)| !clause.is_empty() && *quality > 0.0)
        .collect();
    clauses.sort_by(|left, right| right.1.total_cmp(&left.1));
    clauses.into_iter().map(|(clause, _)| clause).collect()
}

fn media_of(text: &str) -> Option<Media> {
    match text {
        "application/json" | "*/*" | "application/*" => Some(Media::Json),
        "application/yaml" => Some(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
        _ => None,
    }
}

fn parameter<'a>(clause: &'a str, name: &str) -> Option<&'a str> {
    clause.split(';').skip(1).find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
}

/// The answer to a write.
///
/// # Errors
/// 500 where the object cannot be encoded.
pub fn written(request: &Request, code: StatusCode, written: &Written, warnings: Vec<String>) -> Result<Reply, Status> {
    let mut answer = match written {
        Written::Stored(entry) => entry_reply(request, code, entry)?,
        Written::DryRun(object) => object_reply(request, code, object)?,
    };
    finish(request, &mut answer, warnings);
    Ok(answer)
}

/// Adds what every answer about a resource has.
pub fn finish(request: &Request, answer: &mut Reply, warnings: Vec<String>) {
    warnings.iter().for_each(|text| warn(answer, text));
    if let Some(text) = request.served.custom.as_ref().and_then(|custom| custom.deprecation.as_ref()) {
        warn(answer, text);
    }
}

/// One stored object.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn entry_reply(request: &Request, code: StatusCode, entry: &Arc<Entry>) -> Result<Reply, Status> {
    let bytes = entry_bytes(&request.served, &request.negotiated, &request.query, Some(request.server.store.derived()), entry)?;
    Ok(reply(code, request.negotiated.media.content_type(), bytes))
}

/// One object that is not stored like this.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn object_reply(request: &Request, code: StatusCode, object: &Object) -> Result<Reply, Status> {
    let bytes = object_bytes(&request.served, &request.negotiated, &request.query, object)?;
    Ok(reply(code, request.negotiated.media.content_type(), bytes))
}

/// The bytes of a stored object. Protobuf is taken from the cache of derived forms if there is one.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn entry_bytes(
    served: &Served,
    negotiated: &Negotiated,
    query: &Query,
    derived: Option<&DerivedCache>,
    entry: &Arc<Entry>,
) -> Result<Bytes, Status> {
    match (negotiated.shape, negotiated.media) {
        (Shape::Object, Media::Json) if !negotiated.pretty => convert::json(served, entry),
        (Shape::Object, Media::Protobuf) => {
            let make = |entry: &Entry| codec::protobuf::encode(&convert::read(served, entry)?, served.schema()).map_err(Status::internal);
            match derived {
                Some(cache) => cache.get_or_make(entry, DerivedForm(served.form), make),
                None => make(entry),
            }
        }
        (Shape::Metadata, Media::Json) if !negotiated.pretty => {
            Ok(Bytes::from(codec::metadata_only::object(&entry.bytes).map_err(Status::internal)?))
        }
        _ => object_bytes(served, negotiated, query, &convert::read(served, entry)?),
    }
}

/// The bytes of an object.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn object_bytes(served: &Served, negotiated: &Negotiated, query: &Query, object: &Object) -> Result<Bytes, Status> {
    let value = match negotiated.shape {
        Shape::Object if negotiated.media == Media::Protobuf => {
            return codec::protobuf::encode(object, served.schema()).map_err(Status::internal);
        }
        Shape::Object => Value::Object(object.0.clone()),
        Shape::Metadata => metadata_only(object),
        Shape::Table => {
            let version = object.resource_version();
            let head = ListHead { resource_version: version, ..ListHead::default() };
            codec::table::table(&served.def, &head, [object], include(query), &clock())
        }
    };
    value_bytes(negotiated, &value)
}

fn metadata_only(object: &Object) -> Value {
    serde_json::json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// Any value in the encoding that was negotiated. Metadata in protobuf goes through its own type.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn value_bytes(negotiated: &Negotiated, value: &Value) -> Result<Bytes, Status> {
    match negotiated.media {
        Media::Yaml => Ok(Bytes::from(codec::yaml::encode(value))),
        Media::Json if negotiated.pretty => {
            let mut bytes = serde_json::to_vec_pretty(value).map_err(Status::internal)?;
            bytes.push(b'\n');
            Ok(Bytes::from(bytes))
        }
        Media::Json => Ok(Bytes::from(crate::failure::line(value))),
        Media::Protobuf => {
            let object = Object::from_value(value.clone()).ok_or_else(|| Status::internal("no object"))?;
            let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
            let schema = api::schema::builtin_kind(group, version, object.kind())
                .or_else(|| api::schema::builtin(&format!("apis.meta.v1.{}", object.kind())))
                .ok_or_else(|| Status::internal(format!("{} has no protobuf form", object.kind())))?;
            codec::protobuf::encode(&object, &schema).map_err(Status::internal)
        }
    }
}

/// `includeObject` of a table.
pub fn include(query: &Query) -> IncludeObject {
    match query.text("includeObject") {
        "None" => IncludeObject::None,
        "Object" => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    }
}

/// `includeObject` has to be one of three words.
///
/// # Errors
/// 400.
pub fn check_include(query: &Query) -> Result<(), Status> {
    let word = query.text("includeObject");
    if matches!(word, "" | "Metadata" | "Object" | "None") {
        return Ok(());
    }
    let why = format!("includeObject: Invalid value: {word:?}: must be 'Metadata', 'Object', 'None', or empty");
    Err(Status::bad_request(format!("Unable to convert to Table as requested: {why}")))
}

/// The time for ages.
pub fn clock() -> Clock {
    Clock { now: jiff::Timestamp::now().as_second() }
}

/// An answer that is a plain value, such as a successful Status.
///
/// # Errors
/// 500 where it cannot be encoded.
pub fn value_reply(negotiated: &Negotiated, code: StatusCode, value: &Value) -> Result<Reply, Status> {
    let plain = Negotiated { shape: Shape::Object, ..*negotiated };
    let bytes = value_bytes(&plain, value)?;
    let mut answer = reply(code, plain.media.content_type(), bytes);
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, custom: bool, expected: Option<(Media, Shape)>) {
        let found = negotiate(accept, &Query::default(), "", Forms { protobuf: !custom, shapes: true, streams: false })
            .ok()
            .map(|found| (found.media, found.shape));
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn accept() {
        check("", false, Some((Media::Json, Shape::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", false, Some((Media::Protobuf, Shape::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", true, Some((Media::Json, Shape::Object)));
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, false, Some((Media::Json, Shape::Table)));
        check("application/json;q=0.5,application/yaml", false, Some((Media::Yaml, Shape::Object)));
        check("text/html", false, None);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        check(metadata, true, Some((Media::Protobuf, Shape::Metadata)));
    }
}
